"""What training makes small."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from street_training.assignment import Truth, assign, iou
from street_training.network import StreetDetector

BOX_WEIGHT = 6.0


def detection_loss(
    network: StreetDetector, logits: Tensor, distances: Tensor, truth: Truth
) -> Tensor:
    """Binary cross-entropy of aligned class scores plus generalised IoU of the boxes.

    Both are divided by the sum of the class targets, so that crowded and empty batches pull
    equally hard for each object. GIoU: Rezatofighi et al., 2019.

    Args:
        network: for its anchors.
        logits: (n, classes, anchors).
        distances: (n, 4, anchors) pixels.
        truth: the labels of the batch.
    """
    logits, distances = logits.transpose(1, 2), distances.transpose(1, 2)
    low, high = network.centres - distances[..., :2], network.centres + distances[..., 2:]
    boxes = torch.cat((low, high), 2)
    found = assign(truth, logits.detach().sigmoid(), boxes.detach(), network.centres,
                   network.strides)  # fmt: skip
    targets = torch.zeros_like(logits)
    targets[found.image, found.anchor, truth.classes[found.box]] = found.target
    share = targets.sum().clamp(min=1.0)
    class_loss = binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    gaps = 1 - generalised_iou(boxes[found.image, found.anchor], truth.boxes[found.box])
    box_loss = (gaps * found.target).sum()
    return (class_loss + BOX_WEIGHT * box_loss) / share


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU minus the share of the smallest enclosing box that is in neither: (n,)."""
    low = torch.minimum(first[:, :2], second[:, :2])
    high = torch.maximum(first[:, 2:], second[:, 2:])
    hull = (high - low).prod(1).clamp(min=1e-6)
    areas = (first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1)
    overlap = iou(first, second)
    union = areas / (1 + overlap)
    return overlap - (hull - union) / hull
