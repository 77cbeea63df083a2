"""Which family of models a graph's outputs belong to, by their shapes and names."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from visiondyno.errors import ModelError
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.runtimes.graph_input import GraphInput, output_shapes
from visiondyno.specs.model_card import BoxFormat, HeadName, OutputCard, OutputRole
from visiondyno.vision.heads import Shape, show_shape
from visiondyno.vision.heads.grid import ANCHORS_A_CELL, cell_count
from visiondyno.vision.heads.nanodet import NANODET_STRIDES
from visiondyno.vision.heads.retinanet import PYRAMID_STRIDES
from visiondyno.vision.heads.yolo import grid_cells

NANODET_COLUMNS = 4 * 8
"""Of NanoDet's four distributions with the usual 8 bins."""
DETR_SOFTMAX_COLUMNS = 92
"""COCO's 91 category numbers and "no object": the only softmax model that its shape tells."""
_FASTESTDET_STRIDE = 16
_POSE_CHANNELS = 4 + 1 + 17 * 3
_DEPTH_WORDS = ("depth", "disparity")

_ROLES_BY_NAME: dict[str, OutputRole] = {
    "boxes": "boxes", "bboxes": "boxes", "bbox": "boxes", "detection_boxes": "boxes",
    "det_boxes": "boxes", "pred_boxes": "boxes",
    "dets": "boxes_and_scores",
    "scores": "scores", "detection_scores": "scores", "det_scores": "scores",
    "logits": "scores", "pred_logits": "scores", "cls_logits": "scores",
    "bbox_regression": "boxes", "bbox_ctrness": "centerness", "centerness": "centerness",
    "classes": "classes", "labels": "classes", "class_ids": "classes",
    "detection_classes": "classes", "det_classes": "classes",
    "num_detections": "count", "num_dets": "count",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """What a graph's outputs tell.

    Attributes:
        head: that reads them.
        like_yolox: its input is pre-processed as YOLOX does, whatever its head.
        output: their layout, where the head leaves a choice.
        notes: what a reader of the report must know.
    """

    head: HeadName
    like_yolox: bool = False
    output: OutputCard | None = None
    notes: tuple[str, ...] = field(default=())


def recognise(facts: GraphFacts, graph_input: GraphInput) -> Family:
    """The family of the model that `facts` describe.

    Raises:
        ModelError: no known family has such outputs, or one that isn't covered has.
    """
    shapes = output_shapes(facts, graph_input)
    names = [_plain_name(output.name) for output in facts.outputs]
    _refuse_masks_and_keypoints(facts, names, shapes)
    if len(shapes) == 1:
        return _single(facts, graph_input, shapes[0])
    family = (
        _named_boxes(facts, names, shapes)
        or _scores_and_boxes(graph_input, names, shapes)
        or _pyramid_maps(graph_input, shapes)
    )
    if family:
        return family
    if len(shapes[0]) == 3 and all(len(shape) == 5 for shape in shapes[1:]):
        # The YOLOv5 repository's older exports add the raw feature maps.
        family = _single(facts, graph_input, shapes[0])
        unused: list[OutputRole] = ["unused"] * (len(shapes) - 1)
        return Family(
            family.head, family.like_yolox, OutputCard(roles=("predictions", *unused)), family.notes
        )
    raise unknown_outputs(facts)


def unknown_outputs(facts: GraphFacts, hint: str = "") -> ModelError:
    """The error for outputs of no known kind."""
    listed = ", ".join(f"'{output.name}' {show_shape(output.shape)}" for output in facts.outputs)
    return ModelError(
        f"{facts.path}: its output isn't of a known kind ({listed}). {hint}If a head fits, write a "
        "model card by hand (docs/model-cards.md)."
    )


def _plain_name(name: str) -> str:
    """`StatefulPartitionedCall/detection_boxes:0` → `detection_boxes`."""
    return name.rsplit("/", 1)[-1].split(":", 1)[0].lower()


def _refuse_masks_and_keypoints(
    facts: GraphFacts, names: Sequence[str], shapes: Sequence[Shape]
) -> None:
    two_with_map = len(shapes) == 2 and sorted(len(shape) for shape in shapes) == [3, 4]
    if two_with_map or any("mask" in name or "proto" in name for name in names):
        raise unknown_outputs(facts, "It looks like a segmentation model, which isn't covered. ")
    if any("keypoint" in name or "heatmap" in name for name in names):
        raise unknown_outputs(facts, "It looks like a pose model, which isn't covered. ")


def _single(facts: GraphFacts, graph_input: GraphInput, shape: Shape) -> Family:
    if len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1)):
        return Family("classification")
    if _is_depth(facts.outputs[0].name, graph_input, shape):
        note = "A map of one value a pixel: assumed to be inverse depth, as MiDaS gives it."
        return Family("depth", notes=(note,))
    if len(shape) == 4:
        return _grid_head(facts, graph_input, shape)
    if len(shape) != 3:
        raise unknown_outputs(facts)
    return _boxes_head(facts, graph_input, shape)


