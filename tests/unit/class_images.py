"""Folders of small images, one class a folder."""

import os
from pathlib import Path

import cv2
import numpy as np


def write_png(path: Path, pixels: np.ndarray) -> None:
    """An image of these pixels, BGR or grey, in a folder that is made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", pixels)
    assert done
    path.write_bytes(data.tobytes())


def noise(seed: int, *shape: int) -> np.ndarray:
    """Pixels, uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_classes(root: Path, *images: np.ndarray) -> None:
    """One image a class, BGR or grey."""
    for index, pixels in enumerate(images):
        write_png(root / f"class{index}" / "image.png", pixels)


def age(root: Path) -> None:
    """As if the files were from long ago: only then a later change is sure to show."""
    for path in root.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
