"""A data set of one piece in parts: disjoint, complete, stable; the worker decodes it once."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from class_images import age, noise, write_classes
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sample_cases import everything, opened, worker_files

from visiondyno.datasets.parts import part_of
from visiondyno.errors import DatasetError
from visiondyno.operations import sample_images
from visiondyno.specs.training_data import DataPart, ImageData


@st.composite
def wholes(draw: st.DrawFn) -> tuple[int, tuple[float, float, float]]:
    """A number of samples and shares, each part of which has some."""
    tenths = draw(st.tuples(*[st.integers(1, 10)] * 3))
    shares = tuple(tenth / sum(tenths) for tenth in tenths)
    return draw(st.integers(30, 400)), (shares[0], shares[1], shares[2])


@given(whole=wholes(), seed=st.integers(0, 2**63 - 1))
def test_parts_are_disjoint_and_have_every_sample(
    whole: tuple[int, tuple[float, float, float]], seed: int
) -> None:
    count, shares = whole
    parts = [part_of(count, part, shares, seed) for part in range(3)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) - count * share) <= 1
        assert part.tolist() == sorted(part.tolist())


def test_a_part_is_ranked_by_the_hash_of_seed_and_index() -> None:
    ranked = sorted(range(20), key=lambda index: hashlib.sha256(f"7:{index}".encode()).digest())
    assert part_of(20, 0, (0.5, 0.25, 0.25), 7).tolist() == sorted(ranked[:10])
    assert part_of(20, 2, (0.5, 0.25, 0.25), 7).tolist() == sorted(ranked[15:])
    assert part_of(20, 0, (0.5, 0.25, 0.25), 8).tolist() != sorted(ranked[:10])
    assert len(part_of(19, 1, (0.9, 0.1, 0.0), 0)) + len(part_of(19, 0, (0.9, 0.1, 0.0), 0)) == 19


@pytest.mark.parametrize(
    ("count", "sentence"),
    [(1, "1 sample is too few for a part of 0.1"), (4, "4 samples are too few")],
)
def test_too_few_samples_for_a_part_are_told(count: int, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        part_of(count, 1, (0.9, 0.1, 0.0), 0)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"name": "train", "shares": [0.5, 0.2, 0.2]}, "add up to 0.9"),
        ({"name": "test", "shares": [0.9, 0.1, 0]}, "share of 'test' is 0"),
        ({"name": "demo"}, "'train', 'validation' or 'test'"),
        ({"name": "train", "seed": -1}, "greater than or equal to 0"),
    ],
    ids=["sum", "none", "name", "seed"],
)
def test_a_part_that_can_not_be_is_refused(part: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        ImageData.model_validate({"data": "digits", "part": part})


@pytest.mark.torch
def test_parts_of_a_data_set_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(tmp_path / "data")
    write_classes(tmp_path / "data", *(noise(seed, 4, 3) for seed in range(8)))
    age(tmp_path / "data")
    files = worker_files(tmp_path)
    whole = opened(data, files)
    monkeypatch.setattr(sample_images, "open_dataset", lambda *_, **__: pytest.fail("opened"))
    monkeypatch.setattr(sample_images, "prepare_images", lambda *_: pytest.fail("decoded"))
    names = ("train", "validation", "test")
    parts = [opened({"data": data, "part": {"name": name}}, files) for name in names]
    assert [len(part.samples) for part in parts] == [4, 2, 2]
    assert len({part.digest for part in [whole, *parts]}) == 4
    for index, part in enumerate(parts):
        chosen = part_of(8, index, DataPart(name="train").shares, 0)
        assert everything(part.samples).equal(everything(whole.samples)[chosen])
        assert part.samples.labels.tolist() == chosen.tolist()
        assert part.classes == whole.classes
        assert part.samples.finite
    assert "'train' is 4 of 8 images, chosen by seed 0" in parts[0].notes[-1]
    other = opened({"data": data, "part": {"name": "train", "seed": 5}}, files)
    assert other.digest != parts[0].digest
    with pytest.raises(DatasetError, match=r"'training_data.data': 8 samples are too few"):
        opened({"data": data, "part": {"name": "test", "shares": [0.5, 0.49, 0.01]}}, files)
