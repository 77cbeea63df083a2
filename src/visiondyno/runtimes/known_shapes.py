"""What the shapes of well-known exports tell, for models that say nothing themselves."""

from typing import Any

from visiondyno.class_names import COCO_80
from visiondyno.errors import ModelError
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.runtimes.graph_input import GraphInput, output_shapes
from visiondyno.runtimes.output_families import (
    NANODET_COLUMNS,
    Family,
    recognise,
)
from visiondyno.runtimes.partial_card import PartialCard
from visiondyno.specs.model_card import DetectionCard, HeadName, InputCard, OutputCard
from visiondyno.vision.heads import HEADS

UINT8_SCALE = 1.0
_DEFAULT_SIDE = {"detection": 640, "classification": 224, "depth": 384}
_IMAGENET_CROP_RATIO = 256 / 224
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# Numbers of COCO's categories that have no class; 0 is nothing's.
_COCO_GAPS = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_NUMBERS = 91

# Input conventions of families; what isn't said is `InputCard`'s default.
_STYLES: dict[str, dict[str, Any]] = {
    "yolox": {"resize": "letterbox_top_left", "channels": "bgr", "scale": 1.0},
    "fastestdet": {"resize": "stretch", "interpolation": "area", "channels": "bgr"},
    "classification": {"resize": "shortest_side_crop", "interpolation": "area", **_IMAGENET},
    "boxes_scores_classes": {"resize": "stretch"},
    "nanodet": {
        "resize": "stretch",
        "channels": "bgr",
        "scale": 1.0,
        "mean": (103.53, 116.28, 123.675),
        "std": (57.375, 57.12, 58.395),
    },
    "retinanet": {"resize": "letterbox_top_left", **_IMAGENET},
    "depth": {"resize": "stretch", "interpolation": "cubic", **_IMAGENET},
}

_DETECTION: dict[HeadName, DetectionCard] = {
    # Ultralytics' validation settings.
    "yolov8": DetectionCard(),
    # YOLOv5's val.py.
    "yolov5": DetectionCard(nms_iou=0.6),
    # YOLOX's evaluator, with the candidates bounded.
    "yolox": DetectionCard(nms_iou=0.65, max_candidates=1000, clip_to_image=False),
    # FastestDet's own evaluation.
    "fastestdet": DetectionCard(
        confidence=0.01, nms_iou=0.45, several_classes_a_box=False, clip_to_image=False
    ),
    "end_to_end": DetectionCard(nms_iou=None),
    # Boxes as they come: DETR and its followers don't cut them, others have done it inside.
    "boxes_scores_classes": DetectionCard(nms_iou=None, clip_to_image=False),
    "detr": DetectionCard(nms_iou=None, clip_to_image=False),
    # NanoDet's multiclass_nms; torchvision's RetinaNet.
    "nanodet": DetectionCard(nms_iou=0.6, max_detections=100),
    "retinanet": DetectionCard(nms_iou=0.5, max_candidates=5000),
}


def conventional_detection(
    head: HeadName, output: OutputCard | None = None
) -> DetectionCard | None:
    """How the makers of `head` choose boxes when they score accuracy; None if it isn't detection.

    `output` tells DETR (the best class of a query) from its followers, and FCOS from RetinaNet.
    """
    if output and output.score_activation == "softmax_with_background":
        return DetectionCard(nms_iou=None, several_classes_a_box=False, clip_to_image=False)
    if output and output.boxes == "distances":
        return DetectionCard(nms_iou=0.6, max_candidates=5000)
    return _DETECTION.get(head)


def known_output(facts: GraphFacts, graph_input: GraphInput, head: HeadName) -> OutputCard | None:
    """The layout that shapes and names tell if the model is `head`'s; None where they don't."""
    try:
        family = recognise(facts, graph_input)
    except ModelError:
        return None
    return family.output if family.head == head else None


