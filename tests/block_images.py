"""A YOLO data set of small images with one block each, which detectors of tests learn from."""

from pathlib import Path

import cv2
import numpy as np
import yaml

CLASSES = ("car", "sign")
SIDE = 64


def write_blocks(root: Path, train: int = 8, val: int = 4) -> Path:
    """Make `root/data.yaml` with a training and a validation split; the path of `root`."""
    number = 0
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for _ in range(count):
            _write_one(root, split, number)
            number += 1
    config = {
        "path": ".",
        "train": "images/train",
        "val": "images/val",
        "names": dict(enumerate(CLASSES)),
    }
    (root / "data.yaml").write_text(yaml.safe_dump(config))
    return root


def _write_one(root: Path, split: str, number: int) -> None:
    generator = np.random.default_rng(number)
    image = generator.integers(60, 120, (SIDE, SIDE, 3)).astype(np.uint8)
    left, top = (int(place) for place in generator.integers(0, 30, 2))
    image[top : top + 30, left : left + 30] = (250, 30, 30) if number % 2 else (30, 250, 30)
    cv2.imwrite(str(root / "images" / split / f"{number}.png"), image)
    centre = ((left + 15) / SIDE, (top + 15) / SIDE, 30 / SIDE, 30 / SIDE)
    line = " ".join([str(number % 2), *(f"{value:.6f}" for value in centre)])
    (root / "labels" / split / f"{number}.txt").write_text(line)
