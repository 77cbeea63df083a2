"""How well class probabilities fit labelled classes: top-1, top-5, and what is taken for what."""

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
from visiondyno.measurements.percentiles import proportion_interval
from visiondyno.predictions import Classification, ClassTruth
from visiondyno.report.comparison import ConfusionMatrix
from visiondyno.vision.accuracy import operating_point
from visiondyno.vision.accuracy.base import Accuracy, ImageErrors, scored_class_ids

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

OTHER = "other"
"""Label of every class that is not scored, in the confusion matrix of a restricted scoring."""

_FEWEST_FOR_TOP5 = 6
_MACRO_RULE = (
    "of the most probable class; macro: the mean over classes (micro would equal top-1 accuracy)"
)
_WILSON = "95 % interval by Wilson's score"


@dataclass(frozen=True, slots=True, eq=False)
class _Counts:
    """(classes, columns) float64 counts of the scored classes; columns are images or resamples."""

    hits: FloatArray
    false_alarms: FloatArray
    positives: FloatArray

    def over(self, weights: FloatArray) -> "_Counts":
        """Images summed under each row of `weights`."""
        return _Counts(
            self.hits @ weights.T, self.false_alarms @ weights.T, self.positives @ weights.T
        )

    def rates(self) -> dict[str, FloatArray]:
        """(classes, columns) of each rate; NaN where it has no meaning."""
        return {
            "precision": operating_point.precision(self.hits, self.false_alarms),
            "recall": operating_point.recall(self.hits, self.positives),
            "f1": operating_point.f1(self.hits, self.false_alarms, self.positives),
        }


