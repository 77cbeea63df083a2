"""Head of dense detectors on a feature pyramid: RetinaNet (anchors) and FCOS (distances)."""

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from visiondyno.predictions import Detections, FloatArray, IntArray, Predictions
from visiondyno.specs.model_card import HeadName, InputCard, ModelCard, OutputCard, OutputRole
from visiondyno.vision.heads.activations import sigmoid
from visiondyno.vision.heads.base import (
    Head,
    Output,
    Shape,
    check_class_count,
    check_image_count,
)
from visiondyno.vision.heads.boxes import cut_at, detections_from_scores, image_edges, settings_of
from visiondyno.vision.heads.grid import (
    ANCHORS_A_CELL,
    Levels,
    anchor_shapes,
    cells_at,
    from_anchor_offsets,
    from_distances,
    levels_of,
)
from visiondyno.vision.preprocess import Geometry

PYRAMID_STRIDES = (8, 16, 32, 64, 128)


class RetinaNetHead(Head):
    """Class scores, boxes, and perhaps a centerness, of every cell of a feature pyramid.

    All levels in one output (`[n, predictions, classes]`, `[n, predictions, 4]`,
    `[n, predictions, 1]`), or one output a level: so, or as maps (`[n, A · classes, rows,
    columns]`, A predictions a cell, classes fastest). Roles repeat in the order of the levels.

    `anchor_offsets`: RetinaNet, 9 anchors a cell, see `anchor_shapes` and `from_anchor_offsets`.
    `distances`: FCOS, left, top, right, bottom in strides, not below 0, from the point
    `cell_offset` strides inside the cell. The score is the class's, or
    `sqrt(class · centerness)` where there is a centerness (FCOS, Tian et al. 2019).
    """

    name: ClassVar[HeadName] = "retinanet"
    task = "detection"
    layout = "[n, predictions, classes] (scores) and [n, predictions, 4] (boxes), or their maps"
    defaults: ClassVar[OutputCard] = OutputCard(
        roles=("scores", "boxes"),
        boxes="anchor_offsets",
        score_activation="sigmoid",
        strides=PYRAMID_STRIDES,
        cell_offset=0.0,
    )

    def check(self, shapes: Sequence[Shape], card: ModelCard) -> None:
        """See `Head.check`."""
        found = self.by_role(shapes, card, shapes)
        said = self.output_of(card)
        levels = levels_of(card.input, said.strides or PYRAMID_STRIDES)
        scores, boxes = found.get("scores", []), found.get("boxes", [])
        centerness = found.get("centerness", [])
        if len(scores) not in (1, len(levels)) or not (
            len(scores) == len(boxes) and len(centerness) in (0, len(scores))
        ):
            raise self.roles_missing(
                f"scores, boxes, and perhaps centerness: one of each, or {len(levels)}, one for "
                "each of 'output.strides'"
            )
        parts = [levels] if len(scores) == 1 else [(level,) for level in levels]
        for wide, group in ((None, scores), (4, boxes), (1, centerness)):
            for shape, part in zip(group, parts, strict=False):
                columns = self._columns(shape, part, card)
                if wide is None:
                    check_class_count(columns, shape, card)
                elif columns not in (None, wide):
                    raise self.wrong_shape(shape)

    def _columns(self, shape: Shape, levels: Levels, card: ModelCard) -> int | None:
        """How many values a prediction has in an output of `shape` that covers `levels`."""
        each = self._each(card)
        if len(shape) == 3:
            if shape[1] not in (None, each * sum(rows * columns for rows, columns in levels)):
                raise self.wrong_shape(shape)
            return shape[2]
        fits = len(shape) == 4 and len(levels) == 1 and all(
            size in (None, real) for size, real in zip(shape[2:], levels[0], strict=True)
        )  # fmt: skip
        if not fits or (shape[1] or 0) % each:
            raise self.wrong_shape(shape)
        return shape[1] and shape[1] // each

    def _each(self, card: ModelCard) -> int:
        return ANCHORS_A_CELL if self.output_of(card).boxes == "anchor_offsets" else 1

    def decode(
        self,
        outputs: Sequence[Output],
        card: ModelCard,
        geometries: Sequence[Geometry],
        confidence: float,
    ) -> list[Predictions]:
        """See `Head.decode`."""
        shapes = [output.shape for output in outputs]
        self.check(shapes, card)
        found = self.by_role(outputs, card, shapes)
        each = self._each(card)
        parts = {role: _joined(group, each) for role, group in found.items() if role != "unused"}
        check_image_count(list(parts.values()), len(geometries))
        grid = _Grid(self.output_of(card), card.input)
        return [
            self._one({role: part[image] for role, part in parts.items()}, grid, card, place,
                confidence)
            for image, place in enumerate(geometries)
        ]  # fmt: skip

    def _one(
        self,
        parts: dict[OutputRole, FloatArray],
        grid: "_Grid",
        card: ModelCard,
        geometry: Geometry,
        confidence: float,
    ) -> Detections:
        raw = parts["scores"]
        is_logit = self.output_of(card).score_activation == "sigmoid"
        centerness = parts.get("centerness")
        # A centerness is at most 1, so sqrt(class) bounds the score.
        bound = confidence if centerness is None else confidence**2
        index = np.flatnonzero(raw.max(axis=1) > (_logit(bound) if is_logit else bound))
        scores = sigmoid(raw[index]) if is_logit else raw[index]
        if centerness is not None:
            inside = centerness[index]
            scores = np.sqrt(scores * (sigmoid(inside) if is_logit else inside))
        boxes, settings = parts["boxes"], settings_of(card)
        edges = image_edges(geometry)

        def boxes_at(chosen: IntArray) -> FloatArray:
            found = grid.boxes(boxes[index[chosen]], index[chosen])
            # torchvision cuts before NMS, which changes overlaps at the edges.
            return cut_at(found, edges) if settings.clip_to_image else found

        return detections_from_scores(scores, boxes_at, settings, geometry, confidence)


