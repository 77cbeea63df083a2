"""Pictures and depth, in memory at half size, and how a batch is drawn from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depth_training.network import HALF_PX
from visiondyno.datasets.depth import METRES_PER_UNIT, read_depth
from visiondyno.predictions import DepthTruth


@dataclass(frozen=True, slots=True)
class Scenes:
    """A split in memory.

    Attributes:
        images: (n, 224, 224, 3) uint8 BGR, each the mean of 2 × 2 pixels.
        depths: (n, 224, 224) float16, ln of metres of every other pixel; NaN where not measured.
    """

    images: NDArray[np.uint8]
    depths: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.images)


def read_scenes(folder: Path) -> Scenes:
    """Every scene of a folder of depth scenes."""
    files = sorted((folder / "images").iterdir())
    images = np.empty((len(files), HALF_PX, HALF_PX, 3), np.uint8)
    depths = np.empty((len(files), HALF_PX, HALF_PX), np.float16)
    for place, file in enumerate(files):
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        assert image is not None, file
        images[place] = cv2.resize(image, (HALF_PX, HALF_PX), interpolation=cv2.INTER_AREA)
        truth = DepthTruth(folder / "depth" / f"{file.stem}.png", METRES_PER_UNIT[".png"])
        depths[place] = np.log(read_depth(truth)[::2, ::2])
    return Scenes(images, depths)


def batches(
    scenes: Scenes, size: int, source: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over the scenes in random order, mirrored and re-lit at random.

    Yields:
        images (size, 3, 224, 224) float32 RGB 0–1, and ln of metres (size, 1, 224, 224) float32
        with NaN. The last, incomplete batch is left out.
    """
    order = source.permutation(len(scenes))
    for start in range(0, len(order) - size + 1, size):
        chosen = np.sort(order[start : start + size])
        images, depths = scenes.images[chosen], scenes.depths[chosen]
        mirrored = source.random(size) < 0.5
        images[mirrored], depths[mirrored] = images[mirrored, :, ::-1], depths[mirrored, :, ::-1]
        for place in range(size):
            images[place] = _relit(images[place], source)
        truth = torch.from_numpy(depths[:, None].astype(np.float32))
        yield to_input(images), truth


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """(n, h, w, 3) uint8 BGR to (n, 3, h, w) float32 RGB 0–1."""
    rgb = np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2))
    return torch.from_numpy(rgb).float() / 255


def _relit(image: NDArray[np.uint8], source: np.random.Generator) -> NDArray[np.uint8]:
    """Of another brightness, contrast and tint."""
    gains = source.uniform(0.75, 1.25) * source.uniform(0.92, 1.08, 3)
    bend = source.uniform(0.85, 1.18)
    grey = np.arange(256)[:, None] / 255
    table = np.clip(grey**bend * gains * 255 + source.uniform(-8, 8), 0, 255)
    lit = cv2.LUT(image, table.astype(np.uint8).reshape(1, 256, 3))
    return np.asarray(lit, np.uint8)
