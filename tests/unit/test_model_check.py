"""What is made of a model is refused where it answers otherwise, however small what matters is."""

from pathlib import Path

import numpy as np
import pytest

from onnx_builder import build_model
from tiny_models import SIDE, write_detector
from visiondyno.errors import ModelError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.model_check import MadeFile, ModelCheck, check_made, images_of
from visiondyno.operations.model_check_child import answer, write_tensor
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.model_cards import METADATA_KEY
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_card import InputCard, ModelCard

YOLO = ModelCard(
    task="detection",
    head="yolov8",
    classes=("a", "b", "c"),
    input=InputCard(height=640, width=640, resize="stretch"),
)


def checked(source: Path, made: Path, precision: str = "fp32") -> ModelCheck:
    with load_model(str(source), LoadOptions()) as model:
        return check_made(model, MadeFile(made, precision), None, OperationContext())


def yolo(path: Path, second_class: float) -> Path:
    """Boxes of hundreds of pixels beside scores, in one output."""
    base = np.full((1, 7, 6), 300, np.float32)
    base[0, 4:] = [[0.1], [second_class], [0.2]]
    metadata = {METADATA_KEY: YOLO.model_dump_json(by_alias=True)}
    return build_model(path, base, size=(640, 640), metadata=metadata)


def test_scores_beside_pixels_are_judged_by_their_own_size(tmp_path: Path) -> None:
    source = yolo(tmp_path / "source.onnx", 0.05)
    # Under a thousandth of the largest number, 300, and four times the score.
    wrong = yolo(tmp_path / "wrong.onnx", 0.2)
    with pytest.raises(ModelError, match=r"'output', column 5, differs by up to 0\.15 from its"):
        checked(source, wrong)
    assert checked(source, wrong, "fp16").flat["max_abs_difference"] == pytest.approx(0.15)
    assert checked(source, source).flat["max_abs_difference"] == 0


def rows(sure: float, moved: int = 0) -> list[list[float]]:
    """Five boxes, and 35 rows of nearly nothing; `moved` of the five lie elsewhere."""
    boxes = [[4.0, 4.0, 12.0, 12.0 + n, sure - n / 100, n % 3] for n in range(5)]
    for box in boxes[:moved]:
        box[:4] = [16.0, 16.0, 30.0, 30.0]
    return boxes + [[n % 7, 1.0, n % 7 + 9, 20.0, 0.001 + n / 1e4, 0] for n in range(35)]


def test_boxes_that_matter_are_not_outweighed_by_rows_that_do_not(tmp_path: Path) -> None:
    source = write_detector(tmp_path / "source.onnx", rows(0.9))
    wrong = write_detector(tmp_path / "wrong.onnx", rows(0.9, moved=5))
    with pytest.raises(ModelError, match="Only 0 of the 40 boxes that the source is sure of"):
        checked(source, wrong)
    lower = write_detector(tmp_path / "lower.onnx", rows(0.7))
    with pytest.raises(ModelError, match="Only 0 of the 40 boxes"):
        checked(source, lower)


def test_rows_are_the_same_wherever_they_come(tmp_path: Path) -> None:
    source = write_detector(tmp_path / "source.onnx", rows(0.9))
    turned = write_detector(tmp_path / "turned.onnx", rows(0.9)[::-1])
    found = checked(source, turned)
    assert found.flat["max_abs_difference"] == 0
    assert any("came in another place" in note for note in found.notes)


def test_too_many_other_rows_are_refused(tmp_path: Path) -> None:
    source = write_detector(tmp_path / "source.onnx", rows(0.9))
    other = [*rows(0.9)[:5], *([16.0, 2.0, 31.0, 30.0, 0.2, 1] for _ in range(35))]
    wrong = write_detector(tmp_path / "wrong.onnx", other)
    with pytest.raises(ModelError, match="Only 40 of the 320 rows that the source answers"):
        checked(source, wrong)


def test_another_number_of_rows_is_refused_in_fp32_and_told_otherwise(tmp_path: Path) -> None:
    source = write_detector(tmp_path / "source.onnx", rows(0.9))
    fewer = write_detector(tmp_path / "fewer.onnx", rows(0.9)[:20])
    with pytest.raises(
        ModelError, match=r"answers shape \(1, 20, 6\), and its source \(1, 40, 6\)"
    ):
        checked(source, fewer)
    told = checked(source, fewer, "fp16")
    assert told.report["outputs"][0]["max_abs_difference"] is None
    assert any("another number of boxes" in note for note in told.notes)


def test_another_number_of_outputs_is_refused(tmp_path: Path) -> None:
    file = write_detector(tmp_path / "source.onnx", rows(0.9))
    tensor = np.zeros((1, 3, SIDE, SIDE), np.float32)
    output = np.zeros((1, 40, 6), np.float32)
    write_tensor(tmp_path, 0, tensor, [output, output])
    payload = {"folder": str(tmp_path), "model": str(file), "device": "cpu", "images": [],
               "same_within": None}  # fmt: skip
    with pytest.raises(ModelError, match="has 1 outputs, and its source 2"):
        answer(payload, print)


def test_images_without_labels_are_predicted_and_not_scored(tmp_path: Path) -> None:
    import cv2

    for n in range(2):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.full((40, 60, 3), 90 * n, np.uint8))
    source = write_detector(tmp_path / "source.onnx", rows(0.9))
    dataset = images_of(str(tmp_path), 8, OperationContext())
    with load_model(str(source), LoadOptions()) as model:
        found = check_made(model, MadeFile(source, "fp32"), dataset, OperationContext())
    assert found.report["images"] == 2
    assert found.report["metrics"] is None
    assert found.report["agreement"]["matched"] == 1
    assert any("no labels" in note for note in found.notes)
