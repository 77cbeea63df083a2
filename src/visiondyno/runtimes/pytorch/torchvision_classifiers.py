"""torchvision's image classifiers, with the transforms of their weights."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.predictions import Classification, FloatArray, Image, Predictions
from visiondyno.runtimes.base import ModelDescription
from visiondyno.runtimes.native_model import NativeModel
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.runtimes.pytorch.module import no_surprise, release_cached
from visiondyno.specs.model_card import InputCard
from visiondyno.vision.heads.activations import sigmoid, softmax
from visiondyno.vision.preprocess import Preprocessor

if TYPE_CHECKING:
    import torch
    from torch import nn

Transform = Callable[[Sequence[Image]], "torch.Tensor"]
"""Images (h, w, 3) uint8 BGR to (n, 3, side, side) float32."""

_INTERPOLATION = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}


class TorchvisionClassifier(NativeModel):
    """A classifier of torchvision: softmax over its classes, or a sigmoid for each by itself."""

    def __init__(
        self,
        description: ModelDescription,
        module: "nn.Module",
        on: TorchDevice,
        transform: Transform,
    ) -> None:
        """`module`: in evaluation mode; moved to the device here. The card says the activation."""
        super().__init__(description)
        self._on = on
        self.operator_times = on.operator_times()
        self._transform = transform
        self._activate = sigmoid if description.card.activation == "sigmoid" else _softmax
        self._module: nn.Module | None = module.to(on.device)

    def _prepare(self, images: Sequence[Image]) -> "torch.Tensor":
        with self._on.running(), no_surprise(self.description.reference):
            return self._transform(images)

    def _forward(self, prepared: "torch.Tensor") -> FloatArray:
        assert self._module is not None
        with self._on.running(), no_surprise(self.description.reference):
            logits = self._module(prepared.to(self._on.device))
            array: FloatArray = logits.float().cpu().numpy()
        return array

    def _read(
        self,
        outputs: FloatArray,
        prepared: "torch.Tensor",  # noqa: ARG002 - others' need
        confidence: float,  # noqa: ARG002 - for detectors
        iou: float | None,  # noqa: ARG002 - for detectors
    ) -> list[Predictions]:
        return [Classification(row) for row in self._activate(outputs)]

    def _free(self) -> None:
        self._module = None
        release_cached(self._on)


def preset_transform(preset: Any) -> Transform:
    """The transforms of a weights enum on one image after the other.

    They are given tensors, as in torchvision's documentation: on PIL images their resizing rounds
    otherwise, by one grey level at most.
    """
    import torch

    def transform(images: Sequence[Image]) -> torch.Tensor:
        rgb = (np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)) for image in images)
        return torch.stack([preset(torch.from_numpy(one)) for one in rgb])

    return transform


def card_transform(card: InputCard) -> Transform:
    """What `card` says, of models that were trained here."""
    import torch

    preprocessor = Preprocessor(card)

    def transform(images: Sequence[Image]) -> torch.Tensor:
        return torch.from_numpy(preprocessor(images).tensor)

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


def _softmax(values: FloatArray) -> FloatArray:
    return softmax(values, axis=1)
