"""Annotated copies of images."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import Classification, Detections, Image, Predictions

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN_RATIO = 0.618034
_SMALLEST_TEXT, _LARGEST_TEXT = 0.4, 2.0
_TOP_CLASSES = 5

Colour = tuple[int, int, int]
"""Blue, green, red, 0–255."""


def draw(
    image: Image,
    predictions: Predictions,
    names: Sequence[str],
    tracks: Sequence[int | None] | None = None,
) -> Image:
    """A copy of `image` with its detections, or its best classes, written on it.

    Lines and text grow with the image; each class has its own colour; text stands on a filled
    box, in black or white by the box's brightness, and inside the image.

    Args:
        image: (h, w, 3) uint8 BGR; isn't changed.
        predictions: boxes in pixels of `image`, or class probabilities.
        names: class names by class id.
        tracks: of each box the number of the object that it belongs to, None for none: it is
            written before the class, and the colour is the object's instead of the class's.

    Raises:
        ModelError: predictions of another kind.
    """
    canvas = image.copy()
    if isinstance(predictions, Classification):
        _draw_classes(canvas, predictions, names)
    elif isinstance(predictions, Detections):
        _draw_boxes(canvas, predictions, names, tracks)
    else:
        raise ModelError(f"{type(predictions).__name__} predictions can't be drawn.")
    return canvas


def class_colour(class_id: int) -> Colour:
    """A colour of its own for each class; neighbouring ids differ clearly."""
    hue = (class_id * _GOLDEN_RATIO) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.95)
    return round(blue * 255), round(green * 255), round(red * 255)


def _draw_boxes(
    canvas: Image,
    detections: Detections,
    names: Sequence[str],
    tracks: Sequence[int | None] | None,
) -> None:
    height, width = canvas.shape[:2]
    limit = np.array([width - 1, height - 1] * 2)
    thickness = max(1, round(min(height, width) / 300))
    corners = np.clip(np.rint(detections.boxes_xyxy), 0, limit).astype(int)
    # The best last, so that it lies on top.
    for index in range(len(detections) - 1, -1, -1):
        left, top, right, bottom = (int(value) for value in corners[index])
        class_id = int(detections.class_ids[index])
        track = None if tracks is None else tracks[index]
        colour = class_colour(class_id if track is None else track)
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, thickness)
        number = "" if track is None else f"#{track} "
        text = f"{number}{names[class_id]} {float(detections.scores[index]):.2f}"
        _write(canvas, text, left, top, colour)


def _draw_classes(canvas: Image, classification: Classification, names: Sequence[str]) -> None:
    line_height = _text_size(canvas, "Ag")[1]
    for line, class_id in enumerate(classification.top(_TOP_CLASSES)):
        share = float(classification.probabilities[class_id])
        if share <= 0:
            break  # classes that aren't asked for
        bottom = (line + 1) * (line_height + 2)
        text = f"{names[int(class_id)]} {share:.1%}"
        _write(canvas, text, 0, bottom, class_colour(int(class_id)))


def _text_scale(canvas: Image) -> float:
    scale = float(min(canvas.shape[:2])) / 900
    return min(max(scale, _SMALLEST_TEXT), _LARGEST_TEXT)


def _text_size(canvas: Image, text: str) -> tuple[int, int]:
    """Width and height of the text's box in pixels."""
    scale = _text_scale(canvas)
    (width, height), below = cv2.getTextSize(text, _FONT, scale, max(1, round(scale)))
    return int(width) + 4, int(height) + int(below) + 2


def _write(canvas: Image, text: str, left: int, bottom: int, colour: Colour) -> None:
    """Text above the line `bottom`, or below it where there is no room above."""
    # OpenCV's font has Latin letters only; others would all be drawn as "???".
    text = text.encode("ascii", "replace").decode()
    height, width = canvas.shape[:2]
    text_width, text_height = _text_size(canvas, text)
    left = max(0, min(left, width - text_width))
    top = bottom - text_height
    if top < 0:
        top = max(0, min(bottom, height - text_height))
    scale = _text_scale(canvas)
    cv2.rectangle(canvas, (left, top), (left + text_width, top + text_height), colour, cv2.FILLED)
    blue, green, red = colour
    is_bright = 0.114 * blue + 0.587 * green + 0.299 * red > 128
    ink = (0, 0, 0) if is_bright else (255, 255, 255)
    below = text_height // 4
    place = (left + 2, top + text_height - below)
    cv2.putText(canvas, text, place, _FONT, scale, ink, max(1, round(scale)), cv2.LINE_AA)
