"""Which part of a network can lose channels, of each family of networks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visiondyno.errors import ModelError
from visiondyno.specs.trained_model import Family
from visiondyno.training.arguments import one_line
from visiondyno.training.vision.ultralytics_c2f import taken_apart

if TYPE_CHECKING:
    import torch
    from torch import nn

_SIMPLE = frozenset({
    "Conv", "DWConv", "Concat", "Upsample", "C2f", "C3k2", "C2fCIB", "C3", "C3k", "CIB",
    "Bottleneck", "RepVGGDW", "SPP", "SPPF", "SCDown", "Detect", "v10Detect", "DFL", "Identity",
    "Sequential", "ModuleList", "Conv2d", "BatchNorm2d", "MaxPool2d", "SiLU", "ReLU", "ZeroPad2d",
    "Halves",
})  # fmt: skip
"""Blocks of Ultralytics whose channels are only convolved, added and put beside each other."""


@dataclass(frozen=True, slots=True)
class Prunable:
    """The part of a network that is followed.

    Attributes:
        network: the whole.
        module: the part.
        image: (1, 3, side, side) float32, what `run` is given.
        run: computes the part; all that it answers keeps its shape.
        kept: layers that keep all their channels.
        counted: what the part is, in words.
        notes: what a reader must know.
    """

    network: "nn.Module"
    module: "nn.Module"
    image: "torch.Tensor"
    run: "Callable[[nn.Module, torch.Tensor], Any]"
    kept: "Sequence[nn.Module]"
    counted: str
    notes: tuple[str, ...] = ()

    def named(self, name: str) -> "nn.Module":
        """The layer of that name, or the part of the network that it was put into."""
        found = self.network
        for step in name.split("."):
            inner = getattr(found, step, None)
            if inner is None:
                break
            found = inner
        return found


@contextmanager
def prunable(
    network: "nn.Module", family: Family, name: str, image_size: int
) -> Iterator[Prunable]:
    """A network as it is pruned; afterwards it is put together as it was, in its new sizes.

    Args:
        network: in evaluation mode, on the processor.
        family: the library of its architecture.
        name: of the architecture, for messages.
        image_size: side of the image, pixels.

    Raises:
        ModelError: channels of such a network can't be removed.
    """
    import torch

    image = torch.zeros(1, 3, image_size, image_size)
    if family == "ultralytics":
        with taken_apart(network, image, name):
            yield _ultralytics(network, image)
        return
    if hasattr(network, "backbone"):
        part = _detector(network, image, name)
    else:
        part = Prunable(network, network, image, _call, [], "the network")
    used = _used_layers(part, name)
    _check_layers(part, used, name)
    yield part if part.kept else _keeping_last(part, used)


def _call(module: "nn.Module", image: "torch.Tensor") -> Any:
    return module(image)


def _ultralytics(network: Any, image: "torch.Tensor") -> Prunable:
    head = network.model[-1]
    branches = ("cv2", "cv3", "one2one_cv2", "one2one_cv3")
    # What the last layers answer is boxes and classes.
    kept = [branch[-1] for part in branches for branch in getattr(head, part, None) or ()]
    kept += list(head.dfl.modules())
    whole = {at: layer for at, layer in enumerate(network.model) if _others(layer)}
    kept += [part for layer in whole.values() for part in layer.modules()]
    notes = (_about_whole(whole),) if whole else ()
    return Prunable(network, network, image, _raw_boxes, kept, "the network", notes)


def _raw_boxes(network: "nn.Module", image: "torch.Tensor") -> Any:
    """What the head's convolutions answer, of both heads where there are two."""
    raw = network(image)[1]
    heads = [raw[name] for name in ("one2many", "one2one") if name in raw] or [raw]
    return [[head["boxes"], head["scores"]] for head in heads]


def _about_whole(whole: "Mapping[int, nn.Module]") -> str:
    kinds = sorted({kind for layer in whole.values() for kind in _others(layer)})
    return (
        f"{_and([f'model.{at}' for at in whole])}: all channels are kept, as what {_and(kinds)} "
        "would do without some can't be told."
    )


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _others(layer: "nn.Module") -> list[str]:
    return sorted({type(part).__name__ for part in layer.modules()} - _SIMPLE)


def _detector(network: Any, image: "torch.Tensor", name: str) -> Prunable:
    """A detector of torchvision: its backbone, up to the pyramid that its heads read."""
    backbone = network.backbone
    if not hasattr(backbone, "fpn"):
        raise ModelError(
            f"{name} can't be pruned: its heads read layers in the middle of its backbone, which "
            "keep their channels. Detectors with a feature pyramid can (names with 'fpn')."
        )
    note = (
        "Channels are removed from the backbone. The feature pyramid and the heads behind it keep "
        "theirs, and FLOPs are of the backbone with its pyramid."
    )
    kept = list(backbone.fpn.modules())
    return Prunable(network, backbone, image, _call, kept, "the backbone", (note,))


def _used_layers(part: Prunable, name: str) -> "list[nn.Module]":
    """Convolutions and linear layers in the order in which they compute an image."""
    import torch
    from torch import nn

    used: list[nn.Module] = []
    hooks = [
        layer.register_forward_hook(lambda layer, *_: used.append(layer))
        for layer in part.module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            part.run(part.module, part.image)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(
            f"{name} can't run images of {part.image.shape[-1]} pixels: {one_line(error)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return used


def _check_layers(part: Prunable, used: "Sequence[nn.Module]", name: str) -> None:
    from torch import nn

    known = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)
    for at, layer in part.module.named_modules():
        own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        if own and not isinstance(layer, known) and layer not in part.kept:
            raise ModelError(
                f"{name} can't be pruned: channels can be removed from convolutions, linear layers "
                f"and batch norms, and its {at or 'network'} is a {type(layer).__name__}. Take a "
                "convolutional network such as torchvision:resnet18."
            )
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer not in used:
            raise ModelError(
                f"{name} can't be pruned: its {at} is used only while it learns, so that nothing "
                "tells which channels it shares. Take another architecture."
            )


def _keeping_last(part: Prunable, used: "Sequence[nn.Module]") -> Prunable:
    """A classifier's last layer answers for its classes."""
    return Prunable(part.network, part.module, part.image, part.run, [used[-1]], part.counted)
