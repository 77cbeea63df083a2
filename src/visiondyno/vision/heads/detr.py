"""Head of the DETR family: a set of boxes with class scores each, no NMS."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import Detections, FloatArray, Predictions
from visiondyno.specs.model_card import (
    DetectionCard,
    HeadName,
    ModelCard,
    OutputCard,
    ScoreActivation,
)
from visiondyno.vision.heads.activations import sigmoid, softmax
from visiondyno.vision.heads.base import (
    Head,
    Output,
    Shape,
    check_class_count,
    check_image_count,
)
from visiondyno.vision.heads.box_formats import to_input_pixels
from visiondyno.vision.heads.boxes import detections_from_scores, without_nms
from visiondyno.vision.preprocess import Geometry


class DetrHead(Head):
    """Scores `[n, queries, classes]` and boxes `[n, queries, 4]`, or both in one output.

    Boxes are centre x, y, width, height as fractions of the input. `softmax_with_background`
    drops the last class, "no object" (DETR, Carion et al. 2020: the best class of each query);
    `sigmoid` scores each class apart, and the best pairs of query and class are kept (Deformable
    DETR, RT-DETR, D-FINE). The card's `several_classes_a_box` and `max_detections` say so.
    """

    name: ClassVar[HeadName] = "detr"
    task = "detection"
    layout = "[n, queries, classes] (scores) and [n, queries, 4] (boxes)"
    defaults: ClassVar[OutputCard] = OutputCard(
        roles=("scores", "boxes"), boxes="cxcywh_normalised", score_activation="sigmoid"
    )

    def check(self, shapes: Sequence[Shape], card: ModelCard) -> None:
        """See `Head.check`."""
        found = self.by_role(shapes, card, shapes)
        whole = found.get("boxes_and_scores", [])
        scores, boxes = found.get("scores", []), found.get("boxes", [])
        if not (len(whole) == 1 and not scores + boxes) and not (
            len(scores) == len(boxes) == 1 and not whole
        ):
            raise self.roles_missing("scores and boxes, or boxes_and_scores (one of each)")
        used = whole or [scores[0], boxes[0]]
        if any(len(shape) != 3 for shape in used):
            raise self.wrong_shape(*used)
        if boxes and (boxes[0][2] not in (None, 4) or _differ(scores[0][1], boxes[0][1])):
            raise self.wrong_shape(*used)
        columns = used[0][2]
        if columns is None:
            return
        background = self.output_of(card).score_activation == "softmax_with_background"
        count = columns - (4 if whole else 0) - background
        if count < 1:
            raise self.wrong_shape(*used)
        check_class_count(count, used[0], card)

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
        if "boxes_and_scores" in found:
            whole = found["boxes_and_scores"][0].astype(np.float32, copy=False)
            boxes, raw = whole[..., :4], whole[..., 4:]
        else:
            boxes = found["boxes"][0].astype(np.float32, copy=False)
            raw = found["scores"][0].astype(np.float32, copy=False)
        check_image_count([boxes, raw], len(geometries))
        said = self.output_of(card)
        scores = _scores(raw, said.score_activation or "sigmoid")
        form, settings = said.boxes or "cxcywh_normalised", without_nms(card)

        def one(image: int, geometry: Geometry, settings: DetectionCard) -> Detections:
            return detections_from_scores(
                scores[image],
                lambda index: to_input_pixels(boxes[image, index], form, card.input),
                settings,
                geometry,
                confidence,
            )

        return [one(image, geometry, settings) for image, geometry in enumerate(geometries)]


def _differ(left: int | None, right: int | None) -> bool:
    return left is not None and right is not None and left != right


def _scores(raw: FloatArray, activation: ScoreActivation) -> FloatArray:
    """(n, queries, classes) probabilities."""
    scores: FloatArray = raw
    if activation == "softmax_with_background":
        scores = softmax(raw, axis=-1)[..., :-1]
    elif activation == "sigmoid":
        scores = sigmoid(raw)
    elif raw.size and (raw.min() < 0 or raw.max() > 1):
        raise ModelError(
            "The detector's scores aren't between 0 and 1; set 'output.score_activation' to "
            "sigmoid or softmax_with_background in the model card."
        )
    return scores
