"""A classifier that answers logits, and whose images are prepared by a transform."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

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
"""Decoded images, (h, w, 3) uint8 BGR, to the network's input, (n, 3, height, width) float32."""


class LogitClassifier(NativeModel):
    """Softmax over the classes, or a sigmoid for each by itself: the card's activation says it."""

    def __init__(
        self,
        description: ModelDescription,
        module: "nn.Module",
        on: TorchDevice,
        transform: Transform,
    ) -> None:
        """`module`: in evaluation mode, from a batch to logits (n, classes); moved here."""
        super().__init__(description)
        self._on = on
        self.operator_times = on.operator_times()
        self._transform = transform
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
        several = self.description.card.activation == "sigmoid"
        shares = sigmoid(outputs) if several else softmax(outputs, axis=1)
        return [Classification(row) for row in shares]

    def _free(self) -> None:
        self._module = None
        release_cached(self._on)


def card_transform(card: InputCard) -> Transform:
    """What `card` says, of models that were trained here."""
    import torch

    preprocessor = Preprocessor(card)

    def transform(images: Sequence[Image]) -> torch.Tensor:
        return torch.from_numpy(preprocessor(images).tensor)

    return transform
