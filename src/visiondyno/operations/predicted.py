"""Predictions as the plain values that jobs and the inference server answer with."""

import errno
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import SpecError, StorageFull
from visiondyno.predictions import Classification, Detections, Predictions
from visiondyno.specs.model_card import ModelCard
from visiondyno.specs.operations import DEFAULT_CONFIDENCE

INLINE_BYTES = 2_000_000
"""Predictions of many images whose JSON is no longer are in the answer; longer ones are a blob."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

TOP = 5
"""A classifier answers with its five best classes."""


def as_json(
    prediction: Predictions,
    names: tuple[str, ...],
    confidence: float,
    classes: Collection[int] | None = None,
) -> dict[str, Any]:
    """One image's prediction.

    Args:
        prediction: of a detector or a classifier.
        names: of the classes, by id.
        confidence: lowest score of a classifier's answer (a detector's are cut already).
        classes: ids that are kept; None: all.

    Returns:
        Of a detector `boxes_xyxy` (pixels, to a hundredth), `scores`, `classes` (ids), `names`,
        best first; of a classifier its best `scores`, `classes`, `names`.

    Raises:
        SpecError: a prediction of another kind.
    """
    if isinstance(prediction, Classification):
        best = prediction.top(TOP if classes is None else len(prediction.probabilities))
        best = best[_kept(best, classes)][:TOP]
        best = best[prediction.probabilities[best] >= confidence] if confidence else best
        return _labelled(prediction.probabilities[best], best, names)
    if not isinstance(prediction, Detections):
        raise SpecError(
            "Depth maps have no JSON form here: 'predict' is of "
            "detectors and classifiers. For depth maps start 'dyno serve', and POST to /predict."
        )
    kept = _kept(prediction.class_ids, classes)
    boxes = prediction.boxes_xyxy[kept].astype(np.float64).round(2).tolist()
    return {
        "boxes_xyxy": boxes,
        **_labelled(prediction.scores[kept], prediction.class_ids[kept], names),
    }


@contextmanager
def room_for_files() -> Iterator[None]:
    """Tell in a sentence where temporary files don't fit.

    Raises:
        StorageFull: they don't.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise StorageFull(
            f"What is predicted can't be kept until it is sent ({error.strerror}); make room in "
            "the worker's folder for temporary files (TMPDIR)."
        ) from error


def lowest_score(asked: float | None, card: ModelCard) -> float:
    """The score from which on a model's answers count, where `asked` may say nothing.

    A classifier answers with its best classes, however unsure of them it is.
    """
    if asked is not None:
        return asked
    return DEFAULT_CONFIDENCE if card.task == "detection" else 0.0


def _kept(class_ids: NDArray[np.int64], classes: Collection[int] | None) -> NDArray[np.bool_]:
    if classes is None:
        return np.ones(len(class_ids), np.bool_)
    return np.isin(class_ids, list(classes))


def _labelled(
    scores: NDArray[np.float32], class_ids: NDArray[np.int64], names: tuple[str, ...]
) -> dict[str, Any]:
    ids: list[int] = class_ids.tolist()
    return {
        "scores": scores.astype(np.float64).round(6).tolist(),
        "classes": ids,
        "names": [names[class_id] for class_id in ids],
    }
