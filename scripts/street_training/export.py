"""From trained weights to a model file that explains itself."""

from pathlib import Path

import numpy as np
import torch

from model_training.onnx_file import both_answers, write_onnx
from street_training.network import ExportedDetector
from visiondyno.datasets.street import HEIGHT, STREET_CLASSES, WIDTH
from visiondyno.specs.model_card import DetectionCard, InputCard, ModelCard


def street_card(nms_iou: float) -> ModelCard:
    """The model card of both street detectors."""
    return ModelCard(
        schema="visiondyno.model/1",
        task="detection",
        head="yolov8",
        classes=STREET_CLASSES,
        input=InputCard(height=HEIGHT, width=WIDTH, resize="letterbox", channels="rgb"),
        detection=DetectionCard(nms_iou=nms_iou),
        license="Apache-2.0",
        source="trained by scripts/train_street.py on the built-in street scenes",
    )


def export(network: ExportedDetector, card: ModelCard, file: Path) -> None:
    """Write an ONNX file: batch of any size, norms folded into convolutions, card inside."""
    example = torch.zeros(2, 3, HEIGHT, WIDTH)
    write_onnx(network, example, "detections", card, file, any_batch=True)


def greatest_difference(network: ExportedDetector, file: Path, images: torch.Tensor) -> float:
    """Largest absolute difference between the file's answer and the network's.

    Relative to 1 for scores and to the image's width for box values, so that one limit fits both.
    """
    mine, theirs = both_answers(network, file, images)
    scale = np.array([WIDTH] * 4 + [1] * len(STREET_CLASSES), np.float32)[None, :, None]
    return float((np.abs(mine - theirs) / scale).max())
