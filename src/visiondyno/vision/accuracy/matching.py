"""COCO's matching of detections to labelled boxes, done once for all areas, IoUs and resamples.

The rules are those of COCO's own evaluation (pycocotools `COCOeval.evaluateImg`), restated: within
one image and class, detections are served best score first, at most 100 of them. Each takes the
free labelled box with which it overlaps most, if IoU ≥ the threshold; a box that counts is
preferred to an ignored one (a crowd, or outside the area range); a crowd may be taken many times,
and overlap with a crowd is intersection over the detection's own area. A detection that took an
ignored box, or took none and is itself outside the area range, is ignored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from visiondyno.predictions import BoxTruth, Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's ten."""

AREA_NAMES = ("all", "small", "medium", "large")
AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]], np.float64)
"""COCO's area ranges in square pixels, both ends included, in the order of `AREA_NAMES`."""

MAX_DETECTIONS = 100
"""COCO's limit for one image and class."""

_IOU_CEILING = 1 - 1e-10
_AREAS, _IOUS = len(AREA_RANGES), len(IOU_THRESHOLDS)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class MatchTable:
    """Which detections count and which are right: all that accuracy needs of a data set.

    Detections are in COCO's order of accumulation: by class, then best score first, then by image.

    Attributes:
        n_images: images scored, with or without boxes.
        n_classes: scored classes; `classes` indexes them.
        images: (d,) int64, the image of each detection.
        classes: (d,) int64.
        scores: (d,) float64.
        sources: (d,) int64, the detection's place in its image's `Detections`.
        hits: (areas, IoUs, d) bool, took a labelled box that counts (true positives).
        counted: (areas, IoUs, d) bool, not ignored (true and false positives).
        taken: (d,) int64, the place in the image's `BoxTruth` of the box taken at IoU 0.5 with
            no area limit, −1 for none.
        positives: (areas, classes, images) int64, labelled boxes that count.
    """

    n_images: int
    n_classes: int
    images: IntArray
    classes: IntArray
    scores: FloatArray
    sources: IntArray
    hits: BoolArray
    counted: BoolArray
    taken: IntArray
    positives: IntArray


def match(
    truths: Sequence[BoxTruth], predictions: Sequence[Detections], class_ids: Sequence[int]
) -> MatchTable:
    """Match every image's detections to its labelled boxes.

    Args:
        truths: one an image.
        predictions: one an image, in the same order; class ids are the data set's.
        class_ids: the classes to score; boxes of others are left out on both sides.
    """
    gathered = _gather(predictions, class_ids)
    images, classes, _, sources, areas = gathered
    outside = (areas < AREA_RANGES[:, :1]) | (areas > AREA_RANGES[:, 1:])
    taken_any = np.zeros((_AREAS, _IOUS, len(images)), np.bool_)
    ignored = np.repeat(outside[:, None, :], _IOUS, axis=1)
    taken = np.full(len(images), -1, np.int64)
    positives = np.zeros((_AREAS, len(class_ids), len(truths)), np.int64)
    # Where each image's run of each class begins: detections are served run by run.
    runs = _runs(images, classes, len(class_ids))
    for image, (truth, found) in enumerate(zip(truths, predictions, strict=True)):
        for place, class_id in enumerate(class_ids):
            of_class = np.flatnonzero(truth.class_ids == class_id)
            if not len(of_class):
                continue
            out_of_use = _ignored_truths(truth, of_class)
            positives[:, place, image] = (~out_of_use).sum(axis=1)
            run = runs.get((image, place))
            if run is None:
                continue
            ious = _overlaps(found.boxes_xyxy[sources[run]], truth, of_class)
            served = _serve(ious, out_of_use, truth.is_crowd[of_class])
            taken_any[:, :, run] = served >= 0
            on_ignored = np.take_along_axis(
                out_of_use, np.maximum(served, 0).reshape(_AREAS, -1), axis=1
            ).reshape(served.shape)
            ignored[:, :, run] = np.where(served >= 0, on_ignored, ignored[:, :, run])
            first = served[0, 0]
            taken[run] = np.where(first >= 0, of_class[np.maximum(first, 0)], -1)
    return _accumulate(gathered, taken_any, ignored, taken, positives)


_Gathered = tuple[IntArray, IntArray, FloatArray, IntArray, FloatArray]


