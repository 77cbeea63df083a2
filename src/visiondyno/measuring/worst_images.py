"""The gallery of images a model got most wrong.

Thumbnails with true and predicted boxes; of depth, the image beside predicted and true depth.
"""

import base64
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.base import Dataset, Sample
from visiondyno.datasets.depth import read_depth
from visiondyno.predictions import (
    BoxTruth,
    Classification,
    ClassTruth,
    DepthMap,
    DepthTruth,
    Detections,
    FloatArray,
    Image,
    Predictions,
)
from visiondyno.report.comparison import Box, WorstImage
from visiondyno.specs.model_card import DepthCard
from visiondyno.vision.accuracy.base import Accuracy, ImageErrors
from visiondyno.vision.accuracy.depth import align_depth
from visiondyno.vision.decode import decode_image

SHOWN = 6
_LONGEST_SIDE = 480
_JPEG_QUALITY = 80
_PANEL_LONGEST_SIDE = 240
_SEAM_PX = 4
_NOT_MEASURED_BGR = (96, 96, 96)


def worst_images(
    dataset: Dataset, accuracy: Accuracy, predictions: Sequence[Predictions]
) -> tuple[WorstImage, ...]:
    """The images with the most errors (of depth: the largest AbsRel), worst first.

    Equal ones are in the data set's order.

    Args:
        dataset: what was scored.
        accuracy: made from `predictions`.
        predictions: one an image, in the data set's class ids.
    """
    errors = accuracy.image_errors
    order = sorted(range(len(dataset)), key=lambda index: -errors[index].badness)
    return tuple(
        _show(dataset, index, accuracy, predictions[index])
        for index in order[:SHOWN]
        if errors[index].badness > 0
    )


def _show(dataset: Dataset, index: int, accuracy: Accuracy, prediction: Predictions) -> WorstImage:
    sample, classes, errors = dataset.sample(index), dataset.classes, accuracy.image_errors[index]
    if isinstance(sample.truth, DepthTruth) and isinstance(prediction, DepthMap):
        assert accuracy.depth is not None
        return _show_depth(sample, sample.truth, errors, prediction, accuracy.depth)
    jpeg, scale, (height, width) = _thumbnail(sample)
    true_boxes: tuple[Box, ...] = ()
    predicted: tuple[Box, ...] = ()
    if isinstance(sample.truth, BoxTruth) and isinstance(prediction, Detections):
        true_boxes = _true_boxes(sample.truth, classes, errors, scale)
        predicted = _predicted_boxes(prediction, classes, errors, scale)
        caption = f"{errors.misses} missed, {errors.false_alarms} false alarms"
    elif isinstance(sample.truth, BoxTruth):
        true_boxes = _true_boxes(sample.truth, classes, errors, scale)
        caption = f"{errors.misses} classes missed, {errors.false_alarms} that aren't there"
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
    return _jpeg(image), scale, image.shape[:2]


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def _show_depth(
    sample: Sample, truth: DepthTruth, errors: ImageErrors, prediction: DepthMap, card: DepthCard
) -> WorstImage:
    """Image, predicted and true depth side by side; a colour is one inverse depth in both."""
    image = decode_image(sample.path.read_bytes(), str(sample.path))
    true_depth = read_depth(truth)
    predicted = align_depth(prediction.depth, true_depth, card, sample.path.name).depth
    scale = min(1.0, _PANEL_LONGEST_SIDE / max(image.shape[:2]))
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    nearest, farthest = float(np.nanmin(true_depth)), float(np.nanmax(true_depth))
    panels = [np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)]
    for depth in (predicted, true_depth):
        # Nearest: a mean of near and far would be a depth that nothing has.
        small = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
        panels.append(_coloured(np.asarray(small, np.float32), nearest, farthest))
    seam = np.full((size[1], _SEAM_PX, 3), 255, np.uint8)
    strip = np.concatenate([panels[0], seam, panels[1], seam, panels[2]], axis=1)
    return WorstImage(
        image=sample.path.name,
        errors=errors.errors,
        width=strip.shape[1],
        height=strip.shape[0],
        jpeg_base64=base64.b64encode(_jpeg(strip)).decode(),
        caption=f"AbsRel {errors.severity:.3f}, measured {nearest:.2f}–{farthest:.2f} m",
    )


def _coloured(depth: FloatArray, nearest: float, farthest: float) -> Image:
    """Bright where near, dark where far, grey where nothing was measured."""
    known = np.isfinite(depth)
    inverse = 1 / np.clip(np.where(known, depth, farthest), nearest, farthest)
    span = max(1 / nearest - 1 / farthest, 1e-9)
    level = np.round((inverse - 1 / farthest) / span * 255).astype(np.uint8)
    coloured = np.asarray(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), np.uint8)
    coloured[~known] = _NOT_MEASURED_BGR
    return coloured


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
