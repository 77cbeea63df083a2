"""Models of several outputs: what each output is, and what isn't covered."""

from pathlib import Path

import onnx
import pytest
from card_cases import ULTRALYTICS, beside, model
from onnx import TensorProto, helper

from visiondyno.class_names import COCO_80
from visiondyno.errors import ModelError
from visiondyno.runtimes.card_file import read_card
from visiondyno.runtimes.model_cards import guess_card, resolve_card, write_card
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.specs.model_card import DetectionCard


def several(
    path: Path, outputs: dict[str, tuple[tuple[int | str, ...], int]], side: tuple[int, int]
) -> Path:
    """A file with outputs of these names, shapes and types; it can be read and not run."""
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *side])
    nodes = [helper.make_node("Identity", ["images"], [name]) for name in outputs]
    infos = [
        helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in outputs.items()
    ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "several", [image], infos)), path)
    return path


F, L = TensorProto.FLOAT, TensorProto.INT64
# 64 × 96: 129 cells of strides 8 to 128.
LEVELS = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
SEVERAL = {
    "DETR": (
        {"logits": ((1, 100, 92), F), "pred_boxes": ((1, 100, 4), F), "hidden": ((1, 100, 256), F)},
        "detr",
        {"roles": ("scores", "boxes", "unused"), "score_activation": "softmax_with_background"},
    ),
    "RT-DETR": (
        {"pred_boxes": ((1, 300, 4), F), "pred_logits": ((1, 300, 80), F)},
        "detr",
        {"roles": ("boxes", "scores"), "score_activation": "sigmoid"},
    ),
    "D-FINE": (
        {"labels": ((1, 300), L), "boxes": ((1, 300, 4), F), "scores": ((1, 300), F)},
        "boxes_scores_classes",
        {"roles": ("classes", "boxes", "scores"), "boxes": "xyxy_pixels", "first_class": 0},
    ),
    "TensorFlow": (
        {
            "num_detections:0": ((1,), F),
            "detection_boxes:0": ((1, 100, 4), F),
            "detection_scores:0": ((1, 100), F),
            "raw_detection_scores:0": ((1, 900, 5), F),
            "detection_classes:0": ((1, 100), F),
        },
        "boxes_scores_classes",
        {
            "roles": ("count", "boxes", "scores", "unused", "classes"),
            "boxes": "yxyx_normalised",
            "first_class": 1,
        },
    ),
    "torchvision": (
        {"2770": (("n", 4), F), "2788": (("n",), L), "2787": (("n",), F)},
        "boxes_scores_classes",
        {"roles": ("boxes", "classes", "scores"), "boxes": "xyxy_pixels", "first_class": 1},
    ),
    "MMDetection": (
        {"dets": ((1, 100, 5), F), "labels": ((1, 100), L)},
        "boxes_scores_classes",
        {"roles": ("boxes_and_scores", "classes")},
    ),
    "RetinaNet": (
        {"a": ((1, 129 * 9, 91), F), "b": ((1, 129 * 9, 4), F)},
        "retinanet",
        {"roles": ("scores", "boxes"), "boxes": "anchor_offsets"},
    ),
    "FCOS": (
        {"a": ((1, 129, 7), F), "b": ((1, 129, 4), F), "c": ((1, 129, 1), F)},
        "retinanet",
        {"roles": ("scores", "boxes", "centerness"), "boxes": "distances"},
    ),
    "RetinaNet, maps": (
        {f"s{n}": ((1, 9 * 7, *level), F) for n, level in enumerate(LEVELS)}
        | {f"b{n}": ((1, 36, *level), F) for n, level in enumerate(LEVELS)},
        "retinanet",
        {"roles": ("scores",) * 5 + ("boxes",) * 5, "boxes": "anchor_offsets"},
    ),
    "old YOLOv5": (
        {"output": ((1, 378, 85), F), "map": ((1, 3, 8, 12, 85), F)},
        "yolov5",
        {"roles": ("predictions", "unused")},
    ),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_outputs_are_recognised(kind: str, tmp_path: Path) -> None:
    outputs, head, expected = SEVERAL[kind]
    path = several(tmp_path / "m.onnx", outputs, (64, 96))
    card, sources, _ = guess_card(path)
    assert card.head == head
    assert card.output is not None
    said = card.output.model_dump(exclude_none=True)
    assert {name: said[name] for name in expected} == expected
    assert sources["output"] == "shape"
    # The written card holds, with every choice spelled out.
    assert read_card(write_card(path)) == card
    assert resolve_card(read_onnx(path)).card == card


def test_names_of_several_outputs_classes(tmp_path: Path) -> None:
    found = {}
    for kind in SEVERAL:
        path = several(tmp_path / "m.onnx", SEVERAL[kind][0], (64, 96))
        found[kind] = guess_card(path)[0].classes
    assert found["RT-DETR"] == COCO_80
    assert len(found["DETR"]) == len(found["RetinaNet"]) == 91
    numbers = {"unused 0": 0, "person": 1, "stop sign": 13, "toothbrush": 90}
    assert {name: found["DETR"].index(name) for name in numbers} == numbers
    assert {name for name in found["DETR"] if "unused" not in name} == set(COCO_80)
    assert len(found["FCOS"]) == len(found["RetinaNet, maps"]) == 7
    with pytest.raises(ModelError, match="says neither its classes"):
        resolve_card(read_onnx(several(tmp_path / "m.onnx", SEVERAL["D-FINE"][0], (64, 96))))


def test_a_card_that_says_part_of_the_output_keeps_what_the_graph_tells(tmp_path: Path) -> None:
    path = several(tmp_path / "m.onnx", SEVERAL["TensorFlow"][0], (64, 96))
    size = {"height": 64, "width": 96}
    beside(path, head="boxes_scores_classes", input=size, output={"first_class": 0})
    resolved = resolve_card(read_onnx(path))
    assert resolved.card.output is not None
    assert resolved.card.output.first_class == 0
    assert resolved.card.output.boxes == "yxyx_normalised"
    assert resolved.sources["output"] == "card m.model.yaml"
    assert resolved.card.detection == DetectionCard(nms_iou=None, clip_to_image=False)


@pytest.mark.parametrize(
    ("columns", "head", "boxes"),
    [(6, "end_to_end", "cxcywh_normalised"), (7, "detr", "cxcywh_normalised")],
)
def test_ultralytics_rt_detr(columns: int, head: str, boxes: str, tmp_path: Path) -> None:
    names = {"names": "{0: 'a', 1: 'b', 2: 'c'}", "head": "RTDETRDecoder"}
    path = model(tmp_path, (1, 300, columns), metadata=ULTRALYTICS | names, size=(64, 96))
    resolved = resolve_card(read_onnx(path))
    card = resolved.card
    assert (card.head, card.input.resize) == (head, "stretch")
    assert card.output is not None
    assert card.output.boxes == boxes
    assert card.detection is not None
    assert card.detection.nms_iou is None
    assert not card.detection.clip_to_image
    assert resolved.sources["output"] == "metadata"


NOT_COVERED = {
    "masks beside boxes": ({"boxes": ((1, 9, 38), F), "x": ((1, 32, 16, 24), F)}, "segmentation"),
    "masks by name": (
        {"boxes": (("n", 4), F), "labels": (("n",), L), "scores": (("n",), F),
         "masks": (("n", 1, 64, 96), F)},
        "segmentation",
    ),
    "keypoints": ({"boxes": (("n", 4), F), "keypoints": (("n", 17, 3), F)}, "pose"),
    "Ultralytics pose": ({"output0": ((1, 56, 126), F)}, "pose model of 17 keypoints"),
    "classes of pixels": ({"out": ((1, 21, 64, 96), F)}, "Segmentation masks"),
    "unknown": ({"a": ((1, 5, 7), F), "b": ((1, 5, 9), F)}, "isn't of a known kind"),
    "three unknown": (dict.fromkeys("abc", ((1, 5, 7), F)), "isn't of a known kind"),
    "ten unknown": (dict.fromkeys("abcdefghij", ((1, 5, 7, 7), F)), "isn't of a known kind"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_COVERED)
def test_what_is_not_covered_is_recognised_and_named(kind: str, tmp_path: Path) -> None:
    outputs, message = NOT_COVERED[kind]
    with pytest.raises(ModelError, match=message):
        guess_card(several(tmp_path / "m.onnx", outputs, (64, 96)))
