"""The cells of feature maps: the points and anchors that dense detectors predict from."""

from collections.abc import Sequence

import numpy as np

from visiondyno.predictions import FloatArray, IntArray
from visiondyno.specs.model_card import InputCard

Levels = tuple[tuple[int, int], ...]
"""Rows and columns of each feature map."""

_SCALES = tuple(2 ** (third / 3) for third in range(3))
_RATIOS = (0.5, 1.0, 2.0)
_ANCHOR_STRIDES = 4
ANCHORS_A_CELL = len(_SCALES) * len(_RATIOS)
# torchvision's bound: exp of it turns a box of 16 pixels into one of 1000.
_LARGEST_LOG_SIZE = np.float32(np.log(1000 / 16))


def levels_of(card: InputCard, strides: Sequence[int]) -> Levels:
    """The feature maps of these strides, sizes rounded up (padded convolutions of stride 2)."""
    return tuple((-(-card.height // stride), -(-card.width // stride)) for stride in strides)


def cell_count(height: int, width: int, strides: Sequence[int]) -> int:
    """How many cells the feature maps of these strides have together."""
    return sum(-(-height // stride) * -(-width // stride) for stride in strides)


def cells_at(
    index: IntArray, levels: Levels, strides: Sequence[int], each: int = 1
) -> tuple[FloatArray, IntArray, IntArray]:
    """Where the predictions number `index` of an output lie.

    Levels come one after another, each row by row, each cell with `each` predictions.

    Returns:
        corners (k, 2) of the cells: x, y in input pixels; the level (k,) of each; and which (k,)
        of the cell's predictions it is.
    """
    columns = np.array([width for _, width in levels], np.int64)
    cells = np.array([height for height, _ in levels], np.int64) * columns
    ends = np.cumsum(cells)
    cell, which = np.divmod(index, each)
    level = np.searchsorted(ends, cell, side="right")
    row, column = np.divmod(cell - (ends - cells)[level], columns[level])
    stride = np.array(strides, np.float32)[level, None]
    corners: FloatArray = np.stack([column, row], axis=1).astype(np.float32) * stride
    return corners, level, which


def anchor_shapes(strides: Sequence[int]) -> FloatArray:
    """RetinaNet's anchors as torchvision makes them: (levels, 9, 4) xyxy around a cell's corner.

    The base side is 4 strides, times 1, 2^(1/3), 2^(2/3) cut to whole pixels, with a
    height-to-width ratio of 1/2, 1, 2; corners are rounded (halves to even). Ratios are the outer
    loop (torchvision, `AnchorGenerator`; Lin et al. 2017).
    """
    shapes = []
    for stride in strides:
        sides = np.array([int(_ANCHOR_STRIDES * stride * scale) for scale in _SCALES], np.float32)
        heights = np.sqrt(np.array(_RATIOS, np.float32))
        half_width = (1 / heights[:, None] * sides[None]).reshape(-1) / 2
        half_height = (heights[:, None] * sides[None]).reshape(-1) / 2
        corners = np.stack([-half_width, -half_height, half_width, half_height], axis=1)
        shapes.append(np.round(corners))
    return np.stack(shapes).astype(np.float32)


def from_anchor_offsets(offsets: FloatArray, anchors: FloatArray) -> FloatArray:
    """Offsets (k, 4) from anchors (k, 4) xyxy to boxes xyxy.

    `centre = anchor centre + (dx, dy) · anchor size`, `size = exp(dw, dh) · anchor size`, weights
    1, with dw and dh at most log(1000/16) (torchvision, `BoxCoder`).
    """
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + size * np.float32(0.5) + offsets[:, :2] * size
    half = np.exp(np.minimum(offsets[:, 2:], _LARGEST_LOG_SIZE)) * size * np.float32(0.5)
    return np.concatenate([centre - half, centre + half], axis=1)


def from_distances(distances: FloatArray, points: FloatArray) -> FloatArray:
    """Distances (k, 4) to left, top, right, bottom, in pixels, of points (k, 2), to boxes xyxy."""
    return np.concatenate([points - distances[:, :2], points + distances[:, 2:]], axis=1)
