"""From class scores and boxes to detections: the part that all detectors share."""

from collections.abc import Callable

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import Detections, FloatArray, IntArray
from visiondyno.specs.model_card import DetectionCard, ModelCard
from visiondyno.vision.nms import class_wise_nms
from visiondyno.vision.preprocess import Geometry

BoxesAt = Callable[[IntArray], FloatArray]
"""Box indices (k,) to their boxes (k, 4) xyxy in input pixels; only candidates are decoded."""


def settings_of(card: ModelCard) -> DetectionCard:
    """The card's detection part, or its defaults."""
    return card.detection or DetectionCard()


def without_nms(card: ModelCard) -> DetectionCard:
    """The same for heads whose models need no NMS, or do it themselves."""
    return settings_of(card).model_copy(update={"nms_iou": None})


def detections_from_scores(
    scores: FloatArray,
    boxes_at: BoxesAt,
    settings: DetectionCard,
    geometry: Geometry,
    confidence: float,
) -> Detections:
    """Candidates above `confidence`, then NMS, then the original image's pixels.

    Args:
        scores: (boxes, classes).
        boxes_at: decodes boxes by their index.
        settings: NMS, several classes a box, and limits.
        geometry: of the image.
        confidence: scores at or below it are dropped.
    """
    if settings.several_classes_a_box:
        boxes_index, class_ids = _above(scores, confidence)
    else:
        best = scores.argmax(axis=1)
        boxes_index = np.flatnonzero(scores[np.arange(len(scores)), best] > confidence)
        class_ids = best[boxes_index]
    values = scores[boxes_index, class_ids]
    if len(values) > settings.max_candidates:
        top = np.argpartition(-values, settings.max_candidates - 1)[: settings.max_candidates]
        top.sort()
        boxes_index, class_ids, values = boxes_index[top], class_ids[top], values[top]
    return finish(boxes_at(boxes_index), values, class_ids, settings, geometry)


def finish(
    boxes_xyxy: FloatArray,
    scores: FloatArray,
    class_ids: IntArray,
    settings: DetectionCard,
    geometry: Geometry,
) -> Detections:
    """NMS (where the card asks for it), best first, mapped back, cut at the image if so asked.

    Boxes without an area (after the cut: none inside the image) are dropped.

    Raises:
        ModelError: a box isn't finite.
    """
    if not np.isfinite(boxes_xyxy).all():
        raise ModelError(
            "The model gave a box that isn't finite; check the export, and that an fp16 model "
            "doesn't overflow."
        )
    boxes_xyxy, scores, class_ids = _with_area(boxes_xyxy, scores, class_ids)
    if settings.nms_iou is None:
        best = np.argsort(-scores, kind="stable")[: settings.max_detections]
    else:
        best = class_wise_nms(
            boxes_xyxy, scores, class_ids, settings.nms_iou, settings.max_detections
        )
    mapped = geometry.to_original(boxes_xyxy[best], clip=settings.clip_to_image)
    return Detections(*_with_area(mapped, scores[best], class_ids[best].astype(np.int64)))


def image_edges(geometry: Geometry) -> FloatArray:
    """(4,) xyxy: where the original image lies in the input, in input pixels."""
    right = geometry.offset_x + geometry.width * geometry.scale_x
    bottom = geometry.offset_y + geometry.height * geometry.scale_y
    return np.array([geometry.offset_x, geometry.offset_y, right, bottom], np.float32)


def cut_at(boxes_xyxy: FloatArray, edges: FloatArray) -> FloatArray:
    """Boxes (n, 4) cut at `edges` (4,) xyxy, for families that cut before NMS."""
    return np.clip(boxes_xyxy, np.tile(edges[:2], 2), np.tile(edges[2:], 2))


def centre_to_corners(boxes_xywh: FloatArray) -> FloatArray:
    """Boxes (n, 4) from centre x, centre y, width, height to left, top, right, bottom."""
    centre, half = boxes_xywh[:, :2], boxes_xywh[:, 2:] * np.float32(0.5)
    return np.concatenate([centre - half, centre + half], axis=1)


def _above(scores: FloatArray, confidence: float) -> tuple[IntArray, IntArray]:
    mask = scores > confidence
    if mask.flags.c_contiguous:
        boxes_index, class_ids = np.divmod(np.flatnonzero(mask), max(mask.shape[1], 1))
        return boxes_index, class_ids
    # A transposed view (YOLOv8's classes × boxes): walking it in memory order is 10 times faster.
    class_ids, boxes_index = np.nonzero(mask.T)
    return boxes_index, class_ids


def _with_area(
    boxes_xyxy: FloatArray, scores: FloatArray, class_ids: IntArray
) -> tuple[FloatArray, FloatArray, IntArray]:
    has_area = (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(axis=1)
    if has_area.all():
        return boxes_xyxy, scores, class_ids
    return boxes_xyxy[has_area], scores[has_area], class_ids[has_area]
