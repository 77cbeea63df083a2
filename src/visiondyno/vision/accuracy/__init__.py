"""How well predictions fit labels, with intervals: one result type for every vision task."""

from collections.abc import Sequence
from typing import Literal, cast

from visiondyno.predictions import (
    BoxTruth,
    Classification,
    ClassTruth,
    Detections,
    Predictions,
    Truth,
)
from visiondyno.vision.accuracy.base import Accuracy, ImageErrors
from visiondyno.vision.accuracy.classification import score_classifications
from visiondyno.vision.accuracy.coco import coco_summary
from visiondyno.vision.accuracy.detection import score_detections
from visiondyno.vision.accuracy.pairing import paired_difference

__all__ = [
    "Accuracy",
    "ImageErrors",
    "coco_summary",
    "paired_difference",
    "score",
    "score_classifications",
    "score_detections",
]


def score(
    task: Literal["detection", "classification"],
    truths: Sequence[Truth],
    predictions: Sequence[Predictions],
    class_names: Sequence[str],
    scored: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Accuracy:
    """Score predictions of either task; arguments and errors as the task's own function."""
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
