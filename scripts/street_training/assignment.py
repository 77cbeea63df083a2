"""Which anchors learn which box, and what they are told.

Task-aligned assignment (Feng et al., "TOOD: Task-aligned One-stage Object Detection", 2021): an
anchor's alignment with a box is score^α · IoU^β; the best-aligned anchors of each box learn it,
and their class target is their alignment, scaled so that the best one's is its IoU. Written here
for many images at once, on the pairs of boxes and anchors that are near each other only.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ALPHA = 0.5
BETA = 4.0
ANCHORS_A_BOX = 10
REACH_STRIDES = 1.2
"""A box reaches at least this many strides from its centre: boxes between centres get anchors."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The labels of a batch.

    Attributes:
        image: (boxes,) int64, index into the batch.
        boxes: (boxes, 4) float32 left, top, right, bottom in pixels.
        classes: (boxes,) int64.
    """

    image: Tensor
    boxes: Tensor
    classes: Tensor


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who learns what.

    Attributes:
        image, anchor: (n,) int64, the anchors that learn a box.
        box: (n,) int64, index into the truth.
        target: (n,) float32, the class score they are to give.
    """

    image: Tensor
    anchor: Tensor
    box: Tensor
    target: Tensor


def assign(
    truth: Truth, scores: Tensor, boxes: Tensor, centres: Tensor, strides: Tensor
) -> Assignment:
    """Match anchors to boxes.

    Args:
        truth: the labels.
        scores: (n, anchors, classes) in 0–1.
        boxes: (n, anchors, 4) predicted, pixels.
        centres: (anchors, 2) pixels.
        strides: (anchors,) pixels.
    """
    with torch.no_grad():
        box, anchor = _near(truth, centres, strides).nonzero(as_tuple=True)
        image = truth.image[box]
        overlap = iou(boxes[image, anchor], truth.boxes[box])
        score = scores[image, anchor, truth.classes[box]]
        alignment = score.clamp(min=1e-6) ** ALPHA * overlap**BETA + 1e-9
        dense = torch.zeros(len(truth.boxes), len(centres))
        dense[box, anchor] = alignment
        kept = torch.zeros_like(dense, dtype=torch.bool)
        best = dense.topk(ANCHORS_A_BOX, dim=1)
        kept.scatter_(1, best.indices, best.values > 0)
        chosen = kept[box, anchor]
        chosen &= _strongest(image * len(centres) + anchor, overlap, chosen)
        return _scaled(image[chosen], anchor[chosen], box[chosen], alignment[chosen],
                       overlap[chosen], len(truth.boxes))  # fmt: skip


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of (n, 4) and (n, 4) boxes, pairwise: (n,)."""
    low = torch.maximum(first[:, :2], second[:, :2])
    high = torch.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    areas = (first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1)
    return shared / (areas - shared).clamp(min=1e-6)


def _near(truth: Truth, centres: Tensor, strides: Tensor) -> Tensor:
    """(boxes, anchors) bool: which anchors' centres are in which boxes."""
    middle = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2
    half = (truth.boxes[:, 2:] - truth.boxes[:, :2]) / 2
    reach = strides * REACH_STRIDES
    across = (centres[None, :, 0] - middle[:, :1]).abs() < torch.maximum(half[:, :1], reach)
    down = (centres[None, :, 1] - middle[:, 1:]).abs() < torch.maximum(half[:, 1:], reach)
    return across & down


def _strongest(place: Tensor, overlap: Tensor, chosen: Tensor) -> Tensor:
    """Of the chosen pairs that share an anchor, the one of most overlap."""
    places, overlaps = place.numpy(), np.where(chosen.numpy(), overlap.numpy(), -1.0)
    # Later writes win: in ascending order of overlap, the largest is the last.
    order = np.argsort(overlaps, kind="stable")
    winner = np.full(int(places.max(initial=0)) + 1, -1, np.int64)
    winner[places[order]] = order
    return torch.from_numpy(winner[places] == np.arange(len(places)))


def _scaled(
    image: Tensor, anchor: Tensor, box: Tensor, alignment: Tensor, overlap: Tensor, boxes: int
) -> Assignment:
    most = torch.zeros(boxes).scatter_reduce(0, box, alignment, "amax")
    best = torch.zeros(boxes).scatter_reduce(0, box, overlap, "amax")
    return Assignment(image, anchor, box, alignment / most[box].clamp(min=1e-9) * best[box])
