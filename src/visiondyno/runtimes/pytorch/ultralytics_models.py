"""Loaded models of Ultralytics' networks, and the cards that say how they are fed and read."""

import math
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import Classification, Image, Predictions
from visiondyno.runtimes.base import LoadedModel, LoadOptions, ModelDescription
from visiondyno.runtimes.native_card import card_in_use
from visiondyno.runtimes.native_model import NativeModel
from visiondyno.runtimes.partial_card import all_parts, merge
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.runtimes.pytorch.module import (
    TorchModel,
    described,
    no_surprise,
    release_cached,
)
from visiondyno.runtimes.pytorch.ultralytics_names import Task
from visiondyno.specs.model_card import DetectionCard, InputCard, ModelCard
from visiondyno.state import from_tensors, identity
from visiondyno.vision.ultralytics_library import LICENSE, quiet
from visiondyno.whole_file import file_sha256

if TYPE_CHECKING:
    import torch
    from torch import nn

_LEAST_STRIDE = 32
_OUTPUT = "output"
_LICENSE_NOTE = (
    f"Ultralytics' code and weights are under {LICENSE}: what serves them to others must be open "
    "too, unless its maker licensed it to you otherwise."
)
_TWO_HEADS_NOTE = (
    "Its head without NMS is in use, as its makers mean it to be deployed; Ultralytics' predict "
    "does so with nms=False. A card with head yolov8 takes its other head, with NMS."
)


@dataclass(frozen=True, slots=True)
class Source:
    """A network and what is known of it, before it is fused and put on a device.

    Attributes:
        network: in float32.
        task: of it.
        classes: in the order of the output.
        image_size: (height, width).
        origin: of the card, in words for the report.
        files: what was read.
        mean, std: of a classifier's input, RGB.
        notes: what a reader of the report must know.
    """

    network: "nn.Module"
    task: Task
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    origin: str
    files: tuple[Path, ...] = ()
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    notes: tuple[str, ...] = ()


def loaded(
    source: Source, reference: str, options: LoadOptions, on: TorchDevice, version: str
) -> LoadedModel:
    """The network fused and on its device, as Ultralytics' own `predict` runs it.

    Args:
        source: the network; it is changed.
        reference: of the model.
        options: `card` is used.
        on: the device.
        version: of ultralytics.

    Raises:
        ModelError: the card given doesn't fit, or the network can't be fused.
    """
    network = source.network.eval().requires_grad_(requires_grad=False)
    digest, file_bytes = _identity(source)
    with no_surprise(reference), quiet(), on.running():
        notes = _choose_head(network, source.task, options.card)
        network.fuse(verbose=False)
        network.to(on.device)
        if _runs_channels_last(on):
            import torch

            network.to(memory_format=torch.channels_last)
    card, card_source, more = _card(source, network, options.card, reference)
    said = (*source.notes, *notes, *more, _LICENSE_NOTE)
    library = f"ultralytics {version}"
    description = described(network, on, reference, library, (card, card_source), said)
    description = replace(description, digest=digest, file_bytes=file_bytes)
    make = _Detector if source.task == "detection" else _Classifier
    model = make(description, network, on)
    model.files = source.files
    return model


def _choose_head(network: "nn.Module", task: Task, given: ModelCard | None) -> tuple[str, ...]:
    """Of networks with two: the one without NMS, unless the card given has the other's name."""
    if task != "detection" or getattr(network.model[-1], "one2one_cv2", None) is None:
        return ()
    network.end2end = given is None or given.head != "yolov8"
    return (_TWO_HEADS_NOTE,) if network.end2end else ()


def _identity(source: Source) -> tuple[str, int]:
    """Digest and bytes: of the file, or of the weights where there is none."""
    if source.files and source.files[0].is_file():
        path = source.files[0]
        return f"sha256:{file_sha256(path)}", path.stat().st_size
    tensors = source.network.state_dict()
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return f"sha256:{identity(from_tensors(tensors, copy=False))}", size_bytes


