"""Validation: the same reading of the output and the same COCO evaluation as `dyno compare`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from street_training.batches import Scenes, to_input
from street_training.export import street_card
from visiondyno.datasets.street import HEIGHT, STREET_CLASSES, WIDTH
from visiondyno.predictions import Detections
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.onnx import OnnxRuntime
from visiondyno.specs.model_card import ModelCard
from visiondyno.vision.accuracy.coco import evaluate
from visiondyno.vision.heads import HEADS
from visiondyno.vision.preprocess import Geometry

NMS_CHOICES = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75)
_GEOMETRY = Geometry(1.0, 1.0, 0.0, 0.0, WIDTH, HEIGHT)
_BATCH = 25


def accuracy(network: nn.Module, val: Scenes) -> float:
    """COCO mAP 50–95 of a network in the YOLOv8 layout, in memory."""
    return _map(val, read(outputs(network, val), street_card(0.6)))


def best_nms_iou(network: nn.Module, val: Scenes) -> float:
    """The IoU of NMS that gives the highest mAP on these scenes."""
    found = outputs(network, val)
    scores = {iou: _map(val, read(found, street_card(iou))) for iou in NMS_CHOICES}
    return max(scores, key=lambda iou: scores[iou])


def accuracy_of_file(file: Path, val: Scenes) -> tuple[float, dict[str, float]]:
    """COCO mAP 50–95 of an exported model, run as the product runs it, and AP by class."""
    with OnnxRuntime().load(str(file), LoadOptions(intra_op_threads=1)) as model:
        predictions = [model.predict([image])[0] for image in val.images]
    found = [answer for answer in predictions if isinstance(answer, Detections)]
    result = evaluate(val.truths, found, range(len(STREET_CLASSES)))
    by_class = {
        name: result.class_average_precision(place) for place, name in enumerate(STREET_CLASSES)
    }
    mean = result.average_precision()
    assert mean is not None
    return mean, {name: value for name, value in by_class.items() if value is not None}


def outputs(network: nn.Module, scenes: Scenes) -> NDArray[np.float32]:
    """(n, 8, anchors) for every scene."""
    network.eval()
    found = []
    for start in range(0, len(scenes), _BATCH):
        images = to_input(np.stack(scenes.images[start : start + _BATCH]))
        with torch.no_grad():
            answer = network(images.contiguous(memory_format=torch.channels_last))
        found.append(answer.numpy())
    return np.concatenate(found)


def read(found: NDArray[np.float32], card: ModelCard) -> list[Detections]:
    """The network's answers as detections."""
    decode: Callable[..., list[Detections]] = HEADS["yolov8"].decode  # type: ignore[assignment]
    assert card.detection is not None
    return [decode([one[None]], card, [_GEOMETRY], card.detection.confidence)[0] for one in found]


def _map(val: Scenes, predictions: list[Detections]) -> float:
    mean = evaluate(val.truths, predictions, range(len(STREET_CLASSES))).average_precision()
    return mean if mean is not None else 0.0