def _gather(predictions: Sequence[Detections], class_ids: Sequence[int]) -> _Gathered:
    """All scored detections by image, class and falling score: image, class, score, source, area.

    At most `MAX_DETECTIONS` of one image and class are kept; equal scores stay in their order.
    """
    counts = [len(found) for found in predictions]
    images = np.repeat(np.arange(len(predictions)), counts)
    sources = np.concatenate([np.arange(n) for n in counts])
    ids = np.concatenate([p.class_ids for p in predictions])
    scores = np.concatenate([p.scores.astype(np.float64) for p in predictions])
    boxes = np.concatenate([p.boxes_xyxy.astype(np.float64) for p in predictions])
    size = boxes[:, 2:] - boxes[:, :2]
    places = {class_id: place for place, class_id in enumerate(class_ids)}
    classes = np.array([places.get(i, -1) for i in ids.tolist()], np.int64)
    order = np.lexsort((sources, -scores, classes, images))
    order = order[classes[order] >= 0]
    group = images[order] * (len(class_ids) + 1) + classes[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    order = order[rank < MAX_DETECTIONS]
    area = size[order, 0] * size[order, 1]
    return images[order], classes[order], scores[order], sources[order].astype(np.int64), area


def _runs(images: IntArray, classes: IntArray, n_classes: int) -> dict[tuple[int, int], slice]:
    group = images * (n_classes + 1) + classes
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    bounds = [*starts.tolist(), len(group)]
    return {
        (int(images[start]), int(classes[start])): slice(start, end)
        for start, end in pairwise(bounds)
    }


def _ignored_truths(truth: BoxTruth, of_class: IntArray) -> BoolArray:
    """(areas, g) bool: a crowd, or outside the area range."""
    areas = truth.areas[of_class]
    outside: BoolArray = (areas < AREA_RANGES[:, :1]) | (areas > AREA_RANGES[:, 1:])
    return outside | truth.is_crowd[of_class]


def overlap(detected: FloatArray, labelled: FloatArray, is_crowd: BoolArray) -> FloatArray:
    """COCO's IoU, (d, g), of boxes given as left, top, width, height in pixels.

    The order of operations is that of COCO's `bbIou`, so that equal boxes give equal bits.
    """
    d, g = detected[:, None, :], labelled[None, :, :]
    reach = np.minimum(d[..., :2] + d[..., 2:], g[..., :2] + g[..., 2:])
    side = np.maximum(reach - np.maximum(d[..., :2], g[..., :2]), 0)
    shared = side[..., 0] * side[..., 1]
    d_area, g_area = d[..., 2] * d[..., 3], g[..., 2] * g[..., 3]
    union = np.where(is_crowd, d_area, d_area + g_area - shared)
    # A box without area overlaps nothing.
    iou: FloatArray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def to_xywh(boxes_xyxy: NDArray[np.floating]) -> FloatArray:
    """Left, top, right, bottom → left, top, width, height, (n, 4) float64."""
    boxes = boxes_xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _overlaps(boxes_xyxy: NDArray[np.float32], truth: BoxTruth, of_class: IntArray) -> FloatArray:
    labelled = to_xywh(truth.boxes_xyxy[of_class])
    return overlap(to_xywh(boxes_xyxy), labelled, truth.is_crowd[of_class])


def _serve(ious: FloatArray, out_of_use: BoolArray, is_crowd: BoolArray) -> IntArray:
    """(areas, IoUs, d) int64: the box each detection takes, −1 for none; all areas at once.

    `ious` is (d, g), best detection first; `out_of_use` (areas, g).
    """
    thresholds = np.minimum(IOU_THRESHOLDS, _IOU_CEILING)[:, None]
    counts = ~out_of_use[:, None, :]
    free = np.ones((_AREAS, _IOUS, ious.shape[1]), np.bool_)
    served = np.full((_AREAS, _IOUS, len(ious)), -1, np.int64)
    last = ious.shape[1] - 1
    area, threshold = np.ogrid[:_AREAS, :_IOUS]
    for index in np.flatnonzero((ious >= thresholds[0]).any(axis=1)):
        reaches = free & (ious[index] >= thresholds)
        preferred = reaches & counts
        choice = np.where(preferred.any(axis=2, keepdims=True), preferred, reaches)
        offer = np.where(choice, ious[index], -1.0)
        # COCO keeps the last of equally good boxes, argmax the first: look from the end.
        best = last - offer[:, :, ::-1].argmax(axis=2)
        found = choice.any(axis=2)
        served[:, :, index] = np.where(found, best, -1)
        free[area, threshold, best] &= ~found | is_crowd[best]
    return served


def _accumulate(
    gathered: _Gathered,
    taken_any: BoolArray,
    ignored: BoolArray,
    taken: IntArray,
    positives: IntArray,
) -> MatchTable:
    images, classes, scores, sources, _ = gathered
    # Within one image and class the order by falling score is kept: lexsort is stable.
    order = np.lexsort((images, -scores, classes))
    return MatchTable(
        n_images=positives.shape[2],
        n_classes=positives.shape[1],
        images=images[order],
        classes=classes[order],
        scores=scores[order],
        sources=sources[order],
        hits=(taken_any & ~ignored)[:, :, order],
        counted=~ignored[:, :, order],
        taken=taken[order],
        positives=positives,
    )
