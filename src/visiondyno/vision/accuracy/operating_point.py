"""Precision, recall and F1 of a detector at the confidence that maximises micro F1.

The rule: IoU 0.5, COCO's greedy matching at each confidence, counts summed over classes (micro).
COCO serves detections best score first, so that the matching at a confidence is the beginning of
the matching of all: one sweep over the sorted scores sees every confidence. The threshold is
chosen on the scored images, hence somewhat optimistic; the measures' method says so.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visiondyno.vision.accuracy.matching import MatchTable

FloatArray = NDArray[np.float64]
_ALL_AREAS, _IOU_50 = 0, 0


@dataclass(frozen=True, slots=True, eq=False)
class OperatingPoint:
    """Counts at IoU 0.5 and one confidence.

    Attributes:
        threshold: detections with at least this score are kept; infinite without detections.
        kept: (d,) bool, one a row of the match table: kept and not ignored.
        hits: (classes, images) float64, true positives.
        false_alarms: (classes, images) float64.
        positives: (classes, images) float64, labelled boxes that count.
    """

    threshold: float
    kept: NDArray[np.bool_]
    hits: FloatArray
    false_alarms: FloatArray
    positives: FloatArray


def find_operating_point(table: MatchTable) -> OperatingPoint:
    """The highest of the confidences that maximise micro F1 at IoU 0.5."""
    hit, counted = table.hits[_ALL_AREAS, _IOU_50], table.counted[_ALL_AREAS, _IOU_50]
    positives = table.positives[_ALL_AREAS].astype(np.float64)
    threshold = _best_threshold(table.scores[counted], hit[counted], int(positives.sum()))
    kept = counted & (table.scores >= threshold)
    return OperatingPoint(
        threshold=threshold,
        kept=kept,
        hits=_per_class_and_image(table, kept & hit),
        false_alarms=_per_class_and_image(table, kept & ~hit),
        positives=positives,
    )


def precision(hits: FloatArray, false_alarms: FloatArray) -> FloatArray:
    """TP / (TP + FP), element by element; NaN where nothing was predicted."""
    return _ratio(hits, hits + false_alarms)


def recall(hits: FloatArray, positives: FloatArray) -> FloatArray:
    """TP / objects, element by element; NaN where there are no objects."""
    return _ratio(hits, positives)


def f1(hits: FloatArray, false_alarms: FloatArray, positives: FloatArray) -> FloatArray:
    """2 TP / (2 TP + FP + FN), element by element; NaN where there are no objects."""
    score = _ratio(2 * hits, hits + false_alarms + positives)
    return np.where(positives > 0, score, np.nan)


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    ratio: FloatArray = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


def _best_threshold(scores: FloatArray, hit: NDArray[np.bool_], n_positives: int) -> float:
    if not len(scores):
        return np.inf
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(hit[order])
    # Equal scores are kept or dropped together: only the last of a run is a choice.
    last = np.flatnonzero(np.diff(scores, append=-np.inf))
    score = 2 * found[last] / (last + 1 + max(n_positives, 1))
    return float(scores[last[np.argmax(score)]])


def _per_class_and_image(table: MatchTable, chosen: NDArray[np.bool_]) -> FloatArray:
    counts = np.zeros((table.n_classes, table.n_images))
    np.add.at(counts, (table.classes[chosen], table.images[chosen]), 1)
    return counts
