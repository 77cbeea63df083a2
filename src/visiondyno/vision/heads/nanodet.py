"""Head of NanoDet and NanoDet-Plus: distributions of distances (GFL)."""

from typing import ClassVar

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import Detections, FloatArray, IntArray
from visiondyno.specs.model_card import HeadName, ModelCard, OutputCard
from visiondyno.vision.heads.activations import sigmoid, softmax
from visiondyno.vision.heads.base import PerImageHead, Shape
from visiondyno.vision.heads.boxes import cut_at, detections_from_scores, settings_of
from visiondyno.vision.heads.grid import cells_at, from_distances, levels_of
from visiondyno.vision.preprocess import Geometry

NANODET_STRIDES = (8, 16, 32, 64)


class NanoDetHead(PerImageHead):
    """`[n, cells, classes + 4 · bins]`: class scores, then four distributions of a distance.

    Each distance (left, top, right, bottom) is the expectation of its bin's number under a softmax
    over the bins, times the stride, from the cell's reference point (Generalized Focal Loss, Li et
    al. 2020). NanoDet-Plus: strides 8 to 64, point at the cell's corner (`cell_offset: 0`), 8
    bins. The first NanoDet: strides 8, 16, 32 and `cell_offset: 0.5`. Exports apply the sigmoid;
    where one doesn't, `score_activation: sigmoid`.
    """

    name: ClassVar[HeadName] = "nanodet"
    task = "detection"
    layout = "[n, cells of all strides, classes + 4 · bins]"
    defaults: ClassVar[OutputCard] = OutputCard(
        roles=("predictions",), score_activation="none", strides=NANODET_STRIDES, cell_offset=0.0
    )

    def class_count(self, shape: Shape, card: ModelCard) -> int | None:
        """None: the shape leaves open how many columns are classes and how many are bins."""
        strides = self.output_of(card).strides or NANODET_STRIDES
        cells = sum(rows * columns for rows, columns in levels_of(card.input, strides))
        if len(shape) != 3 or shape[1] not in (None, cells):
            raise self.wrong_shape(shape)
        if shape[2] is not None:
            bins, rest = divmod(shape[2] - len(card.classes), 4)
            if rest or bins < 2:
                raise ModelError(
                    f"Head 'nanodet' reads {self.layout}, but {shape[2]} columns can't hold "
                    f"{len(card.classes)} classes and 4 distributions; correct 'classes' in the "
                    "model card."
                )
        return None

    def decode_one(
        self, output: FloatArray, card: ModelCard, geometry: Geometry, confidence: float
    ) -> Detections:
        """See `PerImageHead.decode_one`."""
        classes = len(card.classes)
        said = self.output_of(card)
        strides = said.strides or NANODET_STRIDES
        offset = np.float32(said.cell_offset or 0.0)
        levels = levels_of(card.input, strides)
        settings = settings_of(card)
        edges = np.array([0, 0, card.input.width, card.input.height], np.float32)
        scores = output[:, :classes]
        if said.score_activation == "sigmoid":
            scores = sigmoid(scores)

        def boxes_at(index: IntArray) -> FloatArray:
            corners, level, _ = cells_at(index, levels, strides)
            stride = np.array(strides, np.float32)[level, None]
            distances = _expectations(output[index, classes:]) * stride
            boxes = from_distances(distances, corners + offset * stride)
            # NanoDet cuts at the input's edges before NMS.
            return cut_at(boxes, edges) if settings.clip_to_image else boxes

        return detections_from_scores(scores, boxes_at, settings, geometry, confidence)


def _expectations(raw: FloatArray) -> FloatArray:
    """(k, 4 · bins) logits to (k, 4) expected bin numbers."""
    bins = raw.shape[1] // 4
    shares = softmax(raw.reshape(-1, 4, bins), axis=2)
    expected: FloatArray = shares @ np.arange(bins, dtype=np.float32)
    return expected
