"""What of a loaded model of torch can be exported: one graph, and the card that it is read by."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visiondyno.errors import SpecError
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.runtimes.pytorch.module import TorchModel
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_card import HeadName, InputCard, ModelCard
from visiondyno.vision.heads import HEADS

if TYPE_CHECKING:
    import torch
    from torch import nn

OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Exportable:
    """A network as a graph's author would have it.

    Attributes:
        module: in evaluation mode, on the processor; from one float32 tensor (n, 3, height, width)
            to one tensor or a tuple of them.
        card: says how its input is made and its outputs are read; its head isn't `native`.
        model: that it was taken from; close it after use.
        outputs: names of its outputs, in order.
        batch_size: the only one that it takes; None: any.
        notes: where the graph answers otherwise than the model's own library.
    """

    module: "nn.Module"
    card: ModelCard
    model: LoadedModel
    outputs: tuple[str, ...] = (OUTPUT,)
    batch_size: int | None = None
    notes: tuple[str, ...] = ()


def exportable(reference: str, image_size: int | None = None) -> Exportable:
    """The network that `reference` names, its weights being here, and the card of its graph.

    Args:
        reference: of a model that torch runs.
        image_size: side of the square that the graph takes, pixels; the model's own if None.

    Raises:
        SpecError: the reference's runtime isn't torch's, it can't be exported, or the size doesn't
            fit; says what to do.
        ModelError, MissingExtra: as `load_model`.
    """
    model = load_model(reference, LoadOptions())
    try:
        return _of(model, image_size)
    except BaseException:
        model.close()
        raise


def _of(model: LoadedModel, image_size: int | None) -> Exportable:
    # The libraries' own modules: imported by whoever loaded the model.
    from visiondyno.runtimes.pytorch import (
        exportable_torchvision,
        exportable_transformers,
    )

    if isinstance(model, TorchModel):
        return _carded(model, image_size)
    for found in (
        exportable_transformers.exportable_of(model, image_size),
        exportable_torchvision.exportable_of(model, image_size),
    ):
        if found is not None:
            return found
    reference, card = model.description.reference, model.description.card
    if card.task == "classification" and hasattr(model, "_on"):
        return _classifier(model, image_size)
    raise SpecError(
        f"'model': {reference} is run by {model.description.runtime}, whose models can't be "
        "exported; give an ONNX file, or a model of Ultralytics, torchvision, timm or transformers."
    )


def network_of(model: LoadedModel) -> "nn.Module":
    """The network that a loaded model of torch calls."""
    from torch import nn

    for name in ("_network", "_module"):
        found = getattr(model, name, None)
        if isinstance(found, nn.Module):
            return found
    raise SpecError(
        f"'model': {model.description.reference} holds no network that can be exported; give an "
        "ONNX file."
    )


def exported_card(
    card: ModelCard,
    head: HeadName,
    image_size: int | None,
    *,
    stride: int = 1,
    **changes: Any,
) -> ModelCard:
    """The card of a graph whose input is one fixed size.

    Args:
        card: of the model.
        head: that reads the graph's outputs.
        image_size: the side asked for; the card's size if None.
        stride: that height and width must be multiples of.
        **changes: fields of `ModelCard` and `InputCard` that are others than the model's.

    Raises:
        SpecError: the size is no multiple of the stride.
    """
    own = card.input
    height, width = (image_size, image_size) if image_size else (own.height, own.width)
    if image_size and image_size % stride:
        raise SpecError(
            f"'image_size' is {image_size}, which isn't a multiple of the network's stride "
            f"{stride}; give {math.ceil(image_size / stride) * stride}."
        )
    size: dict[str, Any] = {
        "height": math.ceil(height / stride) * stride,
        "width": math.ceil(width / stride) * stride,
        "stride": None,
    }
    if own.crop_from is not None and image_size:
        # The same share of the image is seen at any size.
        share = own.crop_from / max(own.height, own.width)
        size["crop_from"] = max(round(image_size * share), image_size)
    of_input = {name: changes.pop(name) for name in list(changes) if name in InputCard.model_fields}
    parts = {name: getattr(card, name) for name in card.model_fields_set - {"schema_"}}
    parts |= {"head": head, **changes}
    parts["input"] = InputCard(**(dict(own) | size | of_input))
    return ModelCard(**parts)


def _carded(model: TorchModel, image_size: int | None) -> Exportable:
    """One that is fed and read by its card already: Ultralytics' detectors, programs, factories."""
    card = model.description.card
    reference, own = model.description.reference, card.input
    if card.head not in HEADS or own.layout != "nchw" or own.dtype != "float32":
        raise SpecError(
            f"'model': {reference} takes {own.dtype} in {own.layout}, and only networks of "
            "float32 in nchw can be exported."
        )
    notes: tuple[str, ...] = ()
    if own.resize == "letterbox_to_stride":
        fixed = exported_card(
            card, card.head, image_size, stride=own.stride or 1, resize="letterbox"
        )
        side = f"{fixed.input.height}x{fixed.input.width}"
        padded = (
            f"The graph takes images padded to {side}; Ultralytics' own predict pads no more than "
            "the stride needs, which answers a little otherwise for images that aren't square."
        )
        notes = (padded,)
    else:
        if image_size is not None and (own.height, own.width) != (image_size, image_size):
            raise SpecError(
                f"'image_size': {reference} takes {own.height}x{own.width} pixels and no other "
                "size; leave 'image_size' out."
            )
        fixed = card
    module = _calling(model)
    return Exportable(module, fixed, model, batch_size=model.description.batch_size, notes=notes)


def _calling(model: TorchModel) -> "nn.Module":
    """A module that does what the model calls; the networks in it are parts of it."""
    import torch
    from torch import nn

    called: Callable[[torch.Tensor], Any] = model._module  # type: ignore[assignment]
    parts = _networks_in(called)
    if not parts or any(isinstance(one, torch.jit.ScriptModule) for one in parts):
        raise SpecError(
            f"'model': {model.description.reference} is TorchScript, which torch can't export any "
            "more; save the module by torch.export.save, and give that .pt2 file."
        )

    class Calling(nn.Module):  # type: ignore[misc] # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            # So that the exporter takes their weights for weights.
            self.parts = nn.ModuleList(parts)

        def forward(self, images: "torch.Tensor") -> Any:
            found = called(images)
            return found[0] if isinstance(found, list | tuple) and len(found) == 1 else found

    made = Calling()
    made.training = False  # its own alone: an exported program refuses to be asked
    return made


def _networks_in(function: Any) -> "list[nn.Module]":
    from torch import nn

    if isinstance(function, nn.Module):
        return [function]
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    return [
        one
        for cell in cells
        if isinstance(cell, nn.Module) or callable(cell)
        for one in _networks_in(cell)
    ]


def _classifier(model: LoadedModel, image_size: int | None) -> Exportable:
    from torch import nn

    network = network_of(model)

    class Scoring(nn.Module):  # type: ignore[misc] # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: "torch.Tensor") -> Any:
            found = self.network(images)
            # Ultralytics' answers probabilities, and the logits that a loss would need.
            return found[0] if isinstance(found, list | tuple) else found

    own = model.description.card
    card = exported_card(own, "classification", image_size, interpolation="area")
    note = (
        "Images are resized by OpenCV here, and by Pillow or torch in the model's own library: "
        "probabilities differ a little."
    )
    # What was trained at image level is prepared by its card already.
    notes = () if own.input.interpolation == "area" else (note,)
    return Exportable(Scoring().eval(), card, model, outputs=("scores",), notes=notes)
