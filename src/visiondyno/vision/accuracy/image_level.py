"""How well a model tells which classes are in an image: what detectors and classifiers both answer.

A class is in an image where one of its boxes is labelled there. A detector's score of a class is
its best box's, 0 without any; a classifier's is its probability. An image whose only label of a
class is a crowd takes no part for that class: COCO neither rewards nor punishes what is found in a
crowd, and a crowd's outline is drawn where single objects can't be told apart.
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
from visiondyno.predictions import BoxTruth, Classification, Detections
from visiondyno.vision.accuracy import operating_point
from visiondyno.vision.accuracy.average_precision import mean_over_classes
from visiondyno.vision.accuracy.base import Accuracy, ImageErrors, scored_class_ids
from visiondyno.vision.accuracy.ranking_scores import average_precision, roc_auc

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

MAIN = "image_ap"
"""Which measure `accuracy` is: the one that no threshold enters. Scores of a detector and of a
classifier aren't on one scale, so that at a threshold a comparison would partly be one of
thresholds; and where most images hold the class, saying yes always is right most of the time."""

_NAMES = (MAIN, "image_auc", "image_accuracy", "precision", "recall", "f1")
_WITHOUT_THRESHOLD = frozenset({MAIN, "image_auc"})


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    """What is labelled and what was answered.

    Attributes:
        scores: (classes, images) float64 in [0, 1].
        present: (classes, images) bool, the class is in the image.
        counted: (classes, images) bool, False where only a crowd is labelled.
        threshold: scores from here on are a yes.
    """

    scores: FloatArray
    present: BoolArray
    counted: BoolArray
    threshold: float

    @property
    def said(self) -> BoolArray:
        """(classes, images) bool: a yes."""
        return self.scores >= self.threshold


def score_image_level(
    truths: Sequence[BoxTruth],
    predictions: Sequence[Detections | Classification],
    class_names: Sequence[str],
    scored: Sequence[str] | None = None,
    *,
    threshold: float,
    resamples: int = 1000,
    seed: int = 0,
) -> Accuracy:
    """Score whether each class is in each image.

    Args:
        truths: one an image; images without boxes count.
        predictions: one an image, in the same order. Class ids are the data set's; a
            classifier's probabilities are in the order of `class_names` and need not sum to 1.
        class_names: the data set's classes.
        scored: names of the classes to score; all where None.
        threshold: scores of at least this are a yes, for what isn't free of thresholds.
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
    present, counted = _labelled(truths, class_ids)
    answers = _Answers(_scores(predictions, class_ids), present, counted, threshold)
    drawn = half_samples(len(truths), resamples, seed)
    points = _by_class(answers, np.ones((1, len(truths))))
    by_class = _by_class(answers, drawn)
    resampled = {name: mean_over_classes(values) for name, values in by_class.items()}
    resampled["accuracy"] = resampled[MAIN]
    return Accuracy(
        task="detection",
        n_images=len(truths),
        seed=seed,
        measures=_measures(points, resampled, answers),
        per_class={
            class_names[class_id]: _of_class(points, by_class, answers, place)
            for place, class_id in enumerate(class_ids)
        },
        confusion=None,
        precision_recall=None,
        image_errors=_image_errors(truths, predictions, answers, class_ids),
        resampled=resampled,
    )


def _labelled(truths: Sequence[BoxTruth], class_ids: Sequence[int]) -> tuple[BoolArray, BoolArray]:
    """(classes, images) bool each: the class is there; the image counts for the class."""
    present = np.zeros((len(class_ids), len(truths)), np.bool_)
    counted = np.ones_like(present)
    for image, truth in enumerate(truths):
        single = set(truth.class_ids[~truth.is_crowd].tolist())
        in_crowds = set(truth.class_ids[truth.is_crowd].tolist())
        for place, class_id in enumerate(class_ids):
            present[place, image] = class_id in single
            counted[place, image] = class_id in single or class_id not in in_crowds
    return present, counted


def _scores(
    predictions: Sequence[Detections | Classification], class_ids: Sequence[int]
) -> FloatArray:
    """(classes, images) float64."""
    scores = np.zeros((len(class_ids), len(predictions)))
    for image, one in enumerate(predictions):
        if isinstance(one, Classification):
            scores[:, image] = one.probabilities[list(class_ids)]
            continue
        for place, class_id in enumerate(class_ids):
            scores[place, image] = one.scores[one.class_ids == class_id].max(initial=0.0)
    return scores


