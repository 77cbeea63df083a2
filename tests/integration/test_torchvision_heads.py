"""torchvision's detectors give the boxes of torchvision's own post-processing.

Real heads, anchors and post-processing on small backbones of random weights; nothing is fetched.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from visiondyno.predictions import Detections
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.model_cards import guess_card
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_card import DetectionCard, InputCard, ModelCard, OutputCard
from visiondyno.vision.heads import HEADS
from visiondyno.vision.preprocess import Geometry

torch = pytest.importorskip("torch")
detection = pytest.importorskip("torchvision.models.detection")
pytestmark = pytest.mark.torch

HEIGHT, WIDTH = 128, 160
LEVELS = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)]
CHANNELS = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = ("car", "truck", "sign")


def photo_like(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def pyramid() -> Any:
    """Feature maps of strides 8, 16, 32, 64, 128."""

    class Pyramid(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out_channels = CHANNELS
            sides = [3, CHANNELS, CHANNELS, CHANNELS, *[CHANNELS] * 4]
            self.steps = torch.nn.ModuleList(
                torch.nn.Conv2d(before, after, 3, stride=2, padding=1)
                for before, after in pairwise(sides)
            )

        def forward(self, x: Any) -> Any:
            found = OrderedDict()
            for number, step in enumerate(self.steps):
                x = torch.tanh(2 * step(x))
                if number >= 2:
                    found[str(number)] = x
            return found

    return Pyramid()


def wake(head: Any) -> None:
    """torchvision's fresh towers let the signal die out."""
    for layer in head.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)


def spread(layer: Any, weight: float, bias: float) -> None:
    """Random weights answer 0.01 everywhere: make scores and boxes differ."""
    torch.nn.init.normal_(layer.weight, std=weight)
    torch.nn.init.constant_(layer.bias, bias)


def retinanet() -> Any:
    torch.manual_seed(3)
    size = {"min_size": HEIGHT, "max_size": WIDTH}
    model = detection.retinanet.RetinaNet(pyramid(), len(CLASSES), **size)
    # The default anchors are for strides 8 to 128, as this pyramid's are.
    wake(model.head)
    spread(model.head.classification_head.cls_logits, 0.15, -3.0)
    spread(model.head.regression_head.bbox_reg, 0.03, 0.0)
    return model.eval()


def fcos() -> Any:
    torch.manual_seed(4)
    size = {"min_size": HEIGHT, "max_size": WIDTH, "score_thresh": 0.05}
    model = detection.fcos.FCOS(pyramid(), len(CLASSES), **size)
    wake(model.head)
    spread(model.head.classification_head.cls_logits, 0.15, -2.0)
    spread(model.head.regression_head.bbox_reg, 0.1, 2.0)
    spread(model.head.regression_head.bbox_ctrness, 0.1, 0.0)
    return model.eval()


def export(model: Any, example: Any, path: Path, **options: Any) -> Path:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, example, str(path), dynamo=False, opset_version=17, **options)
    return path


def export_raw(model: Any, path: Path) -> Path:
    """Backbone and head only: normalised images to the head's outputs."""

    class Raw(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Any) -> Any:
            found = self.model.head(list(self.model.backbone(images).values()))
            return tuple(found.values())

    outputs = list(model.head(list(model.backbone(torch.zeros(1, 3, HEIGHT, WIDTH)).values())))
    axes = {name: {0: "n"} for name in ("images", *outputs)}
    example = torch.zeros(2, 3, HEIGHT, WIDTH)
    return export(
        Raw().eval(), example, path, input_names=["images"], output_names=outputs, dynamic_axes=axes
    )


def as_torch(image: np.ndarray) -> Any:
    return torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy()).float() / 255


def reference_rows(model: Any, image: np.ndarray) -> np.ndarray:
    """x1 y1 x2 y2 score class, of boxes with an area."""
    with torch.no_grad():
        found = model([as_torch(image)])[0]
    parts = [found["boxes"], found["scores"][:, None], found["labels"][:, None].float()]
    rows = torch.cat(parts, dim=1).numpy()
    return rows[(rows[:, 2:4] > rows[:, :2]).all(axis=1)]


def matched(ours: Detections, theirs: np.ndarray, first_class: int = 0) -> int:
    """How many of `theirs` have a partner of their own in `ours`."""
    free = np.ones(len(ours), bool)
    for row in theirs:
        fits = (
            free
            & (ours.class_ids == int(row[5]) - first_class)
            & (np.abs(ours.scores - row[4]) <= 1e-3)
            & (np.abs(ours.boxes_xyxy - row[:4]).max(axis=1, initial=0) <= 0.5)
        )
        if fits.any():
            free[np.flatnonzero(fits)[0]] = False
    return int((~free).sum())


def assert_same_boxes(ours: object, theirs: np.ndarray, first_class: int = 0) -> None:
    assert isinstance(ours, Detections)
    assert len(theirs) >= 10, "the reference must find something to compare"
    # A pair at the very IoU or score of the cut may fall on the other side.
    allowed = len(theirs) // 100 + 1
    assert max(len(ours), len(theirs)) - matched(ours, theirs, first_class) <= allowed


def dense_card(path: Path, detection_card: DetectionCard) -> ModelCard:
    """What the file's shapes tell, with torchvision's own settings."""
    card, sources, _ = guess_card(path)
    assert card.head == "retinanet"
    assert sources["output"] == "shape"
    fields = card.input.model_dump() | {"resize": "stretch", "mean": MEAN, "std": STD}
    return card.model_copy(
        update={"detection": detection_card, "input": InputCard(**fields), "classes": CLASSES}
    )


