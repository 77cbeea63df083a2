"""A small encoder–decoder that tells depth in metres.

The picture is halved first: a convolutional encoder then halves it five times more, learned values
for each place of its coarsest map tell up from down, and a decoder brings what the coarse maps
know back to the fine ones. It answers the logarithm of depth at a quarter of the picture's size,
since errors in depth matter by their ratio.
"""

import math

import torch
from torch import Tensor, nn

from visiondyno.datasets.depth_scenes import FARTHEST_M, NEAREST_M, SIDE_PX

HALF_PX = SIDE_PX // 2
_COARSEST = HALF_PX // 32
_WIDTHS = (16, 32, 64, 96, 128)


def _conv(inside: int, outside: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside, momentum=0.03),
        nn.ReLU(inplace=True),
    )


def _separable(inside: int, outside: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(inside, inside, size, stride, inside), _conv(inside, outside, 1))


class _Residual(nn.Module):  # type: ignore[misc]  # torch has no types here
    """x + inner(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to the same shape."""
        out: Tensor = x + self.inner(x)
        return out


def _squeezed(channels: int, inner: int) -> _Residual:
    return _Residual(nn.Sequential(_conv(channels, inner, 1), _conv(inner, channels, 3)))


class DepthNetwork(nn.Module):  # type: ignore[misc]  # torch has no types here
    """Depth of a picture of half size.

    Input: (n, 3, 224, 224) float32, RGB, 0–1. Output: (n, 1, 112, 112), ln of metres.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d, e = _WIDTHS
        self.stages = nn.ModuleList(
            [
                _conv(3, a, 3, 2),
                nn.Sequential(_conv(a, b, 3, 2), _squeezed(b, b // 2)),
                nn.Sequential(_conv(b, c, 3, 2), _squeezed(c, c // 2), _squeezed(c, c // 2)),
                nn.Sequential(_conv(c, d, 3, 2), _squeezed(d, d // 3), _squeezed(d, d // 3)),
                _separable(d, e, 3, 2),
            ]
        )
        self.place = nn.Parameter(torch.zeros(1, e, _COARSEST, _COARSEST))
        self.overall = nn.Linear(e, e)
        self.coarse = nn.Sequential(*[_Residual(_separable(e, e, 5)) for _ in range(2)])
        widths = (e, 64, 64, 40, 20)
        self.reduce = nn.ModuleList([_conv(widths[k], widths[k + 1], 1) for k in range(4)])
        self.lateral = nn.ModuleList([_conv(_WIDTHS[3 - k], widths[k + 1], 1) for k in range(4)])
        self.merge = nn.ModuleList(
            [_Residual(_separable(widths[k + 1], widths[k + 1], 3)) for k in range(4)]
        )
        self.out = nn.Conv2d(widths[-1], 1, 3, padding=1)
        assert self.out.bias is not None
        # Starting from a middling depth keeps the first steps calm.
        nn.init.constant_(self.out.bias, math.log(6.0))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        features, kept = (images - 0.5) * 4, []
        for stage in self.stages:
            features = stage(features)
            kept.append(features)
        features = features + self.place
        features = features + self.overall(features.mean((2, 3)))[:, :, None, None]
        features = self.coarse(features)
        for level in range(4):
            larger = nn.functional.interpolate(self.reduce[level](features), scale_factor=2.0)
            features = self.merge[level](larger + self.lateral[level](kept[3 - level]))
        answer: Tensor = self.out(features)
        return answer


class ExportedDepth(nn.Module):  # type: ignore[misc]  # torch has no types here
    """The network as it is shipped.

    Input: (n, 3, 448, 448) float32, RGB, 0–1. Output: (n, 1, 448, 448), metres.
    """

    def __init__(self, network: DepthNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        logarithm = self.network(nn.functional.avg_pool2d(images, 2))
        fine = enlarged(logarithm, 4)
        metres: Tensor = fine.clamp(math.log(NEAREST_M), math.log(FARTHEST_M)).exp()
        return metres


def enlarged(maps: Tensor, factor: int) -> Tensor:
    """(n, 1, h, w) to `factor` times the size, linearly, pixel centres to pixel centres."""
    large: Tensor = nn.functional.interpolate(
        maps, scale_factor=float(factor), mode="bilinear", align_corners=False
    )
    return large


def parameter_count(network: nn.Module) -> int:
    """How many numbers were learned."""
    return sum(parameter.numel() for parameter in network.parameters())
