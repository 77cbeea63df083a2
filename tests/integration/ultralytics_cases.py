"""Networks of Ultralytics with random weights that find something, saved as its trainer does it."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from visiondyno.predictions import Detections, Image
from visiondyno.vision.ultralytics_library import import_ultralytics, quiet

torch = pytest.importorskip("torch")


def photo_like(height: int, width: int, seed: int) -> Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    photo: Image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return photo


def lively_network(name: str, side: int, **changes: Any) -> Any:
    """A network of the package's architecture `name`, whose layers let a signal through."""
    import_ultralytics("A test")
    from ultralytics.nn.tasks import ClassificationModel, DetectionModel, yaml_model_load

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make = ClassificationModel if "-cls" in name else DetectionModel
        architecture = yaml_model_load(f"{name}.yaml") | changes
        network = make(architecture, ch=3, nc=changes.get("nc", 3), verbose=False)
        _enliven(network, side)
    network.task = "classify" if "-cls" in name else "detect"
    network.names = {0: "car", 1: "truck", 2: "stop sign"}
    return network.eval()


def _enliven(network: Any, side: int) -> None:
    smooth = [photo_like(side, side, 100 + number) for number in range(8)]
    rough = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), dtype=np.uint8)
    images = np.concatenate([np.stack(smooth), rough])
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    head = network.model[-1]
    with torch.no_grad():
        # Fresh weights let the signal die out: take each layer's statistics from real input.
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        network.train()
        network(batch)
        if hasattr(head, "linear"):
            head.linear.weight.mul_(20)
            return
        parts = [(head.cv2, head.cv3)]
        if getattr(head, "one2one_cv2", None) is not None:
            parts.append((head.one2one_cv2, head.one2one_cv3))
        for boxes, scores in parts:
            for box, score in zip(boxes, scores, strict=True):
                # Fresh heads answer 1e-5 everywhere: raise and spread scores and boxes.
                score[-1].bias.copy_(torch.empty_like(score[-1].bias).normal_(-2.0, 0.5))
                score[-1].weight.mul_(0.3)
                box[-1].weight.mul_(2.0)


def save_checkpoint(network: Any, path: Path, side: int) -> Path:
    """As Ultralytics' trainer saves one: the whole module in half precision, and its settings."""
    content = {
        "epoch": -1,
        "model": None,
        "ema": network.half(),
        "train_args": {"imgsz": side, "task": network.task, "data": "street.yaml"},
        "train_metrics": {"fitness": np.float64(0.5)},
        "license": "AGPL-3.0",
    }
    with quiet():
        torch.save(content, path)
    return path


def paired(ours: Detections, theirs: np.ndarray) -> int:
    """How many of `theirs` (x1 y1 x2 y2 score class) have a partner of their own in `ours`.

    Partners are at most .5 pixels and a score of 1e-3 apart.
    """
    free = np.ones(len(ours), bool)
    for row in theirs:
        fits = (
            free
            & (ours.class_ids == int(row[5]))
            & (np.abs(ours.scores - row[4]) <= 1e-3)
            & (np.abs(ours.boxes_xyxy - row[:4]).max(axis=1) <= 0.5)
        )
        if fits.any():
            free[np.flatnonzero(fits)[0]] = False
    return int((~free).sum())
