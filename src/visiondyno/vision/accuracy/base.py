"""What every vision task's scoring returns, so that callers need not branch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ClassMismatch
from visiondyno.measurements.measure import Measures
from visiondyno.report.comparison import ConfusionMatrix, PrecisionRecallCurve
from visiondyno.specs.model_card import DepthCard

BoolArray = NDArray[np.bool_]


def _no_boxes() -> BoolArray:
    return np.zeros(0, np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class ImageErrors:
    """What a model got wrong in one image.

    Attributes:
        misses: labelled boxes not found (of a classifier: 1 where the class is wrong; of depth:
            pixels that are off by a ratio of 1.25 or more).
        false_alarms: predictions at or above `f1_threshold` that are not right; 0 of a classifier
            and of depth.
        truth_matched: (n,) bool, one a labelled box: found, or not to be counted (a crowd, or a
            class that is not scored).
        prediction_shown: (m,) bool, one a detection: scored and at or above `f1_threshold`.
        prediction_matched: (m,) bool, shown and no false alarm.
        severity: of depth: the image's AbsRel; None where errors are counted.
    """

    misses: int
    false_alarms: int
    truth_matched: BoolArray = field(default_factory=_no_boxes)
    prediction_shown: BoolArray = field(default_factory=_no_boxes)
    prediction_matched: BoolArray = field(default_factory=_no_boxes)
    severity: float | None = None

    @property
    def errors(self) -> int:
        """Misses and false alarms."""
        return self.misses + self.false_alarms

    @property
    def badness(self) -> float:
        """What puts the worst image first: severity where there is one, else the errors."""
        return float(self.errors) if self.severity is None else self.severity


@dataclass(frozen=True, slots=True, eq=False)
class Accuracy:
    """How well a model's predictions fit the labels, with what is needed to compare models.

    Attributes:
        task: the vision task.
        n_images: images scored.
        seed: of the resampling; equal seeds and images give paired resamples.
        measures: by the names of `MEASURES`; a value that doesn't exist here has its reason.
        per_class: class name → measures of that class, in the data set's order.
        confusion: of all scored images; None of depth.
        precision_recall: of a detector, else None.
        image_errors: one an image, in the data set's order.
        resampled: measure name → (resamples,) float64, its value in each resample of the images;
            NaN where a resample holds nothing to score.
        average_recall: of a detector: COCO's AR at IoU 0.50:0.05:0.95, 100 detections.
        depth: of depth: how the maps were aligned.
    """

    task: Literal["detection", "classification", "depth"]
    n_images: int
    seed: int
    measures: Measures
    per_class: dict[str, Measures]
    confusion: ConfusionMatrix | None
    precision_recall: PrecisionRecallCurve | None
    image_errors: tuple[ImageErrors, ...]
    resampled: dict[str, NDArray[np.float64]]
    average_recall: float | None = None
    depth: DepthCard | None = None


def scored_class_ids(class_names: Sequence[str], scored: Sequence[str] | None) -> list[int]:
    """Ids of the classes to score, ascending: all of them unless `scored` names some.

    Raises:
        ClassMismatch: a name the data set doesn't have.
    """
    if scored is None:
        return list(range(len(class_names)))
    unknown = [name for name in scored if name not in class_names]
    if unknown or not scored:
        asked = ", ".join(unknown) or "no class at all"
        raise ClassMismatch(
            f"Accuracy was asked of {asked}, which the data set doesn't have. "
            f"Its classes are: {', '.join(class_names)}."
        )
    return sorted({class_names.index(name) for name in scored})