def _by_class(answers: _Answers, weights: FloatArray) -> dict[str, FloatArray]:
    """Each measure's value of each class under each weighting: (classes, weightings)."""
    shape = (len(answers.scores), len(weights))
    values = {name: np.full(shape, np.nan) for name in _NAMES}
    for place, counted in enumerate(answers.counted):
        kept = weights[:, counted]
        yes = answers.present[place, counted]
        said = answers.said[place, counted]
        scores = answers.scores[place, counted]
        hits, false_alarms, positives, right, total = (
            kept @ of.astype(np.float64)
            for of in (yes & said, ~yes & said, yes, yes == said, np.ones(len(yes)))
        )
        values[MAIN][place] = average_precision(scores, yes, kept)
        values["image_auc"][place] = roc_auc(scores, yes, kept)
        values["image_accuracy"][place] = operating_point.recall(right, total)
        values["precision"][place] = operating_point.precision(hits, false_alarms)
        values["recall"][place] = operating_point.recall(hits, positives)
        values["f1"][place] = operating_point.f1(hits, false_alarms, positives)
    return values


def _method(name: str, threshold: float) -> str:
    what = {
        MAIN: "average precision of the images ranked by score, sum of steps, no threshold",
        "image_auc": "area under the ROC curve of the images ranked by score, no threshold",
        "image_accuracy": "share of images answered rightly",
        "precision": "of the images with a yes, the share that hold the class",
        "recall": "of the images that hold the class, the share with a yes",
        "f1": "harmonic mean of precision and recall",
    }[name]
    at = "" if name in _WITHOUT_THRESHOLD else f", yes from a score of {threshold:g} on"
    return f"image level: is the class in the image; {what}{at}"


_REASONS = {
    MAIN: "No image holds a scored class.",
    "image_auc": "Of no scored class are there both images that hold it and images that don't.",
    "image_accuracy": "Every image holds a crowd of the class only.",
    "precision": "No image got a yes.",
    "recall": "No image holds a scored class.",
    "f1": "No image holds a scored class.",
}


def _measures(
    points: dict[str, FloatArray], resampled: dict[str, FloatArray], answers: _Answers
) -> Measures:
    n = answers.scores.shape[1]
    measures: Measures = {}
    for name in _NAMES:
        method = f"{_method(name, answers.threshold)}; mean over the classes that allow it"
        value = float(mean_over_classes(points[name])[0])
        measures[name] = _measure(name, value, resampled[name], method, n)
    main = measures[MAIN]
    return {"accuracy": main.model_copy(update={"method": f"{MAIN}: {main.method}"}), **measures}


def _of_class(
    points: dict[str, FloatArray],
    by_class: dict[str, FloatArray],
    answers: _Answers,
    place: int,
) -> Measures:
    n = int(answers.counted[place].sum())
    return {
        name: _measure(
            name,
            float(points[name][place, 0]),
            by_class[name][place],
            _method(name, answers.threshold),
            n,
        )
        for name in _NAMES
    }


def _measure(name: str, value: float, resampled: FloatArray, method: str, n: int) -> Measure:
    if np.isnan(value):
        return not_measured(name, _REASONS[name], method)
    interval = half_sample_interval(value, resampled, n)
    how = method if interval is None else f"{method}; {INTERVAL_METHOD}"
    return measured(name, value, how, interval=interval, n=n)


def _image_errors(
    truths: Sequence[BoxTruth],
    predictions: Sequence[Detections | Classification],
    answers: _Answers,
    class_ids: Sequence[int],
) -> tuple[ImageErrors, ...]:
    """Classes missed and classes named wrongly; a box is matched where its class got a yes."""
    ids = np.array(class_ids, np.int64)
    errors = []
    for image, (truth, one) in enumerate(zip(truths, predictions, strict=True)):
        counted = answers.counted[:, image]
        present, said = answers.present[:, image], answers.said[:, image]
        named = ids[said]
        uncounted = ~np.isin(truth.class_ids, ids) | truth.is_crowd
        shown = np.zeros(0, np.bool_)
        matched = shown
        if isinstance(one, Detections):
            shown = np.isin(one.class_ids, ids) & (one.scores >= answers.threshold)
            matched = shown & np.isin(one.class_ids, ids[present | ~counted])
        errors.append(
            ImageErrors(
                misses=int((counted & present & ~said).sum()),
                false_alarms=int((counted & ~present & said).sum()),
                truth_matched=uncounted | np.isin(truth.class_ids, named),
                prediction_shown=shown,
                prediction_matched=matched,
            )
        )
    return tuple(errors)
