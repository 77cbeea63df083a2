"""Detectors whose scores and boxes move with the image, written as ONNX files."""

import json
from pathlib import Path

import numpy as np

from onnx_builder import build_model
from visiondyno.specs.model_card import DetectionCard, InputCard, ModelCard

NAMES = ("car", "truck", "sign")


def own_metadata(card: ModelCard) -> dict[str, str]:
    return {"visiondyno.model": json.dumps(card.model_dump(mode="json", by_alias=True))}


def detector(head: str, **fields: object) -> ModelCard:
    """A card for a 32 × 32 input whose scores and boxes move with the image's mean."""
    return ModelCard.model_validate(
        {
            "task": "detection",
            "head": head,
            "classes": NAMES,
            "input": InputCard.model_validate({"height": 32, "width": 32} | fields),
            "detection": DetectionCard(confidence=0.05),
        }
    )


def yolov8_base(boxes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    base = np.zeros((1, 7, boxes), np.float32)
    base[0, :2] = random.uniform(8, 24, (2, boxes))
    base[0, 2:4] = random.uniform(6, 12, (2, boxes))
    base[0, 4:] = random.uniform(0, 0.6, (3, boxes))
    slope = np.zeros_like(base)
    slope[0, 0], slope[0, 4:] = 4, 0.3
    return base, slope


def write_detectors(folder: Path) -> tuple[str, ...]:
    base, slope = yolov8_base()
    paths = []
    variants: list[tuple[str, dict[str, object], dict[str, object]]] = [
        ("fixed-1", {"batch": 1}, {}),
        ("fixed-4", {"batch": 4}, {}),
        ("dynamic", {"batch": None}, {}),
        ("nhwc", {"batch": None, "layout": "nhwc"}, {"layout": "nhwc"}),
        ("half", {"batch": 2, "dtype": "float16"}, {"dtype": "float16"}),
        ("free-size", {"batch": None, "size": (None, None)}, {}),
    ]
    for name, built, said in variants:
        metadata = own_metadata(detector("yolov8", **said))
        path = build_model(folder / f"{name}.onnx", base, slope=slope, metadata=metadata, **built)
        paths.append(str(path))
    bytes_in = own_metadata(detector("yolov8", dtype="uint8", scale=1.0))
    path = build_model(
        folder / "uint8.onnx", base, slope=slope / 255, dtype="uint8", metadata=bytes_in
    )
    classifier = build_model(
        folder / "classifier.onnx",
        np.array([[0.1, 0.5, 2.0]], np.float32),
        slope=np.array([[1.0, -2.0, 0.0]], np.float32),
        batch=3,
    )
    return (*paths, str(path), str(classifier))
