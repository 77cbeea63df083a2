"""Exports of real Ultralytics models give the boxes that Ultralytics' own code gives."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from visiondyno.predictions import Detections
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.model_cards import guess_card
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_card import DetectionCard, ModelCard

pytestmark = [pytest.mark.torch, pytest.mark.slow]

REFERENCE = Path(__file__).with_name("ultralytics_reference.py")


@pytest.fixture(scope="module", params=["yolov8n", "yolov5n"])
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ultralytics")
    folder = tmp_path_factory.mktemp(request.param)
    settings = {
        "YOLO_AUTOINSTALL": "false",
        "YOLO_OFFLINE": "true",
        "YOLO_CONFIG_DIR": str(folder / "settings"),
    }
    done = subprocess.run(
        [sys.executable, str(REFERENCE), request.param, str(folder)],
        env=os.environ | settings,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def same_settings(card: ModelCard) -> ModelCard:
    """The card with the settings of `Model.predict` in ultralytics_reference.py."""
    settings = DetectionCard(confidence=0.25, nms_iou=0.6, several_classes_a_box=False)
    return card.model_copy(update={"detection": settings})


def test_boxes_are_those_of_ultralytics(reference: Path) -> None:
    model_path = next(reference.glob("*.onnx"))
    card, sources, _ = guess_card(model_path)
    assert card.head == "yolov8"
    assert {sources[part] for part in ("task", "head", "classes", "input")} == {"metadata"}
    arrays = np.load(reference / "reference.npz")
    images = [arrays[f"image{number}"] for number in range(4)]
    with load_model(str(model_path), LoadOptions(card=same_settings(card))) as model:
        predictions = model.predict(images)
    counts = []
    for number, prediction in enumerate(predictions):
        assert isinstance(prediction, Detections)
        theirs = arrays[f"rows{number}"]
        # Boxes without an area inside the image: Ultralytics keeps them, we don't.
        theirs = theirs[(theirs[:, 2:4] > theirs[:, :2]).all(axis=1)]
        counts.append(len(theirs))
        # Ultralytics shifts classes apart by 7680 pixels in float32, which rounds coordinates to
        # 1/16 pixel: a pair at the very IoU of the cut may fall on the other side.
        paired = match(prediction, theirs)
        assert max(len(prediction), len(theirs)) - paired <= len(theirs) // 100 + 1
    assert min(counts) >= 3, "the reference must find something to compare"
    assert sum(counts) >= 100


def match(ours: Detections, theirs: np.ndarray) -> int:
    """How many of `theirs` (x1 y1 x2 y2 score class) have a partner of their own in `ours`."""
    free = np.ones(len(ours), bool)
    for row in theirs:
        fits = (
            free
            & (ours.class_ids == int(row[5]))
            & (np.abs(ours.scores - row[4]) <= 1e-3)
            & (np.abs(ours.boxes_xyxy - row[:4]).max(axis=1) <= 0.5)
        )
        if fits.any():
            free[np.flatnonzero(fits)[0]] = False
    return int((~free).sum())
