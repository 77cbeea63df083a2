"""Models to read a card from, and cards beside them."""

from pathlib import Path

import numpy as np
import yaml

from onnx_builder import build_model
from visiondyno.runtimes.card_file import card_path
from visiondyno.specs.model_card import ModelCard

ULTRALYTICS = {
    "description": "Ultralytics YOLOv8n model",
    "license": "AGPL-3.0",
    "stride": "32",
    "task": "detect",
    "imgsz": "[64, 96]",
    "names": "{0: 'car', 1: 'truck'}",
    "args": "{'batch': 1, 'half': False, 'nms': False}",
    "end2end": "False",
}


def model(folder: Path, shape: tuple[int, ...], name: str = "m", **built: object) -> Path:
    return build_model(folder / f"{name}.onnx", np.zeros(shape, np.float32), **built)  # type: ignore[arg-type]


def beside(path: Path, **fields: object) -> ModelCard:
    content = {
        "task": "detection",
        "head": "yolov8",
        "classes": ["bus", "van"],
        "input": {"height": 32, "width": 32, "resize": "stretch"},
    } | fields
    card_path(path).write_text(yaml.safe_dump(content))
    return ModelCard.model_validate(content)
