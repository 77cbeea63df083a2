"""Head of detectors that end with their own NMS, or need none."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import Detections, FloatArray, Predictions
from visiondyno.specs.model_card import DetectionCard, HeadName, ModelCard
from visiondyno.vision.heads.base import Head, Output, Shape
from visiondyno.vision.heads.boxes import finish, settings_of
from visiondyno.vision.preprocess import Geometry


class EndToEndHead(Head):
    """`[n, boxes, 6]`: left, top, right, bottom in input pixels, score, class number.

    Rows past the last detection are zeros and fall to the confidence. No NMS is done.
    """

    name: ClassVar[HeadName] = "end_to_end"
    task = "detection"
    layout = "[n, boxes, 6]"

    def class_count(self, shape: Shape, card: ModelCard) -> int | None:  # noqa: ARG002
        """The shape never says."""
        if len(shape) != 3 or shape[2] not in (None, 6):
            raise self.wrong_shape(shape)
        return None

    def decode(
        self,
        outputs: Sequence[Output],
        card: ModelCard,
        geometries: Sequence[Geometry],
        confidence: float,
    ) -> list[Predictions]:
        """See `Head.decode`."""
        batch = self.single_output(outputs, card, len(geometries))
        settings = settings_of(card).model_copy(update={"nms_iou": None})
        return [
            _one(output, len(card.classes), settings, geometry, confidence)
            for output, geometry in zip(batch, geometries, strict=True)
        ]


def _one(
    output: FloatArray,
    classes: int,
    settings: DetectionCard,
    geometry: Geometry,
    confidence: float,
) -> Detections:
    rows = output[output[:, 4] > confidence]
    class_ids = np.rint(rows[:, 5]).astype(np.int64)
    wrong = (class_ids < 0) | (class_ids >= classes)
    if wrong.any():
        raise ModelError(
            f"The model answered class number {class_ids[wrong][0]}, but {classes} class names "
            "are given; correct 'classes' in the model card."
        )
    return finish(rows[:, :4], rows[:, 4], class_ids, settings, geometry)
