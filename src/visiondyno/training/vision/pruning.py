"""Removes channels of a network, whole: what is left is a smaller dense network.

A layer's channels can't be removed by themselves: the layers that read them, norms, and whatever is
added to them lose the same ones. Which those are, torch-pruning finds by following the network's
computation (Fang et al. 2023, DepGraph). How many are removed, and what is reported, is ours.
"""

import difflib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from visiondyno.errors import MissingExtra, ModelError, SpecError
from visiondyno.specs.trained_model import Family, LayerSize
from visiondyno.state.layer_sizes import changed_sizes, sizes_of
from visiondyno.training.arguments import one_line
from visiondyno.training.vision.prunable import Prunable, prunable

if TYPE_CHECKING:
    import torch
    from torch import nn

Importance = Literal["magnitude", "random"]


@dataclass(frozen=True, slots=True)
class HowToPrune:
    """What is to be removed.

    Attributes:
        ratio: share of each layer's channels.
        multiple_of: channels left are the nearest multiple of it, since processors compute them in
            blocks; a layer keeps at least so many.
        importance: `magnitude`: channels of the smallest weights go (L2 norm over all layers that
            lose the channel together, Li et al. 2017); `random`, to compare with.
        keep_layers: names of layers, or of parts of the network, that keep all their channels.
        seed: of `random`.
    """

    ratio: float
    multiple_of: int
    importance: Importance
    keep_layers: Sequence[str]
    seed: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of a network.

    Attributes:
        layers: sizes of all layers that differ from what they were.
        narrowed: (name, channels before, channels after) of convolutions and linear layers that
            answer with fewer.
        parameters: of the whole network, before and after.
        flops: of the part that `counted` names, for one image, before and after: a multiplication
            and an addition are two.
        counted: what part of the network the FLOPs are of.
        notes: what a reader must know.
    """

    layers: tuple[LayerSize, ...]
    narrowed: tuple[tuple[str, int, int], ...]
    parameters: tuple[int, int]
    flops: tuple[int, int]
    counted: str
    notes: tuple[str, ...]


def prune(
    network: "nn.Module", family: Family, name: str, image_size: int, how: HowToPrune
) -> Pruned:
    """Remove channels, in place.

    Args:
        network: in evaluation mode, on the processor, as its family's trainer builds it.
        family: the library of its architecture.
        name: of the architecture, for messages.
        image_size: side of the images that it is followed, and its FLOPs are counted, with.
        how: what is to be removed.

    Raises:
        MissingExtra: torch-pruning isn't installed.
        ModelError: channels of such a network can't be removed.
        SpecError: there is no such layer, or nothing would be removed.
    """
    library = _library(name)
    check_names(network, how.keep_layers, name)
    before = sizes_of(network)
    parameters = parameter_count(network)
    with prunable(network, family, name, image_size) as part:
        flops = flop_count(part)
        shapes = _shapes(part)
        _remove(library, part, how, name)
        if _shapes(part, name) != shapes:
            raise ModelError(
                f"{name} can't be pruned: without some channels it answers in another form. Name "
                "what must stay in 'keep_layers'."
            )
        fewer = flop_count(part)
    after = sizes_of(network)
    changed = changed_sizes(before, after)
    if not changed:
        raise SpecError(
            f"At 'ratio' {how.ratio:g} no layer of {name} loses {how.multiple_of} channels or "
            "more; raise it, or set 'multiple_of' to 1."
        )
    narrowed = tuple(
        (size.name, before[size.name].outputs, size.outputs)
        for size in changed
        if size.outputs < before[size.name].outputs and not _is_norm(network, size.name)
    )
    counts = (parameters, parameter_count(network))
    return Pruned(changed, narrowed, counts, (flops, fewer), part.counted, part.notes)


def parameter_count(network: "nn.Module") -> int:
    """How many numbers were, or could be, learned."""
    return sum(parameter.numel() for parameter in network.parameters())


def flop_count(part: Prunable) -> int:
    """Of convolutions and matrix products for one image, as torch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        part.run(part.module, part.image)
    return int(counter.get_total_flops())


