"""What the shapes of well-known exports tell, for models that say nothing themselves."""

from collections.abc import Sequence
from typing import Any

from visiondyno.class_names import COCO_80
from visiondyno.errors import ModelError
from visiondyno.runtimes.graph_input import GraphInput
from visiondyno.runtimes.onnx_file import OnnxFacts
from visiondyno.runtimes.partial_card import PartialCard
from visiondyno.specs.model_card import DetectionCard, HeadName, InputCard
from visiondyno.vision.heads import HEADS, show_shape
from visiondyno.vision.heads.yolo import grid_cells

UINT8_SCALE = 1.0
_DEFAULT_SIDE = {"detection": 640, "classification": 224}
_FASTESTDET_STRIDE = 16
_IMAGENET_CROP_RATIO = 256 / 224
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

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
}


def conventional_detection(head: HeadName) -> DetectionCard | None:
    """How the makers of `head` choose boxes when they score accuracy; None for classifiers."""
    return _DETECTION.get(head)


def known_shape(
    facts: OnnxFacts, graph_input: GraphInput, said: dict[str, Any], *, strict: bool
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
    notes: list[str] = []
    yolox_input = False
    head: HeadName | None = said.get("head")
    if head is None:
        head, yolox_input = _head(facts, graph_input)
    task = HEADS[head].task
    parts: dict[str, Any] = {"task": task, "head": head}
    if "input" not in said:
        parts["input"] = _input(head, yolox_input, graph_input, notes)
    assumed: dict[str, Any] = {}
    if "classes" not in said:
        assumed["classes"] = _class_names(facts, head, notes, strict=strict)
    if task == "classification":
        in_graph = facts.output_operators[0] == "Softmax"
        parts["activation"] = "none" if in_graph else "softmax"
        if not in_graph:
            notes.append("The graph doesn't end in a softmax: one is applied to its output.")
    return PartialCard("shape", parts, tuple(notes)), PartialCard("assumed", assumed)


def _head(facts: OnnxFacts, graph_input: GraphInput) -> tuple[HeadName, bool]:
    """The head, and whether the input is YOLOX's."""
    shapes = [output.shape for output in facts.outputs]
    if _has_masks(shapes):
        raise _unknown(facts, "It looks like a segmentation model, which isn't covered. ")
    if len(shapes) != 1:
        raise _unknown(facts)
    shape = shapes[0]
    if len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1)):
        return "classification", False
    if len(shape) == 4:
        return _grid_head(facts, graph_input)
    if len(shape) != 3:
        raise _unknown(facts)
    return _boxes_head(facts, graph_input)


def _has_masks(shapes: Sequence[Sequence[int | None]]) -> bool:
    return len(shapes) == 2 and any(len(shape) == 4 for shape in shapes)


def _grid_head(facts: OnnxFacts, graph_input: GraphInput) -> tuple[HeadName, bool]:
    _, channels, rows, columns = facts.outputs[0].shape
    height, width = graph_input.height, graph_input.width
    if not (height and width and channels and channels > 5) or (rows, columns) != (
        height // _FASTESTDET_STRIDE,
        width // _FASTESTDET_STRIDE,
    ):
        raise _unknown(facts, "Segmentation and depth maps aren't covered. ")
    return "fastestdet", False


def _boxes_head(facts: OnnxFacts, graph_input: GraphInput) -> tuple[HeadName, bool]:
    _, second, third = facts.outputs[0].shape
    cells = (
        grid_cells(graph_input.height, graph_input.width)
        if graph_input.height and graph_input.width
        else None
    )
    if cells and second == cells and third and third > 5:
        # An exponential in the graph means that it decodes its boxes itself.
        return ("yolov5", True) if "Exp" in facts.operators else ("yolox", True)
    if cells and second == 3 * cells and third and third > 5:
        return "yolov5", False
    if third == 6:
        return "end_to_end", False
    if second and second > 4 and (third is None or third == cells or third > second):
        return "yolov8", False
    raise _unknown(facts)


def _input(
    head: HeadName, yolox_input: bool, graph_input: GraphInput, notes: list[str]
) -> InputCard:
    default = _DEFAULT_SIDE[HEADS[head].task]
    height, width = graph_input.height or default, graph_input.width or default
    if not (graph_input.height and graph_input.width):
        notes.append(f"The input takes any size: {width}×{height} is assumed.")
    fields: dict[str, Any] = {"scale": 1 / 255}
    if yolox_input:
        fields = {"resize": "letterbox_top_left", "channels": "bgr", "scale": 1.0}
    elif head == "fastestdet":
        fields |= {"resize": "stretch", "interpolation": "area", "channels": "bgr"}
    elif head == "classification":
        fields |= {
            "resize": "shortest_side_crop",
            "interpolation": "area",
            "crop_from": round(max(height, width) * _IMAGENET_CROP_RATIO),
            "mean": _IMAGENET_MEAN,
            "std": _IMAGENET_STD,
        }
    if graph_input.dtype == "uint8":
        fields |= {"scale": UINT8_SCALE, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return InputCard(
        height=height, width=width, layout=graph_input.layout, dtype=graph_input.dtype, **fields
    )


def _class_names(
    facts: OnnxFacts, head: HeadName, notes: list[str], *, strict: bool
) -> tuple[str, ...]:
    shape = facts.outputs[0].shape
    size = {"yolov8": 1, "yolov5": 2, "yolox": 2, "fastestdet": 1, "classification": 1}.get(head)
    extra = {"yolov8": 4, "yolov5": 5, "yolox": 5, "fastestdet": 5}.get(head, 0)
    whole = shape[size] if size is not None else None
    if whole is None:
        if strict:
            raise ModelError(
                f"{facts.path} says neither its classes nor how many there are; write a model "
                f"card with 'dyno models init {facts.path}' and correct its class names."
            )
        notes.append("The number of classes can't be known: COCO's 80 are a placeholder.")
        return COCO_80
    count = whole - extra
    if count == len(COCO_80) and head != "classification":
        notes.append("80 unnamed classes: assumed to be COCO's.")
        return COCO_80
    notes.append(f"{count} unnamed classes: called 'class 0' to 'class {count - 1}'.")
    return tuple(f"class {index}" for index in range(count))


def _unknown(facts: OnnxFacts, hint: str = "") -> ModelError:
    listed = ", ".join(f"'{output.name}' {show_shape(output.shape)}" for output in facts.outputs)
    return ModelError(
        f"{facts.path}: its output isn't of a known kind ({listed}). {hint}If a head fits, write a "
        f"model card with 'dyno models init {facts.path}'."
    )
