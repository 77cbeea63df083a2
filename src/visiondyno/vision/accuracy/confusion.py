"""Which class is taken for which, and what went wrong in each image, at the operating point."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visiondyno.predictions import BoxTruth, Detections
from visiondyno.report.comparison import ConfusionMatrix
from visiondyno.vision.accuracy.base import ImageErrors
from visiondyno.vision.accuracy.matching import MatchTable, overlap, to_xywh
from visiondyno.vision.accuracy.operating_point import OperatingPoint

BACKGROUND = "background"
_IOU = 0.5


def confusion_of_detections(
    truths: Sequence[BoxTruth],
    predictions: Sequence[Detections],
    table: MatchTable,
    threshold: float,
    labels: Sequence[str],
    class_ids: Sequence[int],
) -> ConfusionMatrix:
    """The confusion matrix at IoU 0.5: boxes matched whatever their class, each once.

    Detections at or above the threshold are served best score first; each takes the free labelled
    box it overlaps most, one of its own class where several are equal. One that takes none is a
    false alarm (row `background`), unless a crowd covers half of it; labelled boxes that are
    left are misses (column `background`).

    Args:
        truths: one an image.
        predictions: one an image, in the same order.
        table: what matched; says which detections are scored.
        threshold: the confidence.
        labels: names of the scored classes.
        class_ids: their ids, in the same order.
    """
    counts = np.zeros((len(labels) + 1, len(labels) + 1), np.int64)
    places = {class_id: place for place, class_id in enumerate(class_ids)}
    scored = np.flatnonzero(table.scores >= threshold)
    scored = scored[
        np.lexsort((table.sources[scored], -table.scores[scored], table.images[scored]))
    ]
    bounds = np.searchsorted(table.images[scored], np.arange(len(truths) + 1))
    for image, (truth, found) in enumerate(zip(truths, predictions, strict=True)):
        rows = scored[bounds[image] : bounds[image + 1]]
        known = np.array([places.get(i, -1) for i in truth.class_ids.tolist()], np.int64)
        _count(counts, truth, known, found.boxes_xyxy[table.sources[rows]], table.classes[rows])
    return ConfusionMatrix(
        labels=(*labels, BACKGROUND), counts=tuple(tuple(row) for row in counts.tolist())
    )


def _count(
    counts: NDArray[np.int64],
    truth: BoxTruth,
    known: NDArray[np.int64],
    boxes_xyxy: NDArray[np.float32],
    predicted: NDArray[np.int64],
) -> None:
    background = len(counts) - 1
    used = known >= 0
    is_crowd = truth.is_crowd[used]
    known = known[used]
    ious = overlap(to_xywh(boxes_xyxy), to_xywh(truth.boxes_xyxy[used]), is_crowd)
    free = ~is_crowd
    for row, place in zip(ious, predicted.tolist(), strict=True):
        reached = free & (row >= _IOU)
        if reached.any():
            best = reached & (row == row[reached].max())
            own = best & (known == place)
            taken = int(np.argmax(own if own.any() else best))
            free[taken] = False
            counts[known[taken], place] += 1
        elif not (is_crowd & (row >= _IOU)).any():
            counts[background, place] += 1
    np.add.at(counts[:, background], known[free], 1)


def errors_of_detections(
    truths: Sequence[BoxTruth],
    predictions: Sequence[Detections],
    table: MatchTable,
    point: OperatingPoint,
    class_ids: Sequence[int],
) -> tuple[ImageErrors, ...]:
    """Misses and false alarms of each image, and which boxes matched (same class, IoU 0.5).

    A detection that COCO ignores (on a crowd) is shown and is no false alarm.
    """
    hit = table.hits[0, 0]
    shown_rows = table.scores >= point.threshold
    bounds, order = _by_image(table)
    errors = []
    for image, (truth, found) in enumerate(zip(truths, predictions, strict=True)):
        rows = order[bounds[image] : bounds[image + 1]]
        rows = rows[shown_rows[rows]]
        truth_matched = truth.is_crowd | ~np.isin(truth.class_ids, class_ids)
        taken = table.taken[rows]
        truth_matched[taken[taken >= 0]] = True
        shown, matched = np.zeros(len(found), np.bool_), np.zeros(len(found), np.bool_)
        shown[table.sources[rows]] = True
        matched[table.sources[rows]] = hit[rows] | ~table.counted[0, 0, rows]
        errors.append(
            ImageErrors(
                misses=int((~truth_matched).sum()),
                false_alarms=int((shown & ~matched).sum()),
                truth_matched=truth_matched,
                prediction_shown=shown,
                prediction_matched=matched,
            )
        )
    return tuple(errors)


def _by_image(table: MatchTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.argsort(table.images, kind="stable")
    return np.searchsorted(table.images[order], np.arange(table.n_images + 1)), order
