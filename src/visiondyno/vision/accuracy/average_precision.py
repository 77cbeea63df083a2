"""COCO's average precision under image weights: one matching, any number of resamples.

Giving an image the weight w is the same as having w copies of it (0 leaves it out), so a resample
of the images is a vector of weights. Two facts keep this cheap. Precision rises only at a hit, so
COCO's falling envelope over all detections equals the envelope over hits alone; and of the 101
recall points a hit is the first to reach a countable number. Hence AP = Σ over hits of (points
first reached) × (envelope there) / 101, and only sums of weights between hits are needed: a sparse
matrix product.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from visiondyno.vision.accuracy.matching import AREA_NAMES, IOU_THRESHOLDS, MatchTable

FloatArray = NDArray[np.float64]

RECALL_POINTS = np.linspace(0.0, 1.0, 101)
"""COCO's recall points."""

_IOU_50, _IOU_75 = 0, 5
_WORKING_BYTES = 200e6
_ARRAYS_AT_ONCE = 6


@dataclass(frozen=True, slots=True, eq=False)
class AveragePrecisions:
    """AP of each class under each weighting; NaN where the weighting holds no object.

    Attributes:
        by_area: area name → (classes, weightings) float64, AP over IoU 0.50:0.05:0.95.
        ap_50: (classes, weightings), AP at IoU 0.50, all areas.
        ap_75: (classes, weightings), AP at IoU 0.75, all areas.
    """

    by_area: dict[str, FloatArray]
    ap_50: FloatArray
    ap_75: FloatArray


def average_precisions(
    table: MatchTable,
    weights: FloatArray,
    areas: tuple[str, ...] = AREA_NAMES,
) -> AveragePrecisions:
    """AP of each class under each row of `weights`.

    Args:
        table: the matched data set.
        weights: (weightings, images), how often each image counts; ones give COCO's own value.
        areas: the area ranges wanted; must hold `all`.
    """
    shape = (table.n_classes, len(weights))
    by_area = {name: np.empty(shape) for name in areas}
    ap_50, ap_75 = np.empty(shape), np.empty(shape)
    for rows in _chunks(table, len(weights)):
        # Images × weightings: sums over images then run along memory.
        chunk = np.ascontiguousarray(weights[rows].T, dtype=np.float64)
        for name in areas:
            area = AREA_NAMES.index(name)
            total = np.zeros((table.n_classes, chunk.shape[1]))
            for iou in range(len(IOU_THRESHOLDS)):
                values = _at(table, area, iou, chunk)
                total += values
                if name == "all" and iou == _IOU_50:
                    ap_50[:, rows] = values
                if name == "all" and iou == _IOU_75:
                    ap_75[:, rows] = values
            by_area[name][:, rows] = total / len(IOU_THRESHOLDS)
    return AveragePrecisions(by_area, ap_50, ap_75)


def mean_over_classes(values: FloatArray) -> FloatArray:
    """(weightings,): COCO's mean, over the classes that have an object; NaN where none has."""
    present = ~np.isnan(values)
    count = present.sum(axis=0)
    total = np.where(present, values, 0.0).sum(axis=0)
    mean: FloatArray = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return mean


def _chunks(table: MatchTable, n_weightings: int) -> Iterator[slice]:
    """Weightings in portions that keep the working arrays under `_WORKING_BYTES`."""
    hits = int(table.hits[0, _IOU_50].sum()) if len(table.images) else 0
    a_weighting = 8 * (_ARRAYS_AT_ONCE * hits + table.n_images)
    size = max(1, int(_WORKING_BYTES // max(1, a_weighting)))
    for start in range(0, n_weightings, size):
        yield slice(start, min(start + size, n_weightings))


def _at(table: MatchTable, area: int, iou: int, weights: FloatArray) -> FloatArray:
    """(classes, weightings) AP at one area range and IoU; `weights` is (images, weightings)."""
    hits = np.flatnonzero(table.hits[area, iou])
    positives = table.positives[area].astype(np.float64) @ weights
    result = np.where(positives > 0, 0.0, np.nan)
    if not len(hits):
        return result
    seen_to = _weight_up_to_hits(table, area, iou, hits) @ weights
    hit_weights = weights[table.images[hits]]
    classes = table.classes[hits]
    bounds = np.append(np.flatnonzero(np.diff(classes, prepend=-1)), len(hits))
    for start, end in pairwise(bounds.tolist()):
        place = classes[start]
        found = hit_weights[start:end].cumsum(axis=0)
        seen = seen_to[start:end].cumsum(axis=0)
        result[place] = _interpolated(found, seen, positives[place])
    return result


def _weight_up_to_hits(
    table: MatchTable, area: int, iou: int, hits: NDArray[np.int64]
) -> sparse.csr_matrix:
    """(hits, images): how many counted detections lie after the hit before, up to this hit."""
    hit = table.hits[area, iou]
    next_hit = np.cumsum(hit) - hit
    rows = np.flatnonzero(table.counted[area, iou] & (next_hit < len(hits)))
    same_class = table.classes[hits[next_hit[rows]]] == table.classes[rows]
    rows = rows[same_class]
    ones = np.ones(len(rows))
    return sparse.csr_matrix(
        (ones, (next_hit[rows], table.images[rows])), shape=(len(hits), table.n_images)
    )


def _interpolated(found: FloatArray, seen: FloatArray, positives: FloatArray) -> FloatArray:
    """(weightings,) AP from cumulative hit and detection weights, each (hits, weightings)."""
    present = positives > 0
    recall = np.divide(found, positives, out=np.zeros_like(found), where=present)
    # COCO adds the spacing of 1 so that 0/0 is 0; kept for equal bits.
    precision = found / (seen + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = np.searchsorted(RECALL_POINTS, recall, side="right")
    first_reached = np.diff(reached, prepend=0, axis=0)
    value: FloatArray = (first_reached * envelope).sum(axis=0) / len(RECALL_POINTS)
    return np.where(present, value, np.nan)
