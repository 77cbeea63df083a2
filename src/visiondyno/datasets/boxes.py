"""Boxes between the labels' forms, and whether a labelled box can be right.

Three forms: `xyxy` is left, top, right, bottom in pixels; COCO's `xywh` is left, top, width, height
in pixels; YOLO's is centre x, centre y, width, height as fractions of the image.
"""

import math
from collections.abc import Sequence

import numpy as np

from visiondyno.predictions import BoxTruth

Box = tuple[float, float, float, float]

OUTSIDE_TOLERANCE_PX = 1.0
"""How far a label may reach outside its image: labels are rounded when they are written."""


def coco_to_xyxy(box: Box) -> Box:
    """COCO's left, top, width, height to left, top, right, bottom; pixels."""
    left, top, width, height = box
    return left, top, left + width, top + height


def xyxy_to_coco(box: Box) -> Box:
    """Left, top, right, bottom to COCO's left, top, width, height; pixels."""
    left, top, right, bottom = box
    return left, top, right - left, bottom - top


def yolo_to_xyxy(box: Box, width: int, height: int) -> Box:
    """YOLO's centre and size in fractions of a `width` × `height` image to pixels."""
    x, y, w, h = box
    return (
        (x - w / 2) * width,
        (y - h / 2) * height,
        (x + w / 2) * width,
        (y + h / 2) * height,
    )


def xyxy_to_yolo(box: Box, width: int, height: int) -> Box:
    """Left, top, right, bottom in pixels of a `width` × `height` image to YOLO's fractions."""
    left, top, right, bottom = box
    return (
        (left + right) / 2 / width,
        (top + bottom) / 2 / height,
        (right - left) / width,
        (bottom - top) / height,
    )


def polygon_box(points: Sequence[tuple[float, float]]) -> Box:
    """The box around a polygon: left, top, right, bottom in the polygon's unit."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def polygon_area(points: Sequence[tuple[float, float]]) -> float:
    """Area of a simple polygon by the shoelace formula, in the polygon's unit squared."""
    following = [*points[1:], points[0]]
    doubled = sum(
        x * next_y - next_x * y for (x, y), (next_x, next_y) in zip(points, following, strict=True)
    )
    return abs(doubled) / 2


def box_problem(box: Box, width: int, height: int) -> str | None:
    """What is wrong with an `xyxy` box in a `width` × `height` image, or None."""
    left, top, right, bottom = box
    if not all(map(math.isfinite, box)):
        return "its box isn't made of finite numbers"
    if right <= left or bottom <= top:
        return f"its box is {right - left:g} × {bottom - top:g} pixels, which is no area"
    outside = max(-left, -top, right - width, bottom - height)
    if outside > OUTSIDE_TOLERANCE_PX:
        return f"its box reaches {outside:.1f} pixels outside the {width}×{height} image"
    return None


def box_truth(
    boxes: Sequence[Box],
    class_ids: Sequence[int],
    areas: Sequence[float],
    is_crowd: Sequence[bool] | None = None,
) -> BoxTruth:
    """The labelled boxes of one image: `xyxy` pixels, areas in square pixels; no crowd if None."""
    return BoxTruth(
        boxes_xyxy=np.asarray(boxes, np.float64).reshape(-1, 4),
        class_ids=np.asarray(class_ids, np.int64),
        is_crowd=np.asarray(is_crowd if is_crowd is not None else [False] * len(boxes), np.bool_),
        areas=np.asarray(areas, np.float64),
    )
