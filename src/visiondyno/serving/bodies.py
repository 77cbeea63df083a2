"""A prediction as the body of an answer: JSON, or a picture of it."""

import base64
from collections.abc import Collection
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from visiondyno.errors import ModelError
from visiondyno.operations.predicted import as_json
from visiondyno.predictions import Classification, DepthMap, Detections, Image, Predictions
from visiondyno.serving.wire import Media
from visiondyno.specs.model_card import DepthCard, ModelCard
from visiondyno.vision.draw import draw

_DRAWN = {"jpeg": (".jpg", Media.JPEG), "png": (".png", Media.PNG)}
_JPEG_QUALITY = 90
_MILLIMETRES_A_METRE = 1000
_LARGEST_16_BIT = 65_535
_SHARES_SHOWN = (0.01, 0.99)
"""Depths outside of these quantiles get the colours at the ends: a few far pixels would else leave
one colour for all others."""


def body_of(
    prediction: Predictions,
    image: Image,
    card: ModelCard,
    options: dict[str, Any],
    confidence: float,
) -> tuple[Media, bytes]:
    """The body, and what it is.

    Args:
        prediction: of the image, a detector's cut at `confidence` already.
        image: (h, w, 3) uint8 BGR.
        card: of the model.
        options: `format` and `classes` (ids) of the item.
        confidence: lowest score of a classifier's answer.

    Raises:
        ModelError: a prediction of another kind.
    """
    height, width = image.shape[:2]
    form = options.get("format", "json")
    classes = options.get("classes")
    if isinstance(prediction, DepthMap):
        if form == "json":
            return Media.JSON, to_json({**_depth(prediction, card), **_size(width, height)})
        return _depth_picture(prediction.depth, card, form)
    if form == "json":
        answer = as_json(prediction, card.classes, confidence, classes)
        return Media.JSON, to_json({**answer, **_size(width, height)})
    return _encoded(draw(image, _only(prediction, classes), card.classes), form)


def depth_unit(card: ModelCard) -> str:
    """What a value of the card's depth means: `metres`, or depth (inverse depth) up to scale."""
    said = card.depth or DepthCard()
    if said.alignment == "none":
        return "metres" if said.output == "depth" else "1/metres"
    return f"relative_{said.output}"


def _size(width: int, height: int) -> dict[str, int]:
    return {"width": width, "height": height}


def _depth(prediction: DepthMap, card: ModelCard) -> dict[str, Any]:
    depth = np.ascontiguousarray(prediction.depth, "<f4")
    return {
        "depth": {
            "data": base64.b64encode(depth.tobytes()).decode(),
            "dtype": "float32",
            "shape": list(depth.shape),
            "unit": depth_unit(card),
        }
    }


def _depth_picture(depth: NDArray[np.float32], card: ModelCard, form: str) -> tuple[Media, bytes]:
    if form == "jpeg":
        return _encoded(cv2.applyColorMap(_nearness(depth, card), cv2.COLORMAP_INFERNO), form)
    if depth_unit(card) == "metres":
        scaled = depth * _MILLIMETRES_A_METRE
    else:
        least, most = float(np.nanmin(depth)), float(np.nanmax(depth))
        scaled = (depth - least) * (_LARGEST_16_BIT / max(most - least, 1e-12))
    stored = np.nan_to_num(np.rint(scaled), nan=0.0, posinf=0.0, neginf=0.0)
    return _encoded(np.clip(stored, 0, _LARGEST_16_BIT).astype(np.uint16), form)


def _nearness(depth: NDArray[np.float32], card: ModelCard) -> NDArray[np.uint8]:
    """0 to 255, the nearest brightest."""
    least, most = (float(value) for value in np.nanquantile(depth, _SHARES_SHOWN))
    share = np.clip((np.nan_to_num(depth) - least) / max(most - least, 1e-12), 0, 1)
    if (card.depth or DepthCard()).output == "depth":
        share = 1 - share
    shown: NDArray[np.uint8] = (share * 255).astype(np.uint8)
    return shown


def _only(prediction: Predictions, classes: Collection[int] | None) -> Predictions:
    """What is left of it by the classes that are asked for."""
    if classes is None:
        return prediction
    if isinstance(prediction, Detections):
        kept = np.isin(prediction.class_ids, list(classes))
        boxes = prediction.boxes_xyxy[kept]
        return Detections(boxes, prediction.scores[kept], prediction.class_ids[kept])
    if isinstance(prediction, Classification):
        others = ~np.isin(np.arange(len(prediction.probabilities)), list(classes))
        return Classification(np.where(others, 0, prediction.probabilities).astype(np.float32))
    raise ModelError(f"{type(prediction).__name__} predictions can't be drawn.")


def _encoded(picture: NDArray[Any], form: str) -> tuple[Media, bytes]:
    suffix, media = _DRAWN[form]
    settings = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if media is Media.JPEG else []
    _, encoded = cv2.imencode(suffix, picture, settings)
    return media, encoded.tobytes()
