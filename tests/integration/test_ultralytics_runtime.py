"""Ultralytics' networks through our three steps are what they are through Ultralytics' own."""

import contextlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contracts.runtime_contract import RuntimeContract, Target
from visiondyno.datasets.registry import open_dataset
from visiondyno.operations.scoring import (
    ScoringRules,
    map_predictions,
    match_classes,
    score_predictions,
)
from visiondyno.predictions import Classification, Detections, Image
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.pytorch.ultralytics import UltralyticsRuntime
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_card import DetectionCard, HeadName, InputCard, ModelCard
from visiondyno.vision.decode import decode_image

pytest.importorskip("ultralytics")

import torch
from ultralytics_cases import lively_network, paired, photo_like, save_checkpoint

from visiondyno.vision.ultralytics_library import quiet

pytestmark = pytest.mark.torch

SIDE = 64
CONFIDENCE = 0.05
SHAPES = ((48, 64), (97, 60), (64, 64), (120, 201))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of detectors of each generation, and of a classifier."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in ("yolov5n", "yolov8n", "yolo11n", "yolo26n", "yolov8n-cls"):
        save_checkpoint(lively_network(name, SIDE), folder / f"{name}-street.pt", SIDE)
    return folder


class TestUltralyticsRuntime(RuntimeContract):
    @pytest.fixture
    def target(self, folder: Path) -> Target:
        references = tuple(
            str(folder / f"{n}-street.pt") for n in ("yolo11n", "yolo26n", "yolov8n-cls")
        )
        return Target(UltralyticsRuntime(), references, missing="nowhere.pt")


@pytest.fixture
def own_process() -> Iterator[None]:
    """Ultralytics' predict sets threads, and warns of what isn't ours."""
    threads = torch.get_num_threads()
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def as_predict(card: ModelCard, head: HeadName) -> ModelCard:
    """The card with what `predict` does and `val` doesn't: the best class of each box only."""
    iou = None if head == "end_to_end" else 0.7
    one_class = DetectionCard(several_classes_a_box=False, nms_iou=iou)
    return card.model_copy(update={"head": head, "detection": one_class})


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("yolov5n", "yolov8"),
        ("yolov8n", "yolov8"),
        ("yolo11n", "yolov8"),
        ("yolo26n", "end_to_end"),
        ("yolo26n", "yolov8"),
    ],
)
def test_boxes_of_each_generation_are_its_own(
    folder: Path, own_process: None, name: str, head: HeadName
) -> None:
    from ultralytics import YOLO

    path = str(folder / f"{name}-street.pt")
    images = [photo_like(*shape, seed) for seed, shape in enumerate(SHAPES)]
    without_nms = {"nms": False} if head == "end_to_end" else {}
    own = YOLO(path)
    theirs = [
        own.predict(image, conf=CONFIDENCE, verbose=False, device="cpu", **without_nms)[0]
        for image in images
    ]
    with load_model(path) as model:
        assert model.description.card.head in (head, "end_to_end")
        card = as_predict(model.description.card, head)
    with load_model(path, LoadOptions(card=card)) as model:
        ours = model.predict(images, confidence=CONFIDENCE)
    counts = []
    for found, result in zip(ours, theirs, strict=True):
        assert isinstance(found, Detections)
        rows = result.boxes.data.numpy()
        rows = rows[(rows[:, 2:4] > rows[:, :2]).all(axis=1)]
        counts.append(len(rows))
        assert len(found) == len(rows) == paired(found, rows)
    assert sum(counts) >= 20


def test_probabilities_of_a_classifier_are_its_own(folder: Path, own_process: None) -> None:
    from ultralytics import YOLO

    path = str(folder / "yolov8n-cls-street.pt")
    images = [photo_like(*shape, seed) for seed, shape in enumerate(SHAPES)]
    theirs = [one.probs.data.numpy() for one in YOLO(path).predict(images, verbose=False)]
    with load_model(path) as model:
        ours = model.predict(images)
    for found, expected in zip(ours, theirs, strict=True):
        assert isinstance(found, Classification)
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert np.ptp(np.stack(theirs), axis=0).max() > 0.01, "images must differ"


