"""What is said of models on images without labels: no accuracy, but where they agree.

Agreement isn't accuracy: two models may be wrong together. It tells how much of what one model
finds another finds too, such as a quantised one beside its source.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from visiondyno.measurements.half_samples import (
    INTERVAL_METHOD,
    half_sample_interval,
    half_samples,
)
from visiondyno.measurements.measure import Measure, measured, not_measured
from visiondyno.operations.model_report import ScoredModel
from visiondyno.predictions import Classification, Detections, Predictions
from visiondyno.specs.model_card import ModelCard
from visiondyno.specs.operations import BenchmarkInput
from visiondyno.vision.accuracy.base import Accuracy
from visiondyno.vision.tracking import iou

LEAST_SCORE = 0.25
"""Of a box that counts: what predictions show unless told otherwise."""

LEAST_IOU = 0.5

NO_LABELS = "the data have no labels"

_NAME = "agreement"
_IMPOSSIBLE = 1e6

Answers = Mapping[str, Callable[[], Sequence[Predictions]]]


def unscored(card: ModelCard, n_images: int, seed: int) -> Accuracy:
    """The accuracy of a model on images without labels: there is none."""
    return Accuracy(
        task=card.task,
        n_images=n_images,
        seed=seed,
        measures={"accuracy": not_measured("accuracy", NO_LABELS)},
        per_class={},
        confusion=None,
        precision_recall=None,
        image_errors=(),
        resampled={},
    )


def with_agreement(
    scored: Sequence[ScoredModel], reference: str, answers: Answers, spec: BenchmarkInput
) -> list[ScoredModel]:
    """The same models, each with its agreement with the reference model.

    Args:
        scored: the models.
        reference: the one that the others are compared with.
        answers: by reference, gives a model's predictions of the images in its own class ids.
        spec: of the comparison: how often to resample.
    """
    base = next(model for model in scored if model.reference == reference)
    expected = answers[reference]()
    found = []
    for model in scored:
        if model is base:
            measure = not_measured(_NAME, "it is the reference model itself")
        elif model.accuracy.task != base.accuracy.task:
            measure = not_measured(_NAME, f"it is no {base.accuracy.task} model, as {reference} is")
        else:
            names = model.mapping.model_classes, base.mapping.model_classes
            measure = agreement(
                answers[model.reference](), expected, names, spec.resamples, spec.seed
            )
        measures = {**model.report.measures, _NAME: measure}
        report = model.report.model_copy(update={"measures": measures})
        found.append(replace(model, report=report))
    return found


def agreement(
    found: Sequence[Predictions],
    expected: Sequence[Predictions],
    names: tuple[Sequence[str], Sequence[str]],
    resamples: int,
    seed: int,
) -> Measure:
    """How far two models agree on the same images.

    Of detectors 2m / (a + b): m pairs of boxes of one class that overlap with an IoU of 0.5 or
    more, each box in one pair at most, of a and b boxes with a score from 0.25 on. Classes that
    only one of them knows don't count. Of classifiers the share of images with one best class;
    one that only one of them knows never agrees.

    Args:
        found: of the one model, an image each.
        expected: of the other.
        names: of the classes of both.
        resamples: of the images, for the interval.
        seed: of the resampling.

    Returns:
        The measure; without a value where neither finds anything, or for depth.
    """
    if not all(isinstance(one, Detections | Classification) for one in (found[0], expected[0])):
        return not_measured(_NAME, "depth maps aren't compared without labels")
    shared = [name for name in names[0] if name in names[1]]
    if not shared:
        return not_measured(_NAME, "the models know no class in common")
    ids = [np.array([shared.index(n) if n in shared else -1 for n in each]) for each in names]
    counts = np.array(
        [_counts(a, b, ids[0], ids[1]) for a, b in zip(found, expected, strict=True)], np.float64
    )
    if not counts[:, 1].sum():
        return not_measured(_NAME, "neither model finds anything in any image")
    totals = half_samples(len(counts), resamples, seed) @ counts
    with np.errstate(invalid="ignore"):
        resampled = totals[:, 0] / totals[:, 1]
    value = float(counts[:, 0].sum() / counts[:, 1].sum())
    of_boxes = isinstance(found[0], Detections)
    how = (
        f"F1 of boxes at IoU {LEAST_IOU:g}, confidence {LEAST_SCORE:g}, of one class"
        if of_boxes
        else "share of images with the same best class"
    )
    left_out = len(set(names[0]) ^ set(names[1]))
    method = f"{how}; {INTERVAL_METHOD}" + (
        f"; {left_out} classes that only one model knows "
        + ("are left out" if of_boxes else "never agree")
        if left_out
        else ""
    )
    interval = half_sample_interval(value, resampled, len(counts))
    return measured(_NAME, value, method, interval=interval, n=len(counts))


def _counts(
    a: Predictions, b: Predictions, a_ids: NDArray[np.int64], b_ids: NDArray[np.int64]
) -> tuple[float, float]:
    """Numerator and denominator of one image."""
    if isinstance(a, Detections) and isinstance(b, Detections):
        first, second = _shown(a, a_ids), _shown(b, b_ids)
        return 2.0 * _pairs(first, second), float(len(first[1]) + len(second[1]))
    assert isinstance(a, Classification)
    assert isinstance(b, Classification)
    best = int(a_ids[a.top(1)[0]]), int(b_ids[b.top(1)[0]])
    return float(best[0] == best[1] >= 0), 1.0


def _shown(
    detections: Detections, ids: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Boxes that count, and their shared classes."""
    classes = ids[detections.class_ids]
    kept = (detections.scores >= LEAST_SCORE) & (classes >= 0)
    return detections.boxes_xyxy[kept].astype(np.float64), classes[kept]


def _pairs(
    first: tuple[NDArray[np.float64], NDArray[np.int64]],
    second: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> int:
    """The most pairs of boxes that overlap enough, each box in one at most."""
    if not len(first[1]) or not len(second[1]):
        return 0
    possible = (iou(first[0], second[0]) >= LEAST_IOU) & (first[1][:, None] == second[1][None, :])
    rows, columns = linear_sum_assignment(np.where(possible, 0.0, _IMPOSSIBLE))
    return int(possible[rows, columns].sum())