class _Grid:
    """Turns raw boxes into input pixels by the cells they belong to."""

    def __init__(self, said: OutputCard, card: InputCard) -> None:
        self._strides = said.strides or PYRAMID_STRIDES
        self._levels = levels_of(card, self._strides)
        self._offset = np.float32(said.cell_offset or 0.0)
        self._anchors = anchor_shapes(self._strides) if said.boxes == "anchor_offsets" else None

    def boxes(self, raw: FloatArray, index: IntArray) -> FloatArray:
        """(k, 4) xyxy in input pixels of the predictions number `index`."""
        each = 1 if self._anchors is None else ANCHORS_A_CELL
        corners, level, which = cells_at(index, self._levels, self._strides, each)
        stride = np.array(self._strides, np.float32)[level, None]
        points = corners + self._offset * stride
        if self._anchors is None:
            return from_distances(raw * stride, points)
        return from_anchor_offsets(raw, self._anchors[level, which] + np.tile(points, 2))


def _joined(group: Sequence[Output], each: int) -> FloatArray:
    """One output a level, or one of all, to (n, predictions, values) float32."""
    return np.concatenate([_as_rows(output, each) for output in group], axis=1)


def _as_rows(output: Output, each: int) -> FloatArray:
    rows: FloatArray = output.astype(np.float32, copy=False)
    if rows.ndim == 3:
        return rows
    images, channels, height, width = rows.shape
    maps = rows.reshape(images, each, channels // each, height, width)
    return maps.transpose(0, 3, 4, 1, 2).reshape(images, -1, channels // each)


def _logit(probability: float) -> float:
    """Slightly below the true one: it only spares the rows that are certainly too low."""
    if probability <= 0:
        return -math.inf
    return math.log(probability / max(1 - probability, 1e-12)) - 1e-3
