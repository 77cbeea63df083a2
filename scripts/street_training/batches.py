"""Images and labels, in memory, and how a batch is drawn from them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from street_training.assignment import Truth
from visiondyno.datasets.street import HEIGHT, WIDTH
from visiondyno.predictions import BoxTruth, Image


@dataclass(frozen=True, slots=True)
class Scenes:
    """A split in memory.

    Attributes:
        images: (192, 320, 3) uint8 BGR each.
        truths: their labels.
    """

    images: list[Image]
    truths: list[BoxTruth]

    def __len__(self) -> int:
        return len(self.images)


def read_scenes(folder: Path) -> Scenes:
    """Every image and label of a street folder."""
    labels = json.loads((folder / "annotations.json").read_text())
    boxes: dict[int, list[dict[str, object]]] = {image["id"]: [] for image in labels["images"]}
    for annotation in labels["annotations"]:
        boxes[annotation["image_id"]].append(annotation)
    images, truths = [], []
    for entry in labels["images"]:
        image = cv2.imread(str(folder / "images" / entry["file_name"]), cv2.IMREAD_COLOR)
        assert image is not None, entry["file_name"]
        images.append(np.asarray(image, np.uint8))
        truths.append(_truth(boxes[entry["id"]]))
    return Scenes(images, truths)


def _truth(annotations: list[dict[str, object]]) -> BoxTruth:
    corners = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return BoxTruth(
        boxes_xyxy=corners,
        class_ids=np.array([a["category_id"] for a in annotations], np.int64) - 1,
        is_crowd=np.zeros(len(annotations), np.bool_),
        areas=np.array([a["area"] for a in annotations], np.float64),
    )


def batches(
    scenes: Scenes, size: int, source: np.random.Generator
) -> Iterator[tuple[Tensor, Truth]]:
    """One pass over the scenes in random order, each varied at random.

    Yields:
        images (size, 3, 192, 320) float32 RGB 0–1, and their labels. The last, incomplete batch
        is left out.
    """
    order = source.permutation(len(scenes))
    for start in range(0, len(order) - size + 1, size):
        images = np.empty((size, HEIGHT, WIDTH, 3), np.uint8)
        where, boxes, classes = [], [], []
        for place, index in enumerate(order[start : start + size]):
            truth = scenes.truths[index]
            images[place], corners = _varied(scenes.images[index], truth.boxes_xyxy, source)
            kept = _still_seen(corners, truth.boxes_xyxy)
            where.append(np.full(int(kept.sum()), place))
            boxes.append(corners[kept])
            classes.append(truth.class_ids[kept])
        labels = Truth(
            image=torch.from_numpy(np.concatenate(where)),
            boxes=torch.from_numpy(_inside(np.concatenate(boxes)).astype(np.float32)),
            classes=torch.from_numpy(np.concatenate(classes)),
        )
        yield to_input(images), labels


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """(n, h, w, 3) uint8 BGR to (n, 3, h, w) float32 RGB 0–1."""
    rgb = np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2))
    return torch.from_numpy(rgb).float() / 255


def _varied(
    image: Image, boxes: NDArray[np.float64], source: np.random.Generator
) -> tuple[Image, NDArray[np.float64]]:
    """Mirrored, scaled, shifted and re-lit at random, with its boxes."""
    mirror, scaled = source.random(2)
    scale = float(np.exp(source.uniform(-0.3, 0.3))) if scaled < 0.6 else 1.0
    room = (WIDTH * (1 - scale), HEIGHT * (1 - scale))
    shift = (room[0] * source.random(), room[1] * source.random())
    sign = -1.0 if mirror < 0.5 else 1.0
    offset = shift[0] + (WIDTH * scale if sign < 0 else 0.0)
    if scale != 1.0:
        # The matrix maps edges to edges; OpenCV's coordinates are of pixel centres.
        middle = (sign * scale * 0.5 + offset - 0.5, scale * 0.5 + shift[1] - 0.5)
        matrix = np.array(((sign * scale, 0, middle[0]), (0, scale, middle[1])))
        image = np.asarray(
            cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), borderValue=(114, 114, 114)), np.uint8
        )
    elif sign < 0:
        image = image[:, ::-1]
    x = boxes[:, (0, 2)] * sign * scale + offset
    y = boxes[:, (1, 3)] * scale + shift[1]
    moved = np.stack((x.min(1), y[:, 0], x.max(1), y[:, 1]), 1) if len(boxes) else boxes
    gains = source.uniform(0.8, 1.2) * source.uniform(0.95, 1.05, 3)
    table = np.clip(np.arange(256)[:, None] * gains + source.uniform(-8, 8), 0, 255)
    lit = cv2.LUT(np.ascontiguousarray(image), table.astype(np.uint8).reshape(1, 256, 3))
    return np.asarray(lit, np.uint8), moved


def _inside(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(boxes, 0, (WIDTH, HEIGHT, WIDTH, HEIGHT))


def _still_seen(boxes: NDArray[np.float64], before: NDArray[np.float64]) -> NDArray[np.bool_]:
    sides = _inside(boxes)[:, 2:] - _inside(boxes)[:, :2]
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    large = (sides.max(1, initial=0) >= 5) & (sides.min(1, initial=9e9) >= 2.4)
    return np.asarray(large & (sides.prod(1) >= 0.25 * whole) & (len(before) > 0))
