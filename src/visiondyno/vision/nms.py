"""Class-wise non-maximum suppression (NMS)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.predictions import FloatArray, IntArray

_FIRST_PREFIX = 1024
_FAR_PIXELS = 1e6


def class_wise_nms(
    boxes_xyxy: FloatArray,
    scores: FloatArray,
    class_ids: IntArray,
    iou_threshold: float,
    limit: int,
) -> IntArray:
    """Greedy NMS within each class: a box goes if a better kept one of its class overlaps it.

    "Overlaps" is an intersection over union **above** `iou_threshold`, as in torchvision.

    The greedy rule decides a box by better boxes only, so the answer for the best m boxes is a
    prefix of the answer for all: a growing prefix is solved until `limit` boxes are kept. Each
    class is solved by OpenCV, outside Python's global lock.

    Args:
        boxes_xyxy: (n, 4), finite, each with an area above 0.
        scores: (n,).
        class_ids: (n,).
        iou_threshold: in (0, 1].
        limit: at most so many boxes are kept, the best ones.

    Returns:
        indices of the kept boxes, best first; equal scores in the order given.
    """
    order = np.argsort(-scores, kind="stable")
    # Beyond any image an overlap has no meaning, and float arithmetic would lose the small boxes.
    corners = np.clip(boxes_xyxy[order].astype(np.float64), -_FAR_PIXELS, _FAR_PIXELS)
    rectangles = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    ranked_classes = class_ids[order]
    size = min(len(order), max(_FIRST_PREFIX, 2 * limit))
    while True:
        kept = _suppress(rectangles[:size], ranked_classes[:size], iou_threshold)
        if len(kept) >= limit or size == len(order):
            return order[kept[:limit]].astype(np.int64)
        size = min(len(order), size * 4)


def _suppress(
    rectangles_xywh: NDArray[np.float64], class_ids: IntArray, iou_threshold: float
) -> IntArray:
    """Ranks of the kept boxes, ascending; boxes come best first."""
    import cv2

    keep = np.zeros(len(class_ids), np.bool_)
    by_class = np.argsort(class_ids, kind="stable")
    edges = np.flatnonzero(np.diff(class_ids[by_class])) + 1
    # OpenCV sorts by score: a falling ramp keeps our order, ties and all.
    ramp = np.linspace(1.0, 0.5, max(len(class_ids), 1), dtype=np.float32)
    for ranks in np.split(by_class, edges):
        if len(ranks) < 2:
            keep[ranks] = True
            continue
        # The stubs ask for sequences; arrays are converted without a Python object per number.
        boxes: Any = rectangles_xywh[ranks]
        scores: Any = ramp[: len(ranks)]
        chosen = cv2.dnn.NMSBoxes(boxes, scores, 0.0, iou_threshold)
        keep[ranks[np.asarray(chosen, np.int64)]] = True
    return np.flatnonzero(keep)