def score_classifications(
    truths: Sequence[ClassTruth],
    predictions: Sequence[Classification],
    class_names: Sequence[str],
    scored: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Accuracy:
    """Score class probabilities against labelled classes.

    Args:
        truths: one an image.
        predictions: one an image, in the same order; probabilities are in the order of
            `class_names`.
        class_names: the data set's classes.
        scored: names of the classes to score: images of other classes are left out.
        resamples: how many half-samples of the images the intervals rest on.
        seed: of the drawing; equal seeds and images pair models.

    Raises:
        ClassMismatch: `scored` names a class the data set doesn't have.
        OperationFailed: the numbers of truths and predictions differ, or of probabilities and
            classes.
    """
    _check(truths, predictions, class_names)
    class_ids = np.array(scored_class_ids(class_names, scored), np.int64)
    labelled = np.array([truth.class_id for truth in truths], np.int64)
    ranked = np.stack([prediction.top(5) for prediction in predictions])
    included = np.isin(labelled, class_ids)
    right = (ranked == labelled[:, None]) & included[:, None]
    shares = {"top1": right[:, 0]}
    if len(class_names) >= _FEWEST_FOR_TOP5:
        shares["top5"] = right.any(axis=1)
    weights = half_samples(len(truths), resamples, seed)
    counts = _counts(labelled, ranked[:, 0], included, class_ids)
    resampled = _resampled(shares, included, counts.over(weights), weights)
    return Accuracy(
        task="classification",
        n_images=len(truths),
        seed=seed,
        measures=_measures(shares, included, counts, resampled),
        per_class=_per_class(counts, weights, [class_names[i] for i in class_ids]),
        confusion=_confusion(labelled, ranked[:, 0], included, class_ids, class_names),
        precision_recall=None,
        image_errors=tuple(
            ImageErrors(misses=int(wrong), false_alarms=0) for wrong in included & ~right[:, 0]
        ),
        resampled=resampled,
    )


def _check(
    truths: Sequence[ClassTruth],
    predictions: Sequence[Classification],
    class_names: Sequence[str],
) -> None:
    if len(truths) != len(predictions) or not truths:
        raise OperationFailed(
            f"{len(predictions)} predictions can't be scored against {len(truths)} images' labels.",
            stage="score",
        )
    sizes = {len(prediction.probabilities) for prediction in predictions}
    if sizes != {len(class_names)}:
        raise OperationFailed(
            f"Predictions of {sorted(sizes)} probabilities can't be scored against "
            f"{len(class_names)} classes; map the model's classes to the data set's first.",
            stage="score",
        )


def _counts(
    labelled: IntArray, predicted: IntArray, included: NDArray[np.bool_], class_ids: IntArray
) -> _Counts:
    is_class = (labelled == class_ids[:, None]) & included
    as_class = (predicted == class_ids[:, None]) & included
    return _Counts(
        hits=(is_class & as_class).astype(np.float64),
        false_alarms=(as_class & ~is_class).astype(np.float64),
        positives=is_class.astype(np.float64),
    )


def _resampled(
    shares: dict[str, NDArray[np.bool_]],
    included: NDArray[np.bool_],
    counts: _Counts,
    weights: FloatArray,
) -> dict[str, FloatArray]:
    total = weights @ included.astype(np.float64)
    values = {
        name: operating_point.recall(weights @ right.astype(np.float64), total)
        for name, right in shares.items()
    }
    values["accuracy"] = values["top1"]
    return values | {name: _macro(rate) for name, rate in counts.rates().items()}


def _macro(rate: FloatArray) -> FloatArray:
    """(columns,): the mean over classes where the rate has a meaning; NaN where none has."""
    known = ~np.isnan(rate)
    count = known.sum(axis=0)
    total = np.where(known, rate, 0.0).sum(axis=0)
    mean: FloatArray = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return mean


def _measures(
    shares: dict[str, NDArray[np.bool_]],
    included: NDArray[np.bool_],
    counts: _Counts,
    resampled: dict[str, FloatArray],
) -> Measures:
    n = int(included.sum())
    ones = np.ones((1, len(included)))
    measures = {
        "accuracy": _share("accuracy", shares["top1"], n, "top1: the most probable class is right"),
        "top1": _share("top1", shares["top1"], n, "the most probable class is right"),
    }
    if "top5" in shares:
        measures["top5"] = _share("top5", shares["top5"], n, "among the five most probable")
    else:
        reason = f"Top-5 needs at least {_FEWEST_FOR_TOP5} classes to say anything."
        measures["top5"] = not_measured("top5", reason)
    for name, rate in counts.over(ones).rates().items():
        method = f"{name} {_MACRO_RULE}"
        if name == "precision":
            method += "; classes never predicted have none and are left out of the mean"
        measures[name] = _with_interval(name, float(_macro(rate)[0]), resampled[name], method, n)
    return measures


def _share(name: str, right: NDArray[np.bool_], n: int, meaning: str) -> Measure:
    if not n:
        return not_measured(name, "The data set holds no image of a scored class.", meaning)
    successes = int(right.sum())
    interval = proportion_interval(successes, n)
    return measured(name, successes / n, f"{meaning}; {_WILSON}", interval=interval, n=n)


def _with_interval(name: str, value: float, resampled: FloatArray, method: str, n: int) -> Measure:
    if np.isnan(value):
        return not_measured(name, "No scored class allows it: none was labelled or predicted.")
    interval = half_sample_interval(value, resampled, n)
    how = method if interval is None else f"{method}; {INTERVAL_METHOD}"
    return measured(name, value, how, interval=interval, n=n)


def _per_class(counts: _Counts, weights: FloatArray, labels: Sequence[str]) -> dict[str, Measures]:
    """Precision and recall with Wilson's intervals, F1 with the half-samples'."""
    hits, false_alarms, positives = (
        part.sum(axis=1).astype(int)
        for part in (counts.hits, counts.false_alarms, counts.positives)
    )
    f1 = counts.over(np.ones((1, weights.shape[1]))).rates()["f1"][:, 0]
    f1_resampled = counts.over(weights).rates()["f1"]
    result: dict[str, Measures] = {}
    for place, label in enumerate(labels):
        predicted = int(hits[place] + false_alarms[place])
        result[label] = {
            "precision": _rate("precision", int(hits[place]), predicted, "predicted as"),
            "recall": _rate("recall", int(hits[place]), int(positives[place]), "labelled"),
            "f1": _with_interval(
                "f1",
                float(f1[place]),
                f1_resampled[place],
                "F1 of this class",
                int(positives[place]),
            ),
        }
    return result


def _rate(name: str, successes: int, n: int, what: str) -> Measure:
    if not n:
        return not_measured(name, f"No scored image was {what} this class.")
    interval = proportion_interval(successes, n)
    method = f"share of the images {what} this class; {_WILSON}"
    return measured(name, successes / n, method, interval=interval, n=n)


def _confusion(
    labelled: IntArray,
    predicted: IntArray,
    included: NDArray[np.bool_],
    class_ids: IntArray,
    class_names: Sequence[str],
) -> ConfusionMatrix:
    labels = [class_names[class_id] for class_id in class_ids]
    # Column of each class; those not scored share the last one.
    column = np.full(len(class_names), len(labels), np.int64)
    column[class_ids] = np.arange(len(labels))
    if len(labels) < len(class_names):
        labels.append(OTHER)
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (column[labelled[included]], column[predicted[included]]), 1)
    return ConfusionMatrix(labels=tuple(labels), counts=tuple(map(tuple, counts.tolist())))
