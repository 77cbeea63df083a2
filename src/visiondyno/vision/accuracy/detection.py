"""How well detections fit labelled boxes: COCO's mAP, precision, recall, F1, and what went wrong.

Point values of mAP are faster-coco-eval's. Intervals come from matching once and reweighting
images (average_precision.py, measurements/half_samples.py); weights of one give the point values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import OperationFailed
from visiondyno.measurements.half_samples import (
    INTERVAL_METHOD,
    half_sample_interval,
    half_samples,
)
from visiondyno.measurements.measure import Measure, Measures, measured, not_measured
from visiondyno.predictions import BoxTruth, Detections
from visiondyno.report.comparison import PrecisionRecallCurve
from visiondyno.vision.accuracy import operating_point
from visiondyno.vision.accuracy.average_precision import (
    RECALL_POINTS,
    AveragePrecisions,
    average_precisions,
    mean_over_classes,
)
from visiondyno.vision.accuracy.base import Accuracy, scored_class_ids
from visiondyno.vision.accuracy.coco import CocoResult, evaluate
from visiondyno.vision.accuracy.confusion import confusion_of_detections, errors_of_detections
from visiondyno.vision.accuracy.matching import MatchTable, match
from visiondyno.vision.accuracy.operating_point import OperatingPoint, find_operating_point

FloatArray = NDArray[np.float64]

_AREA_OF = {"map_small": "small", "map_medium": "medium", "map_large": "large"}
_MAP_NAMES = ("map_50_95", "map_50", "map_75", *_AREA_OF)
_COCO_METHOD = "COCO evaluation by faster-coco-eval, 100 detections an image and class"
_F1_RULE = (
    "IoU 0.5, COCO matching, micro, at the confidence that maximises F1; "
    "chosen on the scored images, so somewhat optimistic"
)


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """One data set, matched, evaluated and resampled."""

    table: MatchTable
    coco: CocoResult
    point: OperatingPoint
    resampled_ap: AveragePrecisions
    weights: FloatArray
    labels: tuple[str, ...]


def score_detections(
    truths: Sequence[BoxTruth],
    predictions: Sequence[Detections],
    class_names: Sequence[str],
    scored: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Accuracy:
    """Score detections against labelled boxes.

    Args:
        truths: one an image; images without boxes count.
        predictions: one an image, in the same order, with every detection of confidence ≥ 0.001
            or so (a higher cut lowers mAP); class ids are the data set's.
        class_names: the data set's classes.
        scored: names of the classes to score; all where None. Boxes of other classes are left
            out on both sides.
        resamples: how many half-samples of the images the intervals rest on.
        seed: of the drawing; equal seeds and images pair models.

    Raises:
        ClassMismatch: `scored` names a class the data set doesn't have.
        OperationFailed: the numbers of truths and predictions differ.
    """
    if len(truths) != len(predictions) or not truths:
        raise OperationFailed(
            f"{len(predictions)} predictions can't be scored against {len(truths)} images' labels.",
            stage="score",
        )
    class_ids = scored_class_ids(class_names, scored)
    labels = tuple(class_names[class_id] for class_id in class_ids)
    table = match(truths, predictions, class_ids)
    weights = half_samples(len(truths), resamples, seed)
    case = _Scored(
        table=table,
        coco=evaluate(truths, predictions, class_ids),
        point=find_operating_point(table),
        resampled_ap=average_precisions(table, weights),
        weights=weights,
        labels=labels,
    )
    resampled = _resampled(case)
    return Accuracy(
        task="detection",
        n_images=len(truths),
        seed=seed,
        measures=_measures(case, resampled),
        per_class=_per_class(case),
        confusion=confusion_of_detections(
            truths, predictions, table, case.point.threshold, labels, class_ids
        ),
        precision_recall=_curve(case.coco),
        image_errors=errors_of_detections(truths, predictions, table, case.point, class_ids),
        resampled=resampled,
        average_recall=case.coco.average_recall(),
    )


def _resampled(case: _Scored) -> dict[str, FloatArray]:
    """Each measure's value in each resample; the threshold of F1 is held."""
    ap = case.resampled_ap
    values = {
        "map_50_95": mean_over_classes(ap.by_area["all"]),
        "map_50": mean_over_classes(ap.ap_50),
        "map_75": mean_over_classes(ap.ap_75),
    }
    for name, area in _AREA_OF.items():
        values[name] = mean_over_classes(ap.by_area[area])
    values["accuracy"] = values["map_50_95"]
    hits, false_alarms, positives = (
        case.weights @ counts.sum(axis=0)
        for counts in (case.point.hits, case.point.false_alarms, case.point.positives)
    )
    values["precision"] = operating_point.precision(hits, false_alarms)
    values["recall"] = operating_point.recall(hits, positives)
    values["f1"] = operating_point.f1(hits, false_alarms, positives)
    return values


