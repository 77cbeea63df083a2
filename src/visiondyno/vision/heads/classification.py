"""Head of image classifiers."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import Classification, FloatArray, Predictions
from visiondyno.specs.model_card import HeadName, ModelCard
from visiondyno.vision.heads.activations import sigmoid, softmax
from visiondyno.vision.heads.base import Output, Shape, SingleOutputHead
from visiondyno.vision.preprocess import Geometry

# fp16 graphs and thousands of classes make a true softmax miss 1 by this much at most.
_SUM_TOLERANCE = 0.02


class ClassificationHead(SingleOutputHead):
    """`[n, classes]`, and the same with further axes of size 1.

    `activation` says what makes probabilities of it: `softmax`; `none` where the graph has done
    it; `sigmoid` where each class is answered for by itself, so that their sum is any.
    """

    name: ClassVar[HeadName] = "classification"
    task = "classification"
    layout = "[n, classes]"

    def class_count(self, shape: Shape, card: ModelCard) -> int | None:  # noqa: ARG002 - others' need
        """See `SingleOutputHead.class_count`."""
        if len(shape) < 2 or any(size not in (None, 1) for size in shape[2:]):
            raise self.wrong_shape(shape)
        return shape[1]

    def decode(
        self,
        outputs: Sequence[Output],
        card: ModelCard,
        geometries: Sequence[Geometry],
        confidence: float,  # noqa: ARG002 - others' need
    ) -> list[Predictions]:
        """See `Head.decode`; the confidence is for detectors."""
        batch = self.single_output(outputs, card, len(geometries))
        values = batch.reshape(len(batch), -1)
        return [Classification(row) for row in _probabilities(values, card.activation)]


def _probabilities(values: FloatArray, activation: str) -> FloatArray:
    if activation == "softmax":
        return softmax(values, axis=1)
    if activation == "sigmoid":
        return sigmoid(values)
    sums = values.sum(axis=1)
    if (values < 0).any() or (np.abs(sums - 1) > _SUM_TOLERANCE).any():
        raise ModelError(
            "The classifier's output isn't probabilities (below 0, or a sum that isn't 1); set "
            "'activation: softmax' in the model card."
        )
    return values
