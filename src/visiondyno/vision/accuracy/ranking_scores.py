"""Average precision and ROC AUC of scored yes-or-no answers, under any weights of the images.

Both need the order of the scores alone. Images of equal score are one step of the curve: no order
among them is taken for better.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_WORKING_BYTES = 100e6
_ARRAYS_AT_ONCE = 6


def average_precision(scores: FloatArray, positive: BoolArray, weights: FloatArray) -> FloatArray:
    """Area under the precision–recall curve as a sum of steps: Σ (Rₖ − Rₖ₋₁) · Pₖ.

    k runs over the distinct scores, highest first, with Pₖ and Rₖ the precision and recall of all
    images of at least that score. Nothing is interpolated: on few images the envelope that COCO
    takes is too high (Davis and Goadrich 2006).

    Args:
        scores: (images,), higher is more likely.
        positive: (images,), whether the answer is yes.
        weights: (weightings, images), how often each image counts.

    Returns:
        (weightings,); NaN where no positive image counts.
    """
    result = np.full(len(weights), np.nan)
    for rows, yes, no in _steps(scores, positive, weights):
        found = np.cumsum(yes, axis=1)
        shown = found + np.cumsum(no, axis=1)
        precision = _ratio(found, shown, 0.0)
        result[rows] = _ratio((yes * precision).sum(axis=1), found[:, -1], np.nan)
    return result


def roc_auc(scores: FloatArray, positive: BoolArray, weights: FloatArray) -> FloatArray:
    """The share of pairs of a yes and a no in which the yes has the higher score; a tie is half.

    That is the area under the ROC curve (Hanley and McNeil 1982). Arguments as of
    `average_precision`.

    Returns:
        (weightings,); NaN where not both kinds count.
    """
    result = np.full(len(weights), np.nan)
    for rows, yes, no in _steps(scores, positive, weights):
        total_no = no.sum(axis=1)
        lower = total_no[:, None] - np.cumsum(no, axis=1)
        won = (yes * (lower + no / 2)).sum(axis=1)
        result[rows] = _ratio(won, yes.sum(axis=1) * total_no, np.nan)
    return result


def _steps(
    scores: FloatArray, positive: BoolArray, weights: FloatArray
) -> Iterator[tuple[slice, FloatArray, FloatArray]]:
    """Some weightings at a time: weights of yes and of no, (weightings, distinct scores) each."""
    if not len(scores):
        return
    order = np.argsort(-scores, kind="stable")
    ranked, is_yes = scores[order], positive[order]
    starts = np.flatnonzero(np.diff(ranked, prepend=np.inf))
    at_once = max(1, int(_WORKING_BYTES // (8 * _ARRAYS_AT_ONCE * len(scores))))
    for first in range(0, len(weights), at_once):
        rows = slice(first, min(first + at_once, len(weights)))
        chosen = weights[rows][:, order]
        yield (
            rows,
            np.add.reduceat(chosen * is_yes, starts, axis=1),
            np.add.reduceat(chosen * ~is_yes, starts, axis=1),
        )


def _ratio(part: FloatArray, whole: FloatArray, otherwise: float) -> FloatArray:
    ratio: FloatArray = np.divide(part, whole, out=np.full(part.shape, otherwise), where=whole > 0)
    return ratio
