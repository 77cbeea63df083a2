"""How well predictions fit labels, with intervals: one result type for every vision task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from visiondyno.predictions import (
    BoxTruth,
    Classification,
    ClassTruth,
    DepthMap,
    DepthTruth,
    Detections,
    Predictions,
    Truth,
)
from visiondyno.specs.model_card import DepthCard
from visiondyno.vision.accuracy.base import Accuracy, ImageErrors
from visiondyno.vision.accuracy.classification import score_classifications
from visiondyno.vision.accuracy.coco import coco_summary
from visiondyno.vision.accuracy.depth import DepthReader, align_depth, score_depth
from visiondyno.vision.accuracy.detection import score_detections
from visiondyno.vision.accuracy.image_level import score_image_level
from visiondyno.vision.accuracy.pairing import paired_difference

__all__ = [
    "Accuracy",
    "DepthReader",
    "DepthScoring",
    "ImageErrors",
    "align_depth",
    "coco_summary",
    "paired_difference",
    "score",
    "score_classifications",
    "score_depth",
    "score_detections",
    "score_image_level",
]


@dataclass(frozen=True, slots=True)
class DepthScoring:
    """What scoring depth needs besides truths and predictions.

    Attributes:
        card: what the model's output means and how it is aligned.
        read: gives an image's measured depth.
    """

    card: DepthCard
    read: DepthReader


def score(  # noqa: PLR0913 - what any task needs
    task: Literal["detection", "classification", "depth"],
    truths: Sequence[Truth],
    predictions: Sequence[Predictions],
    class_names: Sequence[str],
    scored: Sequence[str] | None = None,
    *,
    depth: DepthScoring | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Accuracy:
    """Score predictions of any task; arguments and errors as the task's own function.

    `depth` is for depth, which needs it and has no classes; others leave it out.
    """
    if task == "depth":
        assert depth is not None, "the caller knows the model card"
        return score_depth(
            cast("Sequence[DepthTruth]", truths),
            cast("Sequence[DepthMap]", predictions),
            depth.card,
            depth.read,
            resamples=resamples,
            seed=seed,
        )
    if task == "detection":
        return score_detections(
            cast("Sequence[BoxTruth]", truths),
            cast("Sequence[Detections]", predictions),
            class_names,
            scored,
            resamples=resamples,
            seed=seed,
        )
    return score_classifications(
        cast("Sequence[ClassTruth]", truths),
        cast("Sequence[Classification]", predictions),
        class_names,
        scored,
        resamples=resamples,
        seed=seed,
    )