def _measures(case: _Scored, resampled: dict[str, FloatArray]) -> Measures:
    coco = case.coco
    points: dict[str, float | None] = {
        "map_50_95": coco.average_precision(),
        "map_50": coco.average_precision(iou=0.5),
        "map_75": coco.average_precision(iou=0.75),
    }
    for name, area in _AREA_OF.items():
        points[name] = coco.average_precision(area)
    points["accuracy"] = points["map_50_95"]
    measures = {
        name: _with_interval(
            name,
            value,
            resampled[name],
            _COCO_METHOD if name != "accuracy" else f"map_50_95: {_COCO_METHOD}",
            case.table.n_images,
            "The data set holds no such object of a scored class.",
        )
        for name, value in points.items()
    }
    return measures | _f1_measures(case, resampled)


def _f1_measures(case: _Scored, resampled: dict[str, FloatArray]) -> Measures:
    point, n = case.point, case.table.n_images
    totals = [
        np.array(counts.sum()) for counts in (point.hits, point.false_alarms, point.positives)
    ]
    no_objects = "The data set holds no object of a scored class."
    precision = _value(operating_point.precision(totals[0], totals[1]))
    recall = _value(operating_point.recall(totals[0], totals[2]))
    f1 = _value(operating_point.f1(*totals))
    measures = {
        "precision": _with_interval(
            "precision", precision, resampled["precision"], _F1_RULE, n, "Nothing was detected."
        ),
        "recall": _with_interval("recall", recall, resampled["recall"], _F1_RULE, n, no_objects),
        "f1": _with_interval(
            "f1", f1, resampled["f1"], f"{_F1_RULE}; {_macro_note(case)}", n, no_objects
        ),
    }
    if f1:
        measures["f1_threshold"] = measured("f1_threshold", point.threshold, _F1_RULE, n=n)
    else:
        reason = "No detection is right, so that no confidence maximises F1."
        measures["f1_threshold"] = not_measured("f1_threshold", reason, _F1_RULE)
    return measures


def _macro_note(case: _Scored) -> str:
    point = case.point
    by_class = operating_point.f1(
        point.hits.sum(axis=1), point.false_alarms.sum(axis=1), point.positives.sum(axis=1)
    )
    present = by_class[~np.isnan(by_class)]
    if not len(present):
        return "macro F1 not defined"
    return f"macro F1 (mean of {len(present)} classes) there is {present.mean():.4f}"


def _per_class(case: _Scored) -> dict[str, Measures]:
    """AP, and precision, recall and F1 at the common threshold, of every scored class."""
    point, n = case.point, case.table.n_images
    counts = (point.hits, point.false_alarms, point.positives)
    hits, false_alarms, positives = (count.sum(axis=1) for count in counts)
    hits_r, false_alarms_r, positives_r = (count @ case.weights.T for count in counts)
    rates = {
        "precision": (
            operating_point.precision(hits, false_alarms),
            operating_point.precision(hits_r, false_alarms_r),
        ),
        "recall": (
            operating_point.recall(hits, positives),
            operating_point.recall(hits_r, positives_r),
        ),
        "f1": (
            operating_point.f1(hits, false_alarms, positives),
            operating_point.f1(hits_r, false_alarms_r, positives_r),
        ),
    }
    no_object = "The data set holds no object of this class."
    result: dict[str, Measures] = {}
    for place, label in enumerate(case.labels):
        ap, ap_50 = (case.coco.class_average_precision(place, iou) for iou in (None, 0.5))
        by_area, at_50 = case.resampled_ap.by_area["all"][place], case.resampled_ap.ap_50[place]
        result[label] = {
            "map_50_95": _with_interval("map_50_95", ap, by_area, _COCO_METHOD, n, no_object),
            "map_50": _with_interval("map_50", ap_50, at_50, _COCO_METHOD, n, no_object),
        }
        for name, (values, resampled) in rates.items():
            reason = "Nothing was detected as this class." if name == "precision" else no_object
            value = _value(values[place])
            result[label][name] = _with_interval(name, value, resampled[place], _F1_RULE, n, reason)
    return result


def _with_interval(
    name: str, value: float | None, resampled: FloatArray, method: str, n: int, reason: str
) -> Measure:
    if value is None:
        return not_measured(name, reason, method)
    interval = half_sample_interval(value, resampled, n)
    how = method if interval is None else f"{method}; {INTERVAL_METHOD}"
    return measured(name, value, how, interval=interval, n=n)


def _value(number: FloatArray) -> float | None:
    return None if np.isnan(number) else float(number)


def _curve(coco: CocoResult) -> PrecisionRecallCurve | None:
    precision = coco.precision_at_recall()
    if precision is None:
        return None
    return PrecisionRecallCurve(
        recall=tuple(RECALL_POINTS.tolist()), precision=tuple(precision.tolist())
    )
