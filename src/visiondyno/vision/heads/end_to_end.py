"""Head of detectors that end with their own NMS, or need none, in one output."""

from typing import ClassVar

from visiondyno.predictions import Detections, FloatArray
from visiondyno.specs.model_card import HeadName, ModelCard, OutputCard
from visiondyno.vision.heads.base import PerImageHead, Shape
from visiondyno.vision.heads.box_formats import class_ids_of, to_input_pixels
from visiondyno.vision.heads.boxes import finish, without_nms
from visiondyno.vision.preprocess import Geometry


class EndToEndHead(PerImageHead):
    """`[n, boxes, 6]`: four box values, score, class number.

    The box is left, top, right, bottom in input pixels unless the card's `output.boxes` says
    otherwise. Rows past the last detection are zeros and fall to the confidence. No NMS is done.
    """

    name: ClassVar[HeadName] = "end_to_end"
    task = "detection"
    layout = "[n, boxes, 6]"
    defaults: ClassVar[OutputCard] = OutputCard(roles=("predictions",), boxes="xyxy_pixels")

    def class_count(self, shape: Shape, card: ModelCard) -> int | None:  # noqa: ARG002 - others' need
        """The shape never says."""
        if len(shape) != 3 or shape[2] not in (None, 6):
            raise self.wrong_shape(shape)
        return None

    def decode_one(
        self, output: FloatArray, card: ModelCard, geometry: Geometry, confidence: float
    ) -> Detections:
        """See `PerImageHead.decode_one`."""
        rows = output[output[:, 4] > confidence]
        class_ids = class_ids_of(rows[:, 5], 0, len(card.classes))
        form = self.output_of(card).boxes or "xyxy_pixels"
        boxes = to_input_pixels(rows[:, :4], form, card.input)
        return finish(boxes, rows[:, 4], class_ids, without_nms(card), geometry)