def _runs_channels_last(on: TorchDevice) -> bool:
    """Where Ultralytics' `predict` lays out a network so: other layouts round otherwise."""
    import torch

    return (
        on.device.type == "cpu"
        and platform.machine() in {"AMD64", "x86_64"}
        and sys.platform in {"linux", "win32"}
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def _card(
    source: Source, network: "nn.Module", given: ModelCard | None, reference: str
) -> tuple[ModelCard, dict[str, str], tuple[str, ...]]:
    if source.task == "classification":
        card = _classifier_card(source)
        return *card_in_use(card, given, reference, source=source.origin), ()
    own, notes = _detector_card(source, network)
    said = [] if given is None else [all_parts(given, "given")]
    parts, origins = merge([*said, all_parts(own, source.origin)])
    card = ModelCard(schema="visiondyno.model/1", **parts)
    if card.task != own.task or card.head != own.head:
        raise ModelError(
            f"The card given for {reference} says head '{card.head}', and its network has "
            f"'{own.head}'; correct it."
        )
    return card, origins, notes


def _detector_card(source: Source, network: "nn.Module") -> tuple[ModelCard, tuple[str, ...]]:
    stride = max(int(network.stride.max()), _LEAST_STRIDE)
    height, width = (math.ceil(side / stride) * stride for side in source.image_size)
    notes: tuple[str, ...] = ()
    if (height, width) != source.image_size:
        said = "x".join(map(str, source.image_size))
        note = (
            f"Trained at {said}, which isn't a multiple of its stride {stride}: run at "
            f"{height}x{width}, as Ultralytics does."
        )
        notes = (note,)
    card = ModelCard(
        schema="visiondyno.model/1",
        task="detection",
        head="end_to_end" if network.end2end else "yolov8",
        classes=source.classes,
        input=InputCard(height=height, width=width, resize="letterbox_to_stride", stride=stride),
        detection=DetectionCard(nms_iou=None) if network.end2end else DetectionCard(),
        license=LICENSE,
    )
    return card, notes


def _classifier_card(source: Source) -> ModelCard:
    height, width = source.image_size
    is_square = height == width
    return ModelCard(
        schema="visiondyno.model/1",
        task="classification",
        head="native",
        classes=source.classes,
        input=InputCard(
            height=height,
            width=width,
            resize="shortest_side_crop" if is_square else "stretch",
            crop_from=height if is_square else None,
            mean=source.mean,
            std=source.std,
        ),
        activation="none",
        license=LICENSE,
    )


class _Detector(TorchModel):
    """Prepared and read by its card, which is what Ultralytics does."""

    def __init__(
        self, description: ModelDescription, network: "nn.Module", on: TorchDevice
    ) -> None:
        # Beside the boxes the network answers the feature maps that a loss would need.
        super().__init__(description, lambda tensor: network(tensor)[0], on, [_OUTPUT])


class _Classifier(NativeModel):
    """Prepared by Ultralytics' own transforms, which are torchvision's on Pillow's images."""

    def __init__(
        self, description: ModelDescription, network: "nn.Module", on: TorchDevice
    ) -> None:
        super().__init__(description)
        from ultralytics.data.augment import classify_transforms

        card = description.card.input
        size = card.height if card.height == card.width else (card.height, card.width)
        self._transforms = classify_transforms(size, card.mean, card.std)
        self._network: nn.Module | None = network
        self._on = on
        self.operator_times = on.operator_times()

    def _prepare(self, images: Sequence[Image]) -> "torch.Tensor":
        import torch
        from PIL import Image as Pillow

        rgb = (Pillow.fromarray(np.ascontiguousarray(image[..., ::-1])) for image in images)
        prepared: torch.Tensor = torch.stack([self._transforms(image) for image in rgb])
        return prepared

    def _forward(self, prepared: "torch.Tensor") -> Any:
        assert self._network is not None
        with self._on.running(), no_surprise(self.description.reference):
            # Beside the probabilities it answers the logits that a loss would need.
            return self._network(prepared.to(self._on.device))[0].float().cpu().numpy()

    def _read(
        self,
        outputs: Any,
        prepared: Any,  # noqa: ARG002 - others' need
        confidence: float,  # noqa: ARG002 - likewise
        iou: float | None,  # noqa: ARG002 - likewise
    ) -> list[Predictions]:
        return [Classification(row) for row in outputs]

    def _free(self) -> None:
        self._network = None
        release_cached(self._on)
