"""The shipped detectors are the files that their training records describe, and as good."""

import hashlib
import json
from importlib import resources
from pathlib import Path

import cv2
import onnx
import pytest

from visiondyno.datasets.street import HEIGHT, STREET_CLASSES, WIDTH, ensure_street
from visiondyno.predictions import Detections
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.onnx import OnnxRuntime
from visiondyno.specs.model_card import ModelCard
from visiondyno.vision.accuracy.coco import coco_summary

SHIPPED = Path(str(resources.files("visiondyno"))) / "shipped"
NAMES = ("street-n", "street-s")


def record(name: str) -> dict:
    return json.loads((SHIPPED / f"{name}.training.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_small_and_the_one_recorded(name):
    content = (SHIPPED / f"{name}.onnx").read_bytes()
    assert len(content) < 2_000_000
    assert len(content) == record(name)["file_bytes"]
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == record(name)["sha256"]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_says_itself_how_it_is_run(name):
    model = onnx.load(str(SHIPPED / f"{name}.onnx"))
    notes = {note.key: note.value for note in model.metadata_props}
    card = ModelCard.model_validate_json(notes["visiondyno.model"])
    assert card.head == "yolov8"
    assert card.classes == STREET_CLASSES
    assert (card.input.height, card.input.width) == (HEIGHT, WIDTH)
    assert card.license == "Apache-2.0"
    assert card.detection is not None
    assert card.detection.nms_iou == record(name)["val"]["nms_iou"]
    (images,) = model.graph.input
    sizes = images.type.tensor_type.shape.dim
    assert images.name == "images"
    assert sizes[0].dim_param
    assert [size.dim_value for size in sizes[1:]] == [3, HEIGHT, WIDTH]


@pytest.mark.parametrize("name", NAMES)
def test_training_improved_it(name):
    history = record(name)["history"]
    assert len(history) == record(name)["hyperparameters"]["epochs"]
    assert history[-1]["loss"] < history[0]["loss"] / 1.5
    assert history[-1]["val_map_50_95"] > history[0]["val_map_50_95"]


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_for_any_batch_as_for_single_images(name, tmp_path):
    folder = ensure_street("demo", 3, tmp_path)
    images = [cv2.imread(str(path)) for path in sorted((folder / "images").iterdir())]
    with OnnxRuntime().load(str(SHIPPED / f"{name}.onnx"), LoadOptions()) as model:
        together = model.predict(images, confidence=0.3)
        apart = [model.predict([image], confidence=0.3)[0] for image in images]
    assert sum(len(found) for found in together) > 0
    for one, other in zip(together, apart, strict=True):
        assert one.boxes_xyxy == pytest.approx(other.boxes_xyxy, abs=0.05)
        assert list(one.class_ids) == list(other.class_ids)


def val_map(name: str, folder: Path) -> float:
    results = []
    labels = json.loads((folder / "annotations.json").read_text())
    reference = str(SHIPPED / f"{name}.onnx")
    with OnnxRuntime().load(reference, LoadOptions(intra_op_threads=1)) as model:
        for entry in labels["images"]:
            image = cv2.imread(str(folder / "images" / entry["file_name"]))
            (found,) = model.predict([image])
            assert isinstance(found, Detections)
            for box, score, place in zip(
                found.boxes_xyxy.tolist(), found.scores, found.class_ids, strict=True
            ):
                corner = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                results.append(
                    {
                        "image_id": entry["id"],
                        "category_id": int(place) + 1,
                        "bbox": corner,
                        "score": float(score),
                    }
                )
    return coco_summary(folder / "annotations.json", results)[0]


@pytest.mark.slow
def test_they_are_as_accurate_as_recorded_and_s_beats_n(tmp_path):
    folder = ensure_street("val", 200, tmp_path)
    found = {name: val_map(name, folder) for name in NAMES}
    for name in NAMES:
        assert found[name] == pytest.approx(record(name)["val"]["map_50_95"], abs=0.03)
    assert found["street-s"] > found["street-n"]
