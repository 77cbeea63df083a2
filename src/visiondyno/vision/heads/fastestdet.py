"""Head of FastestDet."""

from typing import ClassVar

import numpy as np

from visiondyno.predictions import Detections, FloatArray, IntArray
from visiondyno.specs.model_card import HeadName, InputCard, ModelCard
from visiondyno.vision.heads.base import PerImageHead, Shape
from visiondyno.vision.heads.boxes import (
    centre_to_corners,
    detections_from_scores,
    settings_of,
)
from visiondyno.vision.preprocess import Geometry

_OBJECTNESS_POWER, _CLASS_POWER = np.float32(0.6), np.float32(0.4)


class FastestDetHead(PerImageHead):
    """`[n, 5 + classes, rows, columns]`: objectness, 4 box values, class scores of each cell.

    `cx = (column + tanh(t1)) / columns`, `cy = (row + tanh(t2)) / rows`, `w = sigmoid(t3)`,
    `h = sigmoid(t4)` as fractions of the input; score = objectness^0.6 × class^0.4 (FastestDet,
    `handle_preds`).
    """

    name: ClassVar[HeadName] = "fastestdet"
    task = "detection"
    layout = "[n, 5 + classes, rows, columns]"

    def class_count(self, shape: Shape, card: ModelCard) -> int | None:  # noqa: ARG002 - others' need
        """See `SingleOutputHead.class_count`."""
        if len(shape) != 4 or (shape[1] is not None and shape[1] < 6):
            raise self.wrong_shape(shape)
        return None if shape[1] is None else shape[1] - 5

    def decode_one(
        self, output: FloatArray, card: ModelCard, geometry: Geometry, confidence: float
    ) -> Detections:
        """See `PerImageHead.decode_one`."""
        columns = output.shape[2]
        cells = output.reshape(len(output), -1)
        objectness = np.maximum(cells[0], 0) ** _OBJECTNESS_POWER
        # A class score is at most 1, so the objectness alone rules most cells out.
        index = np.flatnonzero(objectness > confidence)
        classes = np.maximum(cells[5:, index].T, 0) ** _CLASS_POWER

        def boxes_at(chosen: IntArray) -> FloatArray:
            cell = index[chosen]
            return _boxes(cells[1:5, cell].T, cell, (output.shape[1], columns), card.input)

        return detections_from_scores(
            objectness[index, None] * classes, boxes_at, settings_of(card), geometry, confidence
        )


def _boxes(raw: FloatArray, cell: IntArray, grid: tuple[int, int], card: InputCard) -> FloatArray:
    row, column = np.divmod(cell, grid[1])
    corner = np.stack([column, row], axis=1).astype(np.float32)
    input_size = np.array([card.width, card.height], np.float32)
    cell_size = input_size / np.array([grid[1], grid[0]], np.float32)
    centre = (corner + np.tanh(raw[:, :2])) * cell_size
    # sigmoid(t) = (1 + tanh(t / 2)) / 2, which can't overflow.
    size = (1 + np.tanh(raw[:, 2:] / 2)) / 2 * input_size
    return centre_to_corners(np.concatenate([centre, size], axis=1))