def same_answers(one: "nn.Module", other: "nn.Module", image_size: int) -> bool:
    """Whether two networks answer noise with the same bits; both on the processor, in evaluation.

    Of torchvision's detectors the backbones are asked, which is what is pruned.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, image_size, image_size, generator=generator)
    with torch.no_grad():
        first, second = (
            _tensors(getattr(network, "backbone", network)(noise)) for network in (one, other)
        )
    return len(first) == len(second) and all(map(torch.equal, first, second))


def check_names(network: "nn.Module", names: Sequence[str], of: str) -> None:
    """Whether all are of the network.

    Raises:
        SpecError: one isn't; says which is near.
    """
    known = dict(network.named_modules())
    for name in names:
        if name not in known or not name:
            near = difflib.get_close_matches(name, list(known), n=1)
            hint = (
                f"did you mean {near[0]}?" if near else f"there are {', '.join(list(known)[1:6])} …"
            )
            raise SpecError(f"'keep_layers': {of} has no layer '{name:.100}'; {hint}")


def _library(name: str) -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingExtra("prune", f"Pruning {name}") from error
    return torch_pruning


def _remove(library: Any, part: Prunable, how: HowToPrune, name: str) -> None:
    from torch import nn

    kept = {*part.kept, *_layers_of(part, how.keep_layers)}
    given = {parameter: parameter.requires_grad for parameter in part.module.parameters()}
    convolutions = [
        layer
        for layer in part.module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer not in kept
    ]
    try:
        with _quiet(), _seeded(how.seed):
            for parameter in given:
                parameter.requires_grad_(requires_grad=True)  # it follows the gradients' way back
            pruner = library.pruner.BasePruner(
                part.module,
                part.image,
                importance=_importance(library, how.importance),
                pruning_ratio=0.0,
                pruning_ratio_dict={layer: _ratio(_outputs(layer), how) for layer in convolutions},
                ignored_layers=list(kept),
                root_module_types=[nn.Conv2d, nn.Linear],
                forward_fn=part.run,
            )
            pruner.step()
    except Exception as error:
        # Whatever its graph stumbles over in a network that it wasn't made for.
        raise ModelError(
            f"{name} can't be pruned: what belongs together in it can't be followed "
            f"({one_line(error)}). Take another architecture."
        ) from error
    for parameter in part.module.parameters():
        parameter.requires_grad_(given.get(parameter, True))


def _ratio(channels: int, how: HowToPrune) -> float:
    """Share to remove, so that the nearest multiple stays.

    Half a channel is added to what stays: the library rounds down.
    """
    wanted = channels * (1 - how.ratio)
    kept = max(round(wanted / how.multiple_of), 1) * how.multiple_of
    return 0.0 if kept >= channels else 1 - (kept + 0.5) / channels


def _importance(library: Any, kind: Importance) -> Any:
    if kind == "random":
        return library.importance.RandomImportance()
    return library.importance.MagnitudeImportance(p=2)


def _layers_of(part: Prunable, names: Sequence[str]) -> "Iterator[nn.Module]":
    """All layers under the names; of one that was taken apart for the pruning, its parts."""
    for name in names:
        yield from part.named(name).modules()


def _shapes(part: Prunable, name: str = "") -> list[tuple[int, ...]]:
    import torch

    try:
        with torch.no_grad():
            found = _tensors(part.run(part.module, part.image))
            return [tuple(tensor.shape) for tensor in found]
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise ModelError(
            f"{name} can't be pruned: its layers no longer fit each other ({one_line(error)}). "
            "Take another architecture, or name what must stay in 'keep_layers'."
        ) from error


def _tensors(value: Any) -> "list[torch.Tensor]":
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for one in value for tensor in _tensors(one)]
    return [value] if hasattr(value, "shape") else []


def _outputs(layer: Any) -> int:
    return int(layer.out_channels if hasattr(layer, "out_channels") else layer.out_features)


def _is_norm(network: "nn.Module", name: str) -> bool:
    return hasattr(network.get_submodule(name), "num_features")


@contextmanager
def _quiet() -> Iterator[None]:
    """Its warnings are of how it follows a network; whether it did well is checked here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