def _is_depth(name: str, graph_input: GraphInput, shape: Shape) -> bool:
    if len(shape) == 3:
        sides = shape[1:]
    elif len(shape) == 4 and 1 in (shape[1], shape[3]):
        sides = shape[2:] if shape[1] == 1 else shape[1:3]
    else:
        return False
    if any(word in name.lower() for word in _DEPTH_WORDS):
        return True
    return None not in sides and sides == (graph_input.height, graph_input.width)


def _grid_head(facts: GraphFacts, graph_input: GraphInput, shape: Shape) -> Family:
    _, channels, rows, columns = shape
    height, width = graph_input.height, graph_input.width
    if not (height and width and channels and channels > 5) or (rows, columns) != (
        height // _FASTESTDET_STRIDE,
        width // _FASTESTDET_STRIDE,
    ):
        raise unknown_outputs(
            facts, "Segmentation masks and the heat maps of pose models aren't covered. "
        )
    return Family("fastestdet")


def _boxes_head(facts: GraphFacts, graph_input: GraphInput, shape: Shape) -> Family:
    _, second, third = shape
    height, width = graph_input.height, graph_input.width
    cells = grid_cells(height, width) if height and width else None
    if cells and second == cells and third and third > 5:
        # An exponential in the graph means that it decodes its boxes itself.
        return Family("yolov5" if "Exp" in facts.operators else "yolox", like_yolox=True)
    if cells and second == 3 * cells and third and third > 5:
        return Family("yolov5")
    points = cell_count(height, width, NANODET_STRIDES) if height and width else None
    if points and second == points and third and third > NANODET_COLUMNS:
        return Family("nanodet")
    if third == 6:
        return Family("end_to_end")
    if second == _POSE_CHANNELS and third and third > second:
        raise unknown_outputs(
            facts, "It looks like a pose model of 17 keypoints, which isn't covered. "
        )
    if second and second > 4 and (third is None or third == cells or third > second):
        return Family("yolov8")
    raise unknown_outputs(facts)


def _named_boxes(facts: GraphFacts, names: Sequence[str], shapes: Sequence[Shape]) -> Family | None:
    """Boxes, scores and classes as outputs of their own, by names, else by types and shapes."""
    roles = _named_roles(names)
    if not _is_boxes_scores_classes(roles):
        roles = tuple(
            _role_by_type(output.dtype, shape)
            for output, shape in zip(facts.outputs, shapes, strict=True)
        )
        if len(roles) != 3 or not _is_boxes_scores_classes(roles):
            return None
    if any(name.startswith("detection_") for name in names):
        output = OutputCard(roles=roles, boxes="yxyx_normalised", first_class=1)
        return Family("boxes_scores_classes", output=output)
    if len(facts.outputs[roles.index("classes")].shape) == 1:
        note = "Boxes without an axis of images: class numbers are assumed to begin at 1."
        output = OutputCard(roles=roles, boxes="xyxy_pixels", first_class=1)
        return Family("boxes_scores_classes", output=output, notes=(note,))
    output = OutputCard(roles=roles, boxes="xyxy_pixels", first_class=0)
    return Family("boxes_scores_classes", output=output)


