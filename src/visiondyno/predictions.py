"""What models answer and what data sets hold true: the shapes every runtime and dataset uses."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""An image: shape (height, width, 3), dtype uint8, channel order BGR (OpenCV's)."""

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


def _no_boxes() -> FloatArray:
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The boxes found in one image, best first.

    Attributes:
        boxes_xyxy: (n, 4) float32, pixels of the original image: left, top, right, bottom.
        scores: (n,) float32 in [0, 1], descending.
        class_ids: (n,) int64, index into the model's class names.
    """

    boxes_xyxy: FloatArray = field(default_factory=_no_boxes)
    scores: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    class_ids: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """Class probabilities of one image.

    Attributes:
        probabilities: (classes,) float32 in [0, 1]. Of one class out of many, they sum to 1. Of
            models that answer for each class by itself whether any is in the image (activation
            `sigmoid`), their sum is any.
    """

    probabilities: FloatArray

    def top(self, k: int) -> IntArray:
        """The `k` most probable class ids, best first; equal probabilities in class order."""
        return np.argsort(-self.probabilities, kind="stable")[:k].astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class DepthMap:
    """Depth of every pixel of one image.

    Attributes:
        depth: (height, width) float32 of the original image. What a value means is the model
            card's to say: metres, or a depth or inverse depth known up to scale and shift.
    """

    depth: FloatArray


Predictions = Detections | Classification | DepthMap


@dataclass(frozen=True, slots=True, eq=False)
class BoxTruth:
    """The labelled boxes of one image.

    Attributes:
        boxes_xyxy: (n, 4) float64, pixels: left, top, right, bottom.
        class_ids: (n,) int64, index into the data set's class names.
        is_crowd: (n,) bool, COCO's `iscrowd`.
        areas: (n,) float64 in square pixels, COCO's `area` (of the segment where one is given).
    """

    boxes_xyxy: NDArray[np.float64]
    class_ids: IntArray
    is_crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.class_ids)


@dataclass(frozen=True, slots=True)
class ClassTruth:
    """The labelled class of one image: an index into the data set's class names."""

    class_id: int


@dataclass(frozen=True, slots=True)
class DepthTruth:
    """The measured depth of one image, read from its file when it is needed.

    Attributes:
        path: `.npy` of (height, width) floating-point metres, or a 16-bit one-channel PNG.
        metres_per_unit: 1.0 for `.npy`; 0.001 for a PNG in millimetres.

    A pixel of 0, NaN or infinity has no measured depth.
    """

    path: Path
    metres_per_unit: float


@dataclass(frozen=True, slots=True)
class NoTruth:
    """Nothing: the image has no label."""


Truth = BoxTruth | ClassTruth | DepthTruth | NoTruth
