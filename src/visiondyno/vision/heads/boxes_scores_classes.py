"""Head of detectors that answer boxes, scores and classes as outputs of their own."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import Detections, FloatArray, Predictions
from visiondyno.specs.model_card import HeadName, ModelCard, OutputCard, OutputRole
from visiondyno.vision.heads.base import Head, Output, Shape, check_image_count
from visiondyno.vision.heads.box_formats import class_ids_of, to_input_pixels
from visiondyno.vision.heads.boxes import finish, without_nms
from visiondyno.vision.preprocess import Geometry

_ROLES: tuple[OutputRole, ...] = ("boxes", "scores", "classes", "count", "boxes_and_scores")
_WANTED = "boxes and scores (or boxes_and_scores), classes, and perhaps count (one of each)"
# Axes of an output of a batch; without the axis of images it has one less.
_AXES: dict[OutputRole, int] = {"boxes": 3, "scores": 2, "classes": 2, "boxes_and_scores": 3}


class BoxesScoresClassesHead(Head):
    """Boxes `[n, N, 4]`, scores `[n, N]`, class numbers `[n, N]`, perhaps a count `[n]`.

    NMS is inside or not needed, and none is done here. TensorFlow's detectors and SSDs write
    `yxyx_normalised` boxes and classes from 1 (`first_class`); torchvision's, `xyxy_pixels` and no
    axis of images; RT-DETR's and D-FINE's exports, `xyxy_pixels`; MMDetection's, a box and its
    score in one output `[n, N, 5]`. Rows past the count, and scores of 0, are no detections.
    """

    name: ClassVar[HeadName] = "boxes_scores_classes"
    task = "detection"
    layout = "[n, N, 4] (boxes), [n, N] (scores) and [n, N] (classes)"
    defaults: ClassVar[OutputCard] = OutputCard(
        roles=("boxes", "scores", "classes"), boxes="xyxy_pixels", first_class=0
    )

    def check(self, shapes: Sequence[Shape], card: ModelCard) -> None:
        """See `Head.check`; the shapes never say how many classes there are."""
        found = self.by_role(shapes, card, shapes)
        once = {role: found[role][0] for role in _ROLES if len(found.get(role, ())) == 1}
        if len(once) != sum(role in found for role in _ROLES) or set(once) - {"count"} not in (
            {"boxes", "scores", "classes"},
            {"boxes_and_scores", "classes"},
        ):
            raise self.roles_missing(_WANTED)
        used = [shape for role, shape in once.items() if role != "count"]
        less = {_AXES[role] - len(shape) for role, shape in once.items() if role != "count"}
        wide = once.get("boxes", once.get("boxes_and_scores"))
        columns = 4 if "boxes" in once else 5
        if less not in ({0}, {1}) or wide is None or wide[-1] not in (None, columns):
            raise self.wrong_shape(*used)
        rows = {shape[1 - min(less)] for shape in used} - {None}
        if len(rows) > 1:
            raise self.wrong_shape(*used)

    def lacks_batch_axis(self, shapes: Sequence[Shape], card: ModelCard) -> bool:
        """See `Head.lacks_batch_axis`: torchvision's answer is one image's."""
        return len(self.by_role(shapes, card, shapes)["classes"][0]) == 1

    def with_batch_axis(self, outputs: Sequence[Output], card: ModelCard) -> list[Output]:
        """See `Head.with_batch_axis`."""
        shapes = [output.shape for output in outputs]
        self.check(shapes, card)
        if not self.lacks_batch_axis(shapes, card):
            return list(outputs)
        return [output[None] for output in outputs]

    def decode(
        self,
        outputs: Sequence[Output],
        card: ModelCard,
        geometries: Sequence[Geometry],
        confidence: float,
    ) -> list[Predictions]:
        """See `Head.decode`."""
        batched = self.with_batch_axis(outputs, card)
        found = self.by_role(batched, card, [output.shape for output in batched])
        classes = _float32(found["classes"][0])
        if "boxes_and_scores" in found:
            rows = _float32(found["boxes_and_scores"][0])
            boxes, scores = rows[..., :4], rows[..., 4]
        else:
            boxes, scores = _float32(found["boxes"][0]), _float32(found["scores"][0])
        check_image_count([boxes, scores, classes], len(geometries))
        counts = _counts(found.get("count"), boxes)
        return [
            self._one(
                boxes[image, :count], scores[image, :count], classes[image, :count], card, place,
                confidence,
            )
            for image, (count, place) in enumerate(zip(counts, geometries, strict=True))
        ]  # fmt: skip

    def _one(
        self,
        boxes: FloatArray,
        scores: FloatArray,
        numbers: FloatArray,
        card: ModelCard,
        geometry: Geometry,
        confidence: float,
    ) -> Detections:
        said = self.output_of(card)
        kept = np.flatnonzero(scores > confidence)
        class_ids = class_ids_of(numbers[kept], said.first_class or 0, len(card.classes))
        pixels = to_input_pixels(boxes[kept], said.boxes or "xyxy_pixels", card.input)
        return finish(pixels, scores[kept], class_ids, without_nms(card), geometry)


def _float32(output: Output) -> FloatArray:
    return output.astype(np.float32, copy=False)


def _counts(outputs: Sequence[Output] | None, boxes: FloatArray) -> list[int]:
    if outputs is None:
        return [boxes.shape[1]] * len(boxes)
    counts = np.rint(outputs[0]).astype(np.int64).reshape(-1)
    if len(counts) != len(boxes) or (counts < 0).any():
        raise ModelError(
            f"The model's output of role 'count' holds {counts.tolist()} for {len(boxes)} images; "
            "correct 'output.roles' in the model card."
        )
    return [int(count) for count in counts]
