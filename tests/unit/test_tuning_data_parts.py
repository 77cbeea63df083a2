"""On which data a study trains, compares and tests; and what is known of their images."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from class_images import noise, write_classes
from pydantic import TypeAdapter, ValidationError

from dataset_factory import write_coco, write_image_folder
from visiondyno.datasets.idx import part_of as idx_part
from visiondyno.datasets.pull.catalogue import DOWNLOADABLE, pulled_folder
from visiondyno.datasets.registry import default_cache_dir, open_dataset
from visiondyno.datasets.splits import splits_at
from visiondyno.errors import Cancelled, DatasetError, SpecError
from visiondyno.specs.training_data import ImageData, TrainingData
from visiondyno.specs.tuning import StudySpec
from visiondyno.tuning.data_parts import ImageShape, StudyData, anywhere, study_data

COMMON_CACHE = os.environ["XDG_CACHE_HOME"]
"""Of all tests: has the images of the idx files from an earlier run."""
SHARED = {"name": "train", "shares": [0.9, 0.1, 0.0]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("VISIONDYNO_DATA", raising=False)


def parts(data: str | None = None, **fields: Any) -> StudyData:
    found = study_data(StudySpec(data=data, **fields))
    for wire in (found.training, found.validation, found.test):
        if wire is not None:
            TypeAdapter(TrainingData).validate_python(wire)
    return found


def write_splits(folder: Path, *names: str) -> None:
    for name in names:
        write_classes(folder / name, *(noise(seed, 6, 5) for seed in range(4)))


def test_digits_have_splits_for_all_three() -> None:
    found = parts("digits")
    assert (found.training, found.validation, found.test) == (
        "digits:train", "digits:val", "digits:demo")  # fmt: skip
    assert found.shape == ImageShape(1, 32, 32, 10)
    assert found.is_here
    grey = open_dataset("digits:val:20")
    assert (grey.sample(0).height, len(grey.classes)) == (32, 10), "as it is said without looking"


def test_another_number_of_classes_than_the_data_have_is_refused() -> None:
    assert parts("digits", classes=10).shape == ImageShape(1, 32, 32, 10)
    with pytest.raises(SpecError, match="--classes is 3, and the data have 10; leave it out"):
        parts("digits", classes=3)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mnist", ImageShape(1, 28, 28, 10)),
        ("fashion_mnist", ImageShape(1, 28, 28, 10)),
        ("cifar10", ImageShape(3, 32, 32, 10)),
    ],
)
def test_published_sets_are_known_before_they_are_here(name: str, shape: ImageShape) -> None:
    found = parts(name)
    assert found.training == {"data": f"{name}:train", "part": SHARED}
    assert found.validation == {"data": f"{name}:train", "part": SHARED | {"name": "validation"}}
    assert found.test == f"{name}:test"
    assert found.shape == shape
    assert not found.is_here
    assert any(known.name == name and known.files for known in DOWNLOADABLE), "it can be pulled"
    whole = parts(f"{name}:test")
    assert whole.training == {"data": f"{name}:test", "part": {"name": "train"}}
    assert whole.shape == shape
    small = parts(name, image_size=16, channels=3)
    assert small.shape == ImageShape(3, 16, 16, 10)
    assert small.test == {"data": f"{name}:test", "image_size": 16, "channels": 3}


def test_a_pulled_set_is_not_opened_and_another_folder_of_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_splits(pulled_folder("cifar10", default_cache_dir()), "train", "test")
    found = parts("cifar10")
    assert found.is_here
    assert found.test == "cifar10:test"
    assert found.shape == ImageShape(3, 32, 32, 10)
    monkeypatch.setenv("VISIONDYNO_DATA", str(tmp_path))
    write_splits(tmp_path / "mnist", "train", "val", "test")
    other = parts("mnist")
    assert other.shape == ImageShape(1, 6, 5, 4), "what lies there"
    assert other.validation == {"data": "mnist:val", "channels": 1}


def test_a_folder_with_one_part_only_is_divided(
    shared_testdata: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", COMMON_CACHE)
    folder = str(shared_testdata / "training" / "mnist")
    found = parts(folder)
    for name, wire in (("train", found.training), ("test", found.test)):
        assert wire == {"data": folder, "channels": 1, "part": {"name": name}}
    assert found.shape == ImageShape(1, 28, 28, 10)
    assert "half of it to train on" in found.notes[0]


@pytest.mark.parametrize(
    ("splits", "used"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("train", "test"), ("train", "train", "test")),
        (("train", "valid"), ("train", "train", "valid")),
    ],
    ids=["three", "test", "valid"],
)
def test_folders_with_splits(
    tmp_path: Path, splits: tuple[str, ...], used: tuple[str, ...]
) -> None:
    write_splits(tmp_path / "data", *splits)
    assert set(splits_at(tmp_path / "data")) == set(splits)
    found = parts(str(tmp_path / "data"))
    for wire, split in zip((found.training, found.validation, found.test), used, strict=True):
        assert isinstance(wire, dict)
        assert wire["data"] == f"{tmp_path / 'data'}:{split}"
        assert wire["channels"] == 1
        assert ("part" in wire) == (used[0] == used[1] and split == "train")
    assert found.shape == ImageShape(1, 6, 5, 4)


def test_splits_of_what_has_none(tmp_path: Path) -> None:
    write_splits(tmp_path / "data", "test")
    assert splits_at(tmp_path / "data") == (), "one of them is no split"
    assert splits_at(tmp_path / "absent") == ()
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte.gz")
    (tmp_path / "idx").mkdir()
    for name in (*names, "classes.txt"):
        (tmp_path / "idx" / name).touch()
    assert idx_part(tmp_path / "idx" / names[2]) == "test"
    assert splits_at(tmp_path / "idx") == ("train", "test")


def test_colours_are_seen_and_told_to_all_parts(tmp_path: Path) -> None:
    images = [noise(seed, 6, 5) for seed in range(5)]
    write_classes(tmp_path / "data", *images, noise(9, 6, 5, 3))
    found = parts(str(tmp_path / "data"))
    assert found.shape == ImageShape(3, 6, 5, 6)
    assert all(isinstance(w, dict) and w["channels"] == 3 for w in (found.training, found.test))
    asked = parts(str(tmp_path / "data"), channels=1)
    assert asked.shape == ImageShape(1, 6, 5, 6)


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "data")
    with pytest.raises(DatasetError, match=r"20×30; give --image-size"):
        parts(str(tmp_path / "data"))
    found = parts(str(tmp_path / "data"), image_size=(8, 9))
    assert found.shape == ImageShape(3, 8, 9, 3)
    assert isinstance(found.validation, dict)
    assert found.validation["image_size"] == [8, 9]
    square = parts(str(tmp_path / "data"), image_size=(8, 8))
    assert isinstance(square.test, dict)
    assert square.test["image_size"] == 8


def test_parts_of_ones_own_come_first() -> None:
    own = {"data": "digits:train:50", "channels": 3, "image_size": 16}
    found = parts("digits", training_data=own, image_size=20, test_data="digits:val:7")
    assert found.training == own
    assert found.validation == {"data": "digits:val", "image_size": 20}
    assert found.test == {"data": "digits:val:7", "image_size": 20}
    assert found.shape == ImageShape(3, 16, 16, 10)
    bare = parts(training_data="digits:train:50", validation_data="digits:val:50")
    assert bare.test is None
    assert "no test part" in bare.notes[-1]


def test_inline_images_tell_their_shape() -> None:
    images = np.zeros((4, 1, 3, 2)).tolist()
    inline = {"features": images, "labels": [0, 1, 4, 1]}
    found = parts(training_data=inline, validation_data=inline)
    assert found.shape == ImageShape(1, 3, 2, 5)
    assert found.training == {"features": images, "labels": [0, 1, 4, 1]}
    rows = {"features": [[1.0], [2.0]], "labels": [0, 1]}
    with pytest.raises(DatasetError, match=r"shape \(2, 1\).*Give a space with a 'job'"):
        parts(training_data=rows, validation_data=rows)
    space = {"parameters": {"lr": [1]}, "job": {"model_config": {"type": "${lr}"}}}
    assert parts(training_data=rows, validation_data=rows, space=space).shape is None


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({}, "image_size, channels, classes. Give --image-size --channels --classes for"),
        ({"image_size": 8, "channels": 1}, "without knowing classes. Give --classes for"),
    ],
)
def test_data_of_the_workers_alone_must_be_described(fields: dict[str, Any], missing: str) -> None:
    blob = "sha256:" + "0" * 64
    for data in ({"data": "flowers"}, {"training_data": blob, "validation_data": blob}):
        with pytest.raises(DatasetError, match=missing):
            parts(**data, **fields)
        found = parts(**data, image_size=(8, 9), channels=3, classes=4)
        assert found.shape == ImageShape(3, 8, 9, 4)
        assert not found.is_here


def test_data_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path / "boxes")
    with pytest.raises(DatasetError, match=r"is a detection data set, and a study trains image"):
        parts(str(tmp_path / "boxes"))


def test_opening_can_be_stopped_and_damage_is_told(tmp_path: Path) -> None:
    write_classes(tmp_path / "data", *(noise(seed, 6, 5) for seed in range(4)))

    def stop() -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        study_data(StudySpec(data=str(tmp_path / "data")), check=stop)
    path = next((tmp_path / "data").rglob("*.png"))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DatasetError, match=path.name):
        parts(str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "give 'data', or both"),
        ({"training_data": "digits:train"}, "give 'data', or both"),
        ({"data": "digits", "pruner_arguments": {"a": 1}}, "need a 'pruner'"),
        ({"data": "digits", "trials": 0}, "trials"),
        ({"data": "digits", "objectives": ()}, "objectives"),
        ({"data": "digits", "image_size": 0}, "image_size"),
    ],
    ids=["nothing", "training", "pruner", "trials", "objectives", "size"],
)
def test_studies_that_can_not_be(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        StudySpec(**fields)


def test_a_study_reads_back_as_it_was_written() -> None:
    space = {"parameters": {"a": [None, 1, 1.5, "x"], "b": {"low": 1, "high": 2.5}},
             "job": {"model_config": {"x": "${a} ${b}"}}}  # fmt: skip
    image = ImageData(data="x", part={"name": "test", "seed": 4})
    spec = StudySpec(data="digits", space=space, test_data=image, image_size=(3, 4))
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.size == (3, 4)
    assert spec.model_copy(update={"image_size": 7}).size == (7, 7)


def test_a_relative_folder_means_the_same_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_splits(tmp_path / "mine", "train", "test")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    here = anywhere("mine")
    assert here == str(tmp_path / "mine")
    assert anywhere("mine:train") == f"{here}:train"
    assert anywhere("link") == str(tmp_path / "link")
    for as_it_is in ("digits", "digits:train", "mnist", "only-workers-have-it", here):
        assert anywhere(as_it_is) == as_it_is
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert anywhere("../mine") == here
    monkeypatch.setenv("VISIONDYNO_DATA", str(tmp_path))
    assert anywhere("mine") == "mine"
