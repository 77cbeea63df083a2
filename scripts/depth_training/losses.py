"""What the network is told it got wrong."""

import torch
from torch import Tensor

EDGE_WEIGHT = 0.5
_LARGEST_STEP = 4


def depth_loss(answer: Tensor, truth: Tensor) -> Tensor:
    """Mean |ln ratio| of depths, and of its steps from pixel to pixel.

    The second part is the gradient matching loss of Ranftl et al. 2020 (MiDaS) on logarithms: it
    keeps edges sharp and surfaces smooth.

    Args:
        answer: (n, 1, h, w) ln of metres.
        truth: likewise; NaN where not measured.
    """
    measured = ~torch.isnan(truth)
    error = torch.where(measured, answer - torch.nan_to_num(truth), torch.zeros_like(answer))
    loss = error.abs().sum() / measured.sum()
    step = 1
    while step <= _LARGEST_STEP:
        for axis in (2, 3):
            size = error.shape[axis] - step
            first, second = error.narrow(axis, 0, size), error.narrow(axis, step, size)
            both = measured.narrow(axis, 0, size) & measured.narrow(axis, step, size)
            loss = loss + EDGE_WEIGHT / 3 * ((second - first).abs() * both).sum() / both.sum()
        step *= 2
    return loss