def test_a_classifier_keeps_the_transforms_that_it_was_trained_with(
    tmp_path: Path, own_process: None
) -> None:
    from ultralytics import YOLO
    from ultralytics.data.augment import classify_transforms

    network = lively_network("yolov8n-cls", SIDE)
    network.transforms = classify_transforms(SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    path = str(save_checkpoint(network, tmp_path / "signs.pt", SIDE))
    images = [photo_like(*shape, seed) for seed, shape in enumerate(SHAPES)]
    theirs = [one.probs.data.numpy() for one in YOLO(path).predict(images, verbose=False)]
    with load_model(path) as model:
        assert model.description.card.input.mean == pytest.approx((0.5, 0.4, 0.3))
        ours = model.predict(images)
    for found, expected in zip(ours, theirs, strict=True):
        assert isinstance(found, Classification)
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Ultralytics' own code trained and found; see ultralytics_own.py."""
    folder = tmp_path_factory.mktemp("trained")
    settings = {
        "YOLO_AUTOINSTALL": "false",
        "YOLO_OFFLINE": "true",
        "YOLO_CONFIG_DIR": str(folder / "settings"),
        "MLFLOW_TRACKING_URI": (folder / "mlflow").as_uri(),
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("ultralytics_own.py")), str(folder)],
        env=os.environ | settings,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def street_images(folder: Path) -> list[Image]:
    paths = sorted((folder / "images").glob("*.jpg"))
    return [decode_image(path.read_bytes(), path.name) for path in paths]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["small.pt", "small.onnx"])
def test_a_trained_detector_finds_what_it_finds_in_its_own_library(
    trained: Path, file: str
) -> None:
    images = street_images(trained)
    rows = np.load(trained / "rows.npz")
    with load_model(str(trained / file)) as model:
        card = as_predict(model.description.card, "yolov8")
    with load_model(str(trained / file), LoadOptions(card=card)) as model:
        alone = [model.predict([image], confidence=0.02)[0] for image in images]
        listed = model.predict(images, confidence=0.02)
    for how, found in (("alone", alone), ("listed", listed)):
        theirs = [rows[f"{how}{number}"] for number in range(len(images))]
        assert sum(map(len, theirs)) >= 50
        for ours, expected in zip(found, theirs, strict=True):
            assert isinstance(ours, Detections)
            assert len(ours) == len(expected) == paired(ours, expected)


@pytest.mark.slow
def test_its_own_validation_and_ours_agree_on_the_accuracy(trained: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(trained / "truth.json"))
        scored = COCOeval(truth, truth.loadRes(str(trained / "found.json")), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    theirs = float(scored.stats[0])
    assert theirs > 0.02, "it must have learned something"
    with load_model(str(trained / "small.pt")) as model:
        own = model.description.card
    # Their validation pads every image to one square when `rect` is off.
    square = InputCard(height=own.input.height, width=own.input.width)
    options = LoadOptions(card=own.model_copy(update={"input": square}))
    dataset = open_dataset(str(trained / "data.yaml"))
    rules = ScoringRules(None, 0, 0)
    with load_model(str(trained / "small.pt"), options) as model:
        card = model.description.card
        mapping = match_classes(card, "small.pt", dataset, rules)
        samples = [dataset.sample(index) for index in range(len(dataset))]
        images = [decode_image(one.path.read_bytes(), one.path.name) for one in samples]
        found = [model.predict([image])[0] for image in images]
    mapped = map_predictions(mapping, found, card)
    measures = score_predictions(dataset, card, mapping, mapped, rules).measures
    assert measures["map_50_95"].value == pytest.approx(theirs, abs=0.002)
