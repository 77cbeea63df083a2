"""The transforms of the weights of torchvision's image classifiers."""

from collections.abc import Sequence
from typing import Any

from visiondyno.predictions import Image
from visiondyno.runtimes.pytorch.logit_classifier import Transform
from visiondyno.specs.model_card import InputCard
from visiondyno.vision.preprocess import rgb_planes

_INTERPOLATION = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}


def preset_transform(preset: Any) -> Transform:
    """The transforms of a weights enum on one image after the other.

    They are given tensors, as in torchvision's documentation: on PIL images their resizing rounds
    otherwise, by one grey level at most.
    """
    import torch

    def transform(images: Sequence[Image]) -> torch.Tensor:
        return torch.stack([preset(torch.from_numpy(rgb_planes(image))) for image in images])

    return transform


def preset_card(preset: Any) -> InputCard:
    """The transforms of a weights enum in a card's words (which OpenCV would follow otherwise)."""
    side, crop_from = preset.crop_size[0], preset.resize_size[0]
    return InputCard(
        height=side,
        width=side,
        resize="shortest_side_crop",
        interpolation=_INTERPOLATION[preset.interpolation.value],
        crop_from=crop_from,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )
