"""Heads of the YOLO family: YOLOv8 (and 11, v5u, v9 …), YOLOv5 (and v7), YOLOX."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from visiondyno.predictions import Detections, FloatArray, IntArray
from visiondyno.specs.model_card import HeadName, InputCard, ModelCard
from visiondyno.vision.heads.base import PerImageHead, Shape
from visiondyno.vision.heads.box_formats import to_input_pixels
from visiondyno.vision.heads.boxes import (
    centre_to_corners,
    detections_from_scores,
    settings_of,
)
from visiondyno.vision.preprocess import Geometry

YOLOX_STRIDES = (8, 16, 32)
# exp(20) input pixels is far beyond any image; the cap keeps a wild value from overflowing.
_LARGEST_LOG_SIZE = np.float32(20)


class Yolov8Head(PerImageHead):
    """`[n, 4 + classes, boxes]`: centre x, y, width, height, class scores.

    The box is in input pixels unless the card's `output.boxes` says otherwise.
    """

    name: ClassVar[HeadName] = "yolov8"
    task = "detection"
    layout = "[n, 4 + classes, boxes]"

    def class_count(self, shape: Shape, card: ModelCard) -> int | None:  # noqa: ARG002 - others' need
        """See `SingleOutputHead.class_count`."""
        if len(shape) != 3 or (shape[1] is not None and shape[1] < 5):
            raise self.wrong_shape(shape)
        return None if shape[1] is None else shape[1] - 4

    def decode_one(
        self, output: FloatArray, card: ModelCard, geometry: Geometry, confidence: float
    ) -> Detections:
        """See `PerImageHead.decode_one`."""
        form = self.output_of(card).boxes
        return detections_from_scores(
            output[4:].T,
            lambda index: (
                centre_to_corners(output[:4, index].T)
                if form is None
                else to_input_pixels(output[:4, index].T, form, card.input)
            ),
            settings_of(card),
            geometry,
            confidence,
        )


class ObjectnessHead(PerImageHead):
    """`[n, boxes, 5 + classes]` with score = objectness × class; the box code varies."""

    task = "detection"
    layout = "[n, boxes, 5 + classes]"

    @abstractmethod
    def box_count(self, card: InputCard) -> int | None:
        """How many boxes an input of this size gives; None where it can't be told."""

    @abstractmethod
    def decode_boxes(self, raw: FloatArray, index: IntArray, card: InputCard) -> FloatArray:
        """Raw boxes (k, 4), which are numbers `index` of the output, to xyxy in input pixels."""

    def class_count(self, shape: Shape, card: ModelCard) -> int | None:
        """See `SingleOutputHead.class_count`."""
        if len(shape) != 3 or (shape[2] is not None and shape[2] < 6):
            raise self.wrong_shape(shape)
        expected = self.box_count(card.input)
        if expected is not None and shape[1] not in (None, expected):
            raise self.wrong_shape(shape)
        return None if shape[2] is None else shape[2] - 5

    def decode_one(
        self, output: FloatArray, card: ModelCard, geometry: Geometry, confidence: float
    ) -> Detections:
        """See `PerImageHead.decode_one`."""
        # A class score is at most 1, so the objectness alone rules most boxes out.
        index = np.flatnonzero(output[:, 4] > confidence)
        rows = output[index]
        return detections_from_scores(
            rows[:, 4:5] * rows[:, 5:],
            lambda chosen: self.decode_boxes(rows[chosen, :4], index[chosen], card.input),
            settings_of(card),
            geometry,
            confidence,
        )


class Yolov5Head(ObjectnessHead):
    """Boxes decoded in the graph: centre x, y, width, height in input pixels.

    Fits YOLOv5 and v7, and YOLOX exported with its decoding inside.
    """

    name: ClassVar[HeadName] = "yolov5"

    def box_count(self, card: InputCard) -> int | None:  # noqa: ARG002 - YOLOX's needs it
        """Any: P6 models and other anchors differ."""
        return None

    def decode_boxes(
        self,
        raw: FloatArray,
        index: IntArray,  # noqa: ARG002 - YOLOX's needs it
        card: InputCard,  # noqa: ARG002 - likewise
    ) -> FloatArray:
        """See `ObjectnessHead.decode_boxes`."""
        return centre_to_corners(raw)


class YoloxHead(ObjectnessHead):
    """Boxes not decoded: `xy = (raw + grid) · stride`, `wh = exp(raw) · stride`.

    Strides 8, 16, 32 in that order, each grid row by row (YOLOX, `demo_postprocess`).
    """

    name: ClassVar[HeadName] = "yolox"
    layout = "[n, boxes of strides 8, 16 and 32, 5 + classes]"

    def box_count(self, card: InputCard) -> int:
        """One box a cell of each stride's grid."""
        return grid_cells(card.height, card.width)

    def decode_boxes(self, raw: FloatArray, index: IntArray, card: InputCard) -> FloatArray:
        """See `ObjectnessHead.decode_boxes`."""
        widths = np.array([card.width // stride for stride in YOLOX_STRIDES])
        cells = np.array([(card.height // stride) for stride in YOLOX_STRIDES]) * widths
        ends = np.cumsum(cells)
        level = np.searchsorted(ends, index, side="right")
        row, column = np.divmod(index - (ends - cells)[level], widths[level])
        stride = np.array(YOLOX_STRIDES, np.float32)[level, None]
        centre = (raw[:, :2] + np.stack([column, row], axis=1).astype(np.float32)) * stride
        size = np.exp(np.minimum(raw[:, 2:], _LARGEST_LOG_SIZE)) * stride
        return centre_to_corners(np.concatenate([centre, size], axis=1))


def grid_cells(height: int, width: int, strides: Sequence[int] = YOLOX_STRIDES) -> int:
    """How many cells the grids of these strides have over an input of this size."""
    return sum((height // stride) * (width // stride) for stride in strides)