DENSE: dict[str, tuple[Callable[[], Any], DetectionCard]] = {
    "RetinaNet": (retinanet, DetectionCard(confidence=0.05, nms_iou=0.5, max_detections=300)),
    "FCOS": (fcos, DetectionCard(confidence=0.05, nms_iou=0.6, max_detections=100)),
}


@pytest.mark.parametrize("kind", DENSE)
def test_dense_detectors(kind: str, tmp_path: Path) -> None:
    build, settings = DENSE[kind]
    model = build()
    path = export_raw(model, tmp_path / "dense.onnx")
    card = dense_card(path, settings)
    images = [photo_like(seed) for seed in range(3)]
    with load_model(str(path), LoadOptions(card=card)) as loaded:
        found = loaded.predict(images)
        prepared = loaded.preprocess(images)
        outputs = loaded.infer(prepared)
    for ours, image in zip(found, images, strict=True):
        assert_same_boxes(ours, reference_rows(model, image))
    assert_maps_read_the_same(outputs, card, found)


def assert_maps_read_the_same(
    outputs: list[np.ndarray], card: ModelCard, expected: list[Any]
) -> None:
    """The same numbers as one map a level and role give the same boxes."""
    assert card.output is not None
    assert card.output.roles is not None
    each = 9 if card.output.boxes == "anchor_offsets" else 1
    ends = np.cumsum([rows * columns * each for rows, columns in LEVELS])
    maps, roles = [], []
    for output, role in zip(outputs, card.output.roles, strict=True):
        for part, (rows, columns) in zip(np.split(output, ends[:-1], axis=1), LEVELS, strict=True):
            values = part.reshape(len(part), rows, columns, -1)
            maps.append(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))
            roles.append(role)
    said = card.model_copy(
        update={"output": OutputCard(roles=tuple(roles), boxes=card.output.boxes)}
    )
    places = [Geometry(1, 1, 0, 0, WIDTH, HEIGHT)] * len(expected)
    for left, right in zip(
        HEADS["retinanet"].decode(maps, said, places, 0.05), expected, strict=True
    ):
        assert isinstance(left, Detections)
        np.testing.assert_array_equal(left.boxes_xyxy, right.boxes_xyxy)
        np.testing.assert_array_equal(left.scores, right.scores)


def whole_card(
    path: Path, side: tuple[int, int], first_class: int, names: tuple[str, ...]
) -> ModelCard:
    card, sources, _ = guess_card(path)
    assert (card.head, sources["output"]) == ("boxes_scores_classes", "shape")
    assert card.output is not None
    assert card.output.first_class == first_class == 1
    assert (card.input.height, card.input.width) == side
    return card.model_copy(update={"classes": names})


@pytest.mark.slow
def test_ssdlite_with_its_nms_inside(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4
    )
    # Fresh weights let the signal die out: take each layer's statistics from real input.
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        batch = torch.stack([as_torch(photo_like(seed, 320, 320)) for seed in range(4)])
        model.head(list(model.backbone.train()(batch * 2 - 1).values()))
    for block in model.head.classification_head.module_list:
        spread(block[1], 0.3, 0.0)
    check_whole_model(model.eval(), tmp_path, (320, 320))


@pytest.mark.slow
def test_faster_rcnn_with_its_nms_inside(tmp_path: Path) -> None:
    torch.manual_seed(6)
    backbone = torch.nn.Sequential(
        *[torch.nn.Conv2d(3 if n == 0 else CHANNELS, CHANNELS, 3, 2, 1) for n in range(4)],
    )
    backbone.out_channels = CHANNELS
    anchors = detection.anchor_utils.AnchorGenerator(((16, 32, 64),), ((0.5, 1.0, 2.0),))
    model = detection.FasterRCNN(
        backbone,
        min_size=HEIGHT,
        max_size=WIDTH,
        rpn_anchor_generator=anchors,
        box_head=detection.faster_rcnn.TwoMLPHead(CHANNELS * 49, 32),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(32, 4),
        box_roi_pool=pytest.importorskip("torchvision.ops").MultiScaleRoIAlign(["0"], 7, 2),
    )
    spread(model.roi_heads.box_predictor.cls_score, 2.0, 0.0)
    check_whole_model(model.eval(), tmp_path, (HEIGHT, WIDTH))


def check_whole_model(model: Any, folder: Path, side: tuple[int, int]) -> None:
    """A file that takes one image of three axes and answers boxes without an axis of images."""
    images = [photo_like(seed, *side) for seed in range(3)]
    path = export(
        model,
        ([as_torch(images[0])],),
        folder / "whole.onnx",
        input_names=["image"],
        output_names=["boxes", "labels", "scores"],
    )
    rename_by_type(path)
    card = whole_card(path, side, 1, CLASSES)
    with load_model(str(path), LoadOptions(card=card)) as loaded:
        assert loaded.description.batch_size == 1
        found = loaded.predict(images, confidence=0.0)
    for ours, image in zip(found, images, strict=True):
        assert_same_boxes(ours, reference_rows(model, image), first_class=1)


def rename_by_type(path: Path) -> None:
    """torchvision's order of outputs differs between models: call them by number, as it does."""
    import onnx

    graph = onnx.load(path)
    for number, output in enumerate(graph.graph.output):
        for node in graph.graph.node:
            for place, name in enumerate(node.output):
                if name == output.name:
                    node.output[place] = f"out{number}"
            for place, name in enumerate(node.input):
                if name == output.name:
                    node.input[place] = f"out{number}"
        output.name = f"out{number}"
    onnx.save(graph, path)
