"""The gallery of images a model got most wrong: thumbnails with true and predicted boxes."""

import base64
from collections.abc import Sequence

import cv2
import numpy as np

from visiondyno.datasets.base import Dataset, Sample
from visiondyno.predictions import BoxTruth, Classification, ClassTruth, Detections, Predictions
from visiondyno.report.comparison import Box, WorstImage
from visiondyno.vision.accuracy.base import Accuracy, ImageErrors
from visiondyno.vision.decode import decode_image

SHOWN = 6
_LONGEST_SIDE = 480
_JPEG_QUALITY = 80


def worst_images(
    dataset: Dataset, accuracy: Accuracy, predictions: Sequence[Predictions]
) -> tuple[WorstImage, ...]:
    """The images with the most errors, worst first, in the data set's order where equal.

    Args:
        dataset: what was scored.
        accuracy: made from `predictions`.
        predictions: one an image, in the data set's class ids.
    """
    errors = accuracy.image_errors
    order = sorted(range(len(dataset)), key=lambda index: -errors[index].errors)
    return tuple(
        _show(dataset.sample(index), dataset.classes, errors[index], predictions[index])
        for index in order[:SHOWN]
        if errors[index].errors > 0
    )


def _show(
    sample: Sample, classes: tuple[str, ...], errors: ImageErrors, prediction: Predictions
) -> WorstImage:
    jpeg, scale, (height, width) = _thumbnail(sample)
    true_boxes: tuple[Box, ...] = ()
    predicted: tuple[Box, ...] = ()
    if isinstance(sample.truth, BoxTruth) and isinstance(prediction, Detections):
        true_boxes = _true_boxes(sample.truth, classes, errors, scale)
        predicted = _predicted_boxes(prediction, classes, errors, scale)
        caption = f"{errors.misses} missed, {errors.false_alarms} false alarms"
    else:
        caption = _mistake(sample, classes, prediction)
    return WorstImage(
        image=sample.path.name,
        errors=errors.errors,
        width=width,
        height=height,
        jpeg_base64=base64.b64encode(jpeg).decode(),
        true_boxes=true_boxes,
        predicted_boxes=predicted,
        caption=caption,
    )


def _thumbnail(sample: Sample) -> tuple[bytes, float, tuple[int, int]]:
    """A JPEG of at most 480 pixels a side, its scale, and its height and width."""
    image = decode_image(sample.path.read_bytes(), str(sample.path))
    scale = min(1.0, _LONGEST_SIDE / max(image.shape[:2]))
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return encoded.tobytes(), scale, image.shape[:2]


def _true_boxes(
    truth: BoxTruth, classes: tuple[str, ...], errors: ImageErrors, scale: float
) -> tuple[Box, ...]:
    return tuple(
        Box(xyxy=_scaled(box, scale), label=classes[class_id], matched=bool(matched))
        for box, class_id, matched in zip(
            truth.boxes_xyxy, truth.class_ids, errors.truth_matched, strict=True
        )
    )


def _predicted_boxes(
    found: Detections, classes: tuple[str, ...], errors: ImageErrors, scale: float
) -> tuple[Box, ...]:
    return tuple(
        Box(
            xyxy=_scaled(found.boxes_xyxy[index], scale),
            label=classes[found.class_ids[index]],
            score=float(found.scores[index]),
            matched=bool(errors.prediction_matched[index]),
        )
        for index in np.flatnonzero(errors.prediction_shown)
    )


def _scaled(box: np.ndarray, scale: float) -> tuple[float, float, float, float]:
    left, top, right, bottom = (round(float(value) * scale, 1) for value in box)
    return left, top, right, bottom


def _mistake(sample: Sample, classes: tuple[str, ...], prediction: Predictions) -> str:
    assert isinstance(sample.truth, ClassTruth)
    assert isinstance(prediction, Classification)
    best = int(prediction.top(1)[0])
    share = float(prediction.probabilities[best])
    return f"{classes[sample.truth.class_id]}, taken for {classes[best]} ({share:.0%})"
