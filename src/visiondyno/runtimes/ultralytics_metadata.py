"""What Ultralytics' exporters write into a model file, or beside it."""

import ast
from typing import Any

from visiondyno.errors import ModelError
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.runtimes.graph_input import GraphInput
from visiondyno.runtimes.known_shapes import UINT8_SCALE
from visiondyno.runtimes.partial_card import PartialCard
from visiondyno.specs.model_card import BoxFormat, DetectionCard, HeadName, InputCard, OutputCard

_TASKS = {"detect": "detection", "classify": "classification"}
_RT_DETR = "RTDETRDecoder"


def read_ultralytics(facts: GraphFacts, graph_input: GraphInput) -> PartialCard | None:
    """The parts of a card that `facts.metadata` says, or None where Ultralytics wrote nothing.

    YOLOv8 and later say task, names, image size and whether NMS is inside; the YOLOv5 repository's
    exporter says the names only.

    Raises:
        ModelError: the metadata names a task that isn't covered, or can't be parsed.
    """
    metadata = facts.metadata
    if "names" not in metadata or "stride" not in metadata:
        return None
    parts: dict[str, Any] = {"classes": _names(facts)}
    task = metadata.get("task")
    if task is None:
        return PartialCard("metadata", parts)
    if task not in _TASKS:
        raise ModelError(
            f"{facts.path} is an Ultralytics model for '{task}', which isn't covered in this "
            "version; detection and classification are (docs/model-cards.md says why)."
        )
    parts["task"] = _TASKS[task]
    parts["license"] = metadata.get("license")
    parts["source"] = metadata.get("description")
    height, width = _image_size(facts, graph_input)
    if task == "classify":
        parts |= {"head": "classification", "activation": "none"}
        # Ultralytics scales with antialiasing, which OpenCV has as `area`.
        resize: dict[str, Any] = {
            "resize": "shortest_side_crop",
            "crop_from": max(height, width),
            "interpolation": "area",
        }
    else:
        found, resize = _detector(facts, graph_input, len(parts["classes"]))
        parts |= found
    takes_pixels = graph_input.dtype == "uint8" and graph_input.quantisation is None
    parts["input"] = InputCard(
        height=height,
        width=width,
        channels="rgb",
        scale=UINT8_SCALE if takes_pixels else 1 / 255,
        layout=graph_input.layout,
        dtype=graph_input.dtype,
        quantisation=graph_input.quantisation,
        **resize,
    )
    return PartialCard("metadata", parts)


def _detector(
    facts: GraphFacts, graph_input: GraphInput, class_count: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts of a detector's card, and how its images are resized."""
    if facts.metadata.get("head") == _RT_DETR:
        return _rt_detr(facts, class_count), {"resize": "stretch"}
    head: HeadName = "end_to_end" if _has_nms(facts) else "yolov8"
    parts: dict[str, Any] = {"head": head}
    if (boxes := _normalised_boxes(facts, graph_input, head)) is not None:
        parts["output"] = OutputCard(boxes=boxes)
    return parts, {"resize": "letterbox", "pad_value": 114}


def _normalised_boxes(
    facts: GraphFacts, graph_input: GraphInput, head: HeadName
) -> BoxFormat | None:
    """How a .tflite file writes boxes; None where it is as in all other formats: pixels.

    Fractions of the input keep quantised outputs exact. Of models with their own NMS, only the
    earlier exporter's (which takes channels last) have them.
    """
    if facts.path.suffix.lower() != ".tflite":
        return None
    if head == "yolov8":
        return "cxcywh_normalised"
    return "xyxy_normalised" if graph_input.layout == "nhwc" else None


def _rt_detr(facts: GraphFacts, classes: int) -> dict[str, Any]:
    """Boxes are fractions of the input: with a score and a class, or (until 8.3) all scores."""
    columns = facts.outputs[0].shape[-1] if facts.outputs[0].shape else None
    # Ultralytics' validator takes the best class of each query, and doesn't cut boxes.
    detection = DetectionCard(nms_iou=None, several_classes_a_box=False, clip_to_image=False)
    if columns == 6 or columns != 4 + classes:
        output = OutputCard(roles=("predictions",), boxes="cxcywh_normalised")
        return {"head": "end_to_end", "output": output, "detection": detection}
    output = OutputCard(roles=("boxes_and_scores",), score_activation="none")
    return {"head": "detr", "output": output, "detection": detection}


def _names(facts: GraphFacts) -> tuple[str, ...]:
    names = _literal(facts, "names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))) and names:
        return tuple(str(names[index]) for index in range(len(names)))
    if isinstance(names, list | tuple) and names:
        return tuple(str(name) for name in names)
    raise ModelError(
        f"{facts.path}: its metadata 'names' isn't a list or a numbered dict of class names; "
        "export the model again."
    )


def _image_size(facts: GraphFacts, graph_input: GraphInput) -> tuple[int, int]:
    # A fixed graph can't take another size than its own, whatever the metadata says.
    if graph_input.height and graph_input.width:
        return graph_input.height, graph_input.width
    size = _literal(facts, "imgsz") if "imgsz" in facts.metadata else 640
    sides = [size, size] if isinstance(size, int) else size
    if not (
        isinstance(sides, list | tuple)
        and len(sides) == 2
        and all(isinstance(side, int) and side > 0 for side in sides)
    ):
        raise ModelError(
            f"{facts.path}: its metadata 'imgsz' isn't a size; export the model again."
        )
    return graph_input.height or sides[0], graph_input.width or sides[1]


def _has_nms(facts: GraphFacts) -> bool:
    if facts.metadata.get("end2end", "False") == "True":
        return True
    arguments = _literal(facts, "args") if "args" in facts.metadata else {}
    return isinstance(arguments, dict) and arguments.get("nms") is True


def _literal(facts: GraphFacts, key: str) -> Any:
    try:
        return ast.literal_eval(facts.metadata[key])
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ModelError(
            f"{facts.path}: its metadata '{key}' can't be parsed; export the model again."
        ) from error