def _is_boxes_scores_classes(roles: Sequence[OutputRole]) -> bool:
    counts = Counter(role for role in roles if role not in ("unused", "count"))
    return counts in (
        Counter(["boxes", "scores", "classes"]),
        Counter(["boxes_and_scores", "classes"]),
    )


def _role_by_type(dtype: str, shape: Shape) -> OutputRole:
    if shape and shape[-1] == 4 and len(shape) in (2, 3):
        return "boxes"
    if len(shape) not in (1, 2):
        return "unused"
    return "classes" if dtype.startswith("int") else "scores"


def _named_roles(names: Sequence[str]) -> tuple[OutputRole, ...]:
    return tuple(_ROLES_BY_NAME.get(name, "unused") for name in names)


def _scores_and_boxes(
    graph_input: GraphInput, names: Sequence[str], shapes: Sequence[Shape]
) -> Family | None:
    """DETR's logits and boxes (by name where there are more outputs), RetinaNet's, FCOS's."""
    roles = _named_roles(names)
    if not _is_scores_and_boxes(roles):
        by_columns: dict[int | None, OutputRole] = {4: "boxes", 1: "centerness"}
        if len(shapes) > 3 or any(len(shape) != 3 for shape in shapes):
            return None
        roles = tuple(by_columns.get(shape[2], "scores") for shape in shapes)
    found = dict(zip(roles, shapes, strict=True))
    if not _is_scores_and_boxes(roles) or {len(found["scores"]), len(found["boxes"])} != {3}:
        return None
    height, width = graph_input.height, graph_input.width
    cells = cell_count(height, width, PYRAMID_STRIDES) if height and width else None
    count = found["boxes"][1]
    if cells and count in (cells, ANCHORS_A_CELL * cells):
        form: BoxFormat = "distances" if count == cells else "anchor_offsets"
        return Family("retinanet", output=OutputCard(roles=roles, boxes=form))
    return None if "centerness" in roles else _detr(roles, found["scores"][2])


def _is_scores_and_boxes(roles: Sequence[OutputRole]) -> bool:
    counts = Counter(role for role in roles if role != "unused")
    return counts in (
        Counter(["scores", "boxes"]),
        Counter(["scores", "boxes", "centerness"]),
    )


def _detr(roles: tuple[OutputRole, ...], columns: int | None) -> Family:
    if columns == DETR_SOFTMAX_COLUMNS:
        said = OutputCard(roles=roles, score_activation="softmax_with_background")
        return Family("detr", output=said)
    note = "Scores of queries: a sigmoid is assumed (RT-DETR, D-FINE), not DETR's softmax."
    said = OutputCard(roles=roles, score_activation="sigmoid")
    return Family("detr", output=said, notes=(note,))


def _pyramid_maps(graph_input: GraphInput, shapes: Sequence[Shape]) -> Family | None:
    """One map a level and role: RetinaNet's two a level, or FCOS's three."""
    height, width = graph_input.height, graph_input.width
    levels = len(PYRAMID_STRIDES)
    if not (height and width) or len(shapes) not in (2 * levels, 3 * levels):
        return None
    if any(len(shape) != 4 for shape in shapes):
        return None
    anchors = len(shapes) == 2 * levels
    columns: dict[int | None, OutputRole] = (
        {4 * ANCHORS_A_CELL: "boxes"} if anchors else {4: "boxes", 1: "centerness"}
    )
    roles: tuple[OutputRole, ...] = tuple(columns.get(shape[1], "scores") for shape in shapes)
    if Counter(roles) != Counter([*columns.values(), "scores"] * levels):
        return None
    boxes: BoxFormat = "anchor_offsets" if anchors else "distances"
    return Family("retinanet", output=OutputCard(roles=roles, boxes=boxes))
