"""Two small anchor-free detectors.

A convolutional backbone halves the resolution step by step; a feature pyramid brings what the
coarse maps know back to the fine ones; one head, shared by all levels, says for every cell which
class it sees and how far the box reaches to the left, top, right and bottom. `street-s` also looks
at stride 4, where a sign of 6 pixels still covers more than a cell.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visiondyno.datasets.street import HEIGHT, STREET_CLASSES, WIDTH

CLASSES = len(STREET_CLASSES)


@dataclass(frozen=True, slots=True)
class Design:
    """What distinguishes the two detectors.

    Attributes:
        widths: channels after each halving, from stride 2.
        blocks: residual blocks after each halving.
        finest: stride of the finest level that predicts.
        pyramid: channels of the feature pyramid.
        smooth: SiLU instead of ReLU.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    finest: int
    pyramid: int
    smooth: bool


DESIGNS = {
    "street-n": Design((16, 24, 48, 72, 88), (0, 0, 1, 1, 0), 8, 48, smooth=False),
    "street-s": Design((16, 32, 64, 96, 96), (0, 1, 2, 2, 1), 4, 48, smooth=True),
}


def _conv(
    inside: int, outside: int, size: int, *, stride: int = 1, groups: int = 1, smooth: bool
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside, momentum=0.03),
        nn.SiLU(inplace=True) if smooth else nn.ReLU(inplace=True),
    )


def _separable(channels: int, *, smooth: bool) -> nn.Sequential:
    return nn.Sequential(
        _conv(channels, channels, 3, groups=channels, smooth=smooth),
        _conv(channels, channels, 1, smooth=smooth),
    )


class _Residual(nn.Module):  # type: ignore[misc]  # torch has no types here
    """x + 3×3(1×1(x)), at half the channels in between."""

    def __init__(self, channels: int, *, smooth: bool) -> None:
        super().__init__()
        self.squeeze = _conv(channels, channels // 2, 1, smooth=smooth)
        self.spread = _conv(channels // 2, channels, 3, smooth=smooth)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to the same shape."""
        out: Tensor = x + self.spread(self.squeeze(x))
        return out


class StreetDetector(nn.Module):  # type: ignore[misc]  # torch has no types here
    """A detector of street scenes.

    Input: (n, 3, 192, 320) float32, RGB, 0–1. Output: class logits (n, 4, anchors) and distances
    (n, 4, anchors) in pixels from each anchor's centre to its box's left, top, right, bottom.

    Attributes:
        centres: (anchors, 2) x, y in pixels.
        strides: (anchors,) in pixels.
    """

    centres: Tensor
    strides: Tensor

    def __init__(self, design: Design) -> None:
        super().__init__()
        smooth, pyramid = design.smooth, design.pyramid
        stages: list[nn.Module] = []
        inside = 3
        for width, blocks in zip(design.widths, design.blocks, strict=True):
            stage = [_conv(inside, width, 3, stride=2, smooth=smooth)]
            residuals = [_Residual(width, smooth=smooth) for _ in range(blocks)]
            stages.append(nn.Sequential(*stage, *residuals))
            inside = width
        self.stages = nn.ModuleList(stages)
        self.levels = [s for s in range(len(stages)) if 2 ** (s + 1) >= design.finest]
        self.laterals = nn.ModuleList(
            [_conv(design.widths[s], pyramid, 1, smooth=smooth) for s in self.levels]
        )
        self.merges = nn.ModuleList([_separable(pyramid, smooth=smooth) for _ in self.levels])
        self.class_tower = _separable(pyramid, smooth=smooth)
        self.box_tower = _separable(pyramid, smooth=smooth)
        self.class_out = nn.Conv2d(pyramid, CLASSES, 1)
        self.box_out = nn.Conv2d(pyramid, 4, 1)
        self.reach = nn.Parameter(torch.ones(len(self.levels)))
        # Almost every anchor is background: starting there keeps the first steps calm.
        nn.init.constant_(_bias(self.class_out), -math.log((1 - 0.01) / 0.01))
        nn.init.constant_(_bias(self.box_out), 1.5)
        centres, strides = _grid([2 ** (s + 1) for s in self.levels])
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        maps = self._pyramid(images)
        logits, distances = [], []
        for index, (level, features) in enumerate(zip(self.levels, maps, strict=True)):
            classes = self.class_out(self.class_tower(features))
            boxes = self.box_out(self.box_tower(features)) * self.reach[index]
            stride = 2 ** (level + 1)
            # Sizes as plain numbers: the exported graph then states its output's shape.
            cells = (WIDTH // stride) * (HEIGHT // stride)
            logits.append(classes.reshape(-1, CLASSES, cells))
            distances.append(nn.functional.softplus(boxes).reshape(-1, 4, cells) * float(stride))
        return torch.cat(logits, 2), torch.cat(distances, 2)

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        features, kept = images, []
        for index, stage in enumerate(self.stages):
            features = stage(features)
            if index in self.levels:
                kept.append(features)
        maps: list[Tensor] = []
        for lateral, merge, found in zip(
            reversed(self.laterals), reversed(self.merges), reversed(kept), strict=True
        ):
            here = lateral(found)
            if maps:
                here = here + nn.functional.interpolate(maps[0], scale_factor=2.0)
            maps.insert(0, merge(here))
        return maps


class ExportedDetector(nn.Module):  # type: ignore[misc]  # torch has no types here
    """A detector with its answer in the YOLOv8 layout.

    Output: (n, 4 + 4, anchors): centre x, y, width, height in input pixels, then class scores.
    """

    def __init__(self, detector: StreetDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        logits, distances = self.detector(images)
        low, high = distances[:, :2], distances[:, 2:]
        centre = self.detector.centres.T + (high - low) / 2
        return torch.cat((centre, low + high, logits.sigmoid()), 1)


def parameter_count(network: nn.Module) -> int:
    """How many numbers were learned."""
    return sum(parameter.numel() for parameter in network.parameters())


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _grid(strides: list[int]) -> tuple[Tensor, Tensor]:
    centres, sizes = [], []
    for stride in strides:
        y, x = torch.meshgrid(
            torch.arange(HEIGHT // stride), torch.arange(WIDTH // stride), indexing="ij"
        )
        centres.append((torch.stack((x, y), 2).reshape(-1, 2) + 0.5) * stride)
        sizes.append(torch.full((x.numel(),), float(stride)))
    return torch.cat(centres), torch.cat(sizes)
