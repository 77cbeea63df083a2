"""How far the predictions of two models agree on the same images, whatever the labels say."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from visiondyno.predictions import Classification, DepthMap, Detections, Predictions
from visiondyno.vision.accuracy.matching import overlap, to_xywh

CONFIDENCE = 0.25
"""Boxes of the source from this score on are looked for; see `FEWEST_BOXES`."""
FEWEST_BOXES = 50
"""Where the source has fewer above `CONFIDENCE`, its so many best boxes are looked for."""
_SAME_IOU = 0.5


def agreement(
    source: Sequence[Predictions], made: Sequence[Predictions]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """How alike they are, and notes.

    Args:
        source: one prediction an image.
        made: the same images'.

    Returns:
        Of detectors `boxes` (of the source that were looked for), `confidence` (lowest score of
        them), `matched` (share with a box of the same class and IoU ≥ 0.5), and over those
        `max_box_difference_px` (the largest of the four edges) and `max_score_difference`, None
        without a match. Of classifiers `same_class` (share of images) and
        `max_probability_difference`. Of depth `mean_relative_difference` of the maps.
    """
    first = source[0]
    if isinstance(first, Detections):
        return _boxes(cast("Sequence[Detections]", source), cast("Sequence[Detections]", made))
    if isinstance(first, Classification):
        pairs = zip(
            cast("Sequence[Classification]", source),
            cast("Sequence[Classification]", made),
            strict=True,
        )
        return _classes([(one.probabilities, other.probabilities) for one, other in pairs])
    return _depths(cast("Sequence[DepthMap]", source), cast("Sequence[DepthMap]", made))


def _boxes(
    source: Sequence[Detections], made: Sequence[Detections]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    scores = np.sort(np.concatenate([one.scores for one in source]))[::-1]
    sure = int((scores >= CONFIDENCE).sum())
    count = max(sure, min(FEWEST_BOXES, len(scores)))
    lowest = CONFIDENCE if sure == count else float(scores[count - 1])
    edges: list[float] = []
    differences: list[float] = []
    looked_for = 0
    for one, other in zip(source, made, strict=True):
        chosen = one.scores >= lowest
        looked_for += int(chosen.sum())
        for index, match in matches(one, other, np.flatnonzero(chosen)):
            edges.append(float(np.abs(one.boxes_xyxy[index] - other.boxes_xyxy[match]).max()))
            differences.append(float(abs(one.scores[index] - other.scores[match])))
    found = {
        "boxes": looked_for,
        "confidence": lowest,
        "matched": len(edges) / looked_for if looked_for else None,
        "max_box_difference_px": max(edges, default=None),
        "max_score_difference": max(differences, default=None),
    }
    return found, _box_notes(looked_for, sure, lowest)


def _box_notes(looked_for: int, sure: int, lowest: float) -> tuple[str, ...]:
    if looked_for < FEWEST_BOXES:
        few = (
            f"The source finds {looked_for} boxes in these images, too few to tell how often the "
            "two agree; name more images."
        )
        return (few,)
    if lowest < CONFIDENCE:
        unsure = (
            f"The source is sure (score {CONFIDENCE:g}) of {sure} boxes only: the agreement is "
            f"that of its {looked_for} best, from score {lowest:.2g} on."
        )
        return (unsure,)
    return ()


def matches(one: Detections, other: Detections, wanted: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Indices of a box and its counterpart, of the same class and IoU ≥ 0.5.

    Best scores choose first, each box serves once.

    Args:
        one: boxes of an image.
        other: what is looked through.
        wanted: indices of the boxes of `one` that are looked for.
    """
    if not len(other) or not len(wanted):
        return []
    no_crowd = np.zeros(len(other), np.bool_)
    mine, theirs = to_xywh(one.boxes_xyxy[wanted]), to_xywh(other.boxes_xyxy)
    ious = overlap(mine, theirs, no_crowd)
    ious = np.where(one.class_ids[wanted, None] == other.class_ids[None], ious, 0)
    found = []
    for row in np.argsort(-one.scores[wanted], kind="stable"):
        best = int(ious[row].argmax())
        if ious[row, best] >= _SAME_IOU:
            found.append((int(wanted[row]), best))
            ious[:, best] = 0
    return found


def _classes(
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> tuple[dict[str, Any], tuple[str, ...]]:
    return {
        "same_class": float(np.mean([one.argmax() == other.argmax() for one, other in pairs])),
        "max_probability_difference": max(float(np.abs(one - other).max()) for one, other in pairs),
    }, ()


def _depths(
    source: Sequence[DepthMap], made: Sequence[DepthMap]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    # One map at a time: all together may be larger than memory.
    shares = []
    for one, other in zip(source, made, strict=True):
        size = float(np.abs(one.depth).mean())
        shares.append(float(np.abs(one.depth - other.depth).mean()) / max(size, 1e-12))
    return {"mean_relative_difference": float(np.mean(shares))}, ()