def known_shape(
    facts: GraphFacts, graph_input: GraphInput, said: dict[str, Any], *, strict: bool
) -> tuple[PartialCard, PartialCard]:
    """The parts that the graph's shapes tell, and those that are assumed where they don't.

    Args:
        facts: of the file.
        graph_input: its image input.
        said: parts that better sources know already.
        strict: raise where the number of classes can't be known, instead of inventing names.

    Raises:
        ModelError: no known family has outputs of these shapes.
    """
    head: HeadName | None = said.get("head")
    family = (
        Family(head, output=known_output(facts, graph_input, head))
        if head
        else recognise(facts, graph_input)
    )
    task = HEADS[family.head].task
    notes = list(family.notes)
    parts: dict[str, Any] = {"task": task, "head": family.head, "output": family.output}
    if "input" not in said:
        parts["input"] = _input(facts, family, graph_input, notes)
    assumed: dict[str, Any] = {}
    if "classes" not in said:
        assumed["classes"] = _class_names(facts, graph_input, family, notes, strict=strict)
    if task == "classification":
        in_graph = facts.output_operators[0] == "Softmax"
        parts["activation"] = "none" if in_graph else "softmax"
        if not in_graph:
            notes.append("The graph doesn't end in a softmax: one is applied to its output.")
    return PartialCard("shape", parts, tuple(notes)), PartialCard("assumed", assumed)


def _input(
    facts: GraphFacts, family: Family, graph_input: GraphInput, notes: list[str]
) -> InputCard:
    head = family.head
    default = _DEFAULT_SIDE[HEADS[head].task]
    height, width = graph_input.height or default, graph_input.width or default
    if not (graph_input.height and graph_input.width):
        notes.append(f"The input takes any size: {width}×{height} is assumed.")
    fields = dict(_STYLES.get("yolox" if family.like_yolox else head, {}))
    if head == "classification":
        fields["crop_from"] = round(max(height, width) * _IMAGENET_CROP_RATIO)
    elif head == "detr":
        # RT-DETR and D-FINE feed plain pixels; the other DETRs normalise.
        plain = _columns(facts, graph_input, family) == len(COCO_80)
        fields = {"resize": "stretch"} | ({} if plain else _IMAGENET)
    if graph_input.quantisation is not None:
        fields["quantisation"] = graph_input.quantisation
    elif graph_input.dtype == "int8":
        raise ModelError(
            f"{facts.path} takes int8 and doesn't say what they stand for; give the input's "
            "'quantisation' in a model card."
        )
    elif graph_input.dtype == "uint8":
        fields |= {"scale": UINT8_SCALE, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return InputCard(
        height=height, width=width, layout=graph_input.layout, dtype=graph_input.dtype, **fields
    )


def _class_names(
    facts: GraphFacts, graph_input: GraphInput, family: Family, notes: list[str], *, strict: bool
) -> tuple[str, ...]:
    if family.head == "depth":
        return ()
    count = _columns(facts, graph_input, family)
    if count is None or count < 1:
        if strict:
            raise ModelError(
                f"{facts.path} says neither its classes nor how many there are; write a model "
                f"card with 'dyno models init {facts.path}' and correct its class names."
            )
        notes.append("The number of classes can't be known: COCO's 80 are a placeholder.")
        return COCO_80
    if count == len(COCO_80) and family.head != "classification":
        notes.append("80 unnamed classes: assumed to be COCO's.")
        return COCO_80
    if count == _COCO_NUMBERS and family.head in ("detr", "retinanet"):
        notes.append("91 unnamed classes: assumed to be COCO's category numbers.")
        names = iter(COCO_80)
        return tuple(
            f"unused {number}" if number in _COCO_GAPS else next(names)
            for number in range(_COCO_NUMBERS)
        )
    notes.append(f"{count} unnamed classes: called 'class 0' to 'class {count - 1}'.")
    return tuple(f"class {index}" for index in range(count))


def _columns(facts: GraphFacts, graph_input: GraphInput, family: Family) -> int | None:
    """How many classes the outputs have, where their shapes tell."""
    shapes = output_shapes(facts, graph_input)
    roles = (family.output.roles if family.output else None) or ("predictions",)
    of_classes = [
        shape
        for role, shape in zip(roles, shapes, strict=False)
        if role in ("predictions", "scores")
    ]
    if not of_classes:
        return None
    axis_and_extra = {
        "yolov8": (1, 4),
        "yolov5": (2, 5),
        "yolox": (2, 5),
        "fastestdet": (1, 5),
        "classification": (1, 0),
        "nanodet": (2, NANODET_COLUMNS),
        "detr": (2, 0),
    }
    shape = of_classes[0]
    if family.head == "retinanet" and len(shape) == 3:
        return shape[2]
    if family.head == "retinanet" and shape[1]:
        anchors = family.output is not None and family.output.boxes == "anchor_offsets"
        return shape[1] // 9 if anchors else shape[1]
    axis, extra = axis_and_extra.get(family.head, (None, 0))
    whole = shape[axis] if axis is not None and axis < len(shape) else None
    if family.output and family.output.score_activation == "softmax_with_background":
        extra = 1
    return None if whole is None else whole - extra
