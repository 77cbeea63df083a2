"""The torch runtime on a real GPU: what it says of itself, its share of the memory, its answers."""

from pathlib import Path

import numpy as np
import pytest

from contracts.runtime_contract import some_images
from torch_programs import (
    CLASSIFIER_CARD,
    DETECTOR_CARD,
    Classifier,
    Detector,
    nn,
    torch,
    write_exported,
    write_scripted,
)
from visiondyno.errors import ModelError, Unavailable
from visiondyno.predictions import Classification, Detections
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.registry import load_model
from visiondyno.runtimes.trusted_code import TRUST_CODE

pytest.importorskip("zstandard")  # weights as bytes; a machine that was lent may lack it
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.torch,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU"),
]

GPU = LoadOptions(device="cuda")
MADE = "torch:gpu_models:make"


@pytest.fixture
def references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    (tmp_path / "gpu_models.py").write_text(
        "from torch_programs import DETECTOR_CARD, Detector\n"
        "def make():\n"
        "    module = Detector()\n"
        "    module.model_card = DETECTOR_CARD\n"
        "    return module\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(TRUST_CODE, "1")
    return (
        write_exported(tmp_path / "any.pt2", Detector(), DETECTOR_CARD),
        write_exported(tmp_path / "four.pt2", Detector(), DETECTOR_CARD, batch=4),
        write_exported(tmp_path / "classifier.pt2", Classifier(), CLASSIFIER_CARD),
        write_scripted(tmp_path / "scripted.torchscript", Detector(), DETECTOR_CARD),
        MADE,
    )


def test_a_model_on_a_gpu_says_so(references: tuple[str, ...]) -> None:
    for reference in references:
        with load_model(reference, GPU) as model:
            said = model.description
            assert (said.device, said.provider, said.precision) == ("cuda", "torch cuda", "fp32")


def test_a_gpu_answers_what_the_processor_answers(references: tuple[str, ...]) -> None:
    images = some_images(9)
    for reference in references:
        with load_model(reference) as here, load_model(reference, GPU) as there:
            for left, right in zip(here.predict(images), there.predict(images), strict=True):
                if isinstance(left, Classification):
                    assert isinstance(right, Classification)
                    np.testing.assert_allclose(left.probabilities, right.probabilities, atol=1e-3)
                    continue
                assert isinstance(left, Detections)
                assert isinstance(right, Detections)
                np.testing.assert_array_equal(left.class_ids, right.class_ids)
                np.testing.assert_allclose(left.scores, right.scores, atol=1e-3)
                np.testing.assert_allclose(left.boxes_xyxy, right.boxes_xyxy, atol=1e-1)


def test_constants_of_a_program_move_too(tmp_path: Path) -> None:
    class WithConstant(Classifier):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = super().forward(images)
            return logits + torch.arange(3) + torch.tensor([1.0, 2.0, 3.0])

    path = write_exported(tmp_path / "constant.pt2", WithConstant(), CLASSIFIER_CARD)
    images = some_images(3)
    with load_model(path) as here, load_model(path, GPU) as there:
        for left, right in zip(here.predict(images), there.predict(images), strict=True):
            assert isinstance(left, Classification)
            assert isinstance(right, Classification)
            np.testing.assert_allclose(left.probabilities, right.probabilities, atol=1e-3)


def test_a_share_of_the_memory_is_kept(tmp_path: Path) -> None:
    class Hungry(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            large = images.mean((2, 3)).repeat(1, 50_000_000)
            return large.view(len(images), -1, 3).mean(1)

    path = write_scripted(tmp_path / "hungry.torchscript", Hungry(), CLASSIFIER_CARD)
    limited = LoadOptions(device="cuda", gpu_memory_limit_bytes=500_000_000)
    try:
        with load_model(path, limited) as model:
            assert any("allocator may take" in note for note in model.description.notes)
            with pytest.raises(ModelError, match="out of memory"):
                model.predict(some_images(1))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    with load_model(path, GPU) as model:
        assert isinstance(model.predict(some_images(1))[0], Classification)


def test_a_gpu_that_is_not_there_is_an_error(references: tuple[str, ...]) -> None:
    wanted = LoadOptions(device=f"cuda:{torch.cuda.device_count()}")
    with pytest.raises(Unavailable, match="can't be used here"):
        load_model(references[0], wanted)
