"""Widths of a network's layers: what of them differs, and how a network is made as narrow again.

A pruned network is its architecture with narrower layers. What is kept of it is their sizes, so
that whoever builds it again needs neither the library that pruned it nor its way of choosing.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from visiondyno.errors import ModelError
from visiondyno.specs.trained_model import LayerSize

if TYPE_CHECKING:
    from torch import nn


def sizes_of(module: "nn.Module") -> dict[str, LayerSize]:
    """Sizes of the convolutions, linear layers and batch norms of a network, by name."""
    return {name: _size(name, layer) for name, layer in _layers(module)}


def changed_sizes(
    before: Mapping[str, LayerSize], after: Mapping[str, LayerSize]
) -> tuple[LayerSize, ...]:
    """The layers of `after` that aren't of the same size in `before`, in order."""
    return tuple(size for name, size in after.items() if before.get(name) != size)


def resize(module: "nn.Module", layers: Iterable[LayerSize], reference: str) -> None:
    """Make layers of a network narrower, in place; their weights are zeros then, to be replaced.

    Args:
        module: as its architecture makes it.
        layers: none is wider than the architecture's.
        reference: of the model, for messages.

    Raises:
        ModelError: there is no such layer, or it can't have that size.
    """
    listed = list(layers)
    if not listed:
        return
    own = dict(_layers(module))
    for size in listed:
        layer = own.get(size.name)
        if layer is None:
            near = difflib.get_close_matches(size.name, list(own), n=1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise ModelError(
                f"{reference} is said to be pruned in its layer '{size.name[:100]}', and it has no "
                f"convolution, linear layer or batch norm of that name{hint}. Its record is "
                "damaged or of another version of its library; prune the model again."
            )
        _check(size, _size(size.name, layer), layer, reference)
    for size in listed:
        put_size(own[size.name], size)
    for part in module.modules():
        _tell_halves(part)


def put_size(layer: "nn.Module", size: LayerSize) -> None:
    """Give a layer zeros of another size as weights; `size` must be possible for it."""
    import torch
    from torch import nn

    # `setattr`: torch's modules are typed for reading only.
    if isinstance(layer, nn.Conv2d):
        shape: tuple[int, ...] = (size.outputs, size.inputs // size.groups, *layer.kernel_size)
        _set(layer, in_channels=size.inputs, out_channels=size.outputs, groups=size.groups)
    elif isinstance(layer, nn.ConvTranspose2d):
        shape = (size.inputs, size.outputs // size.groups, *layer.kernel_size)
        _set(layer, in_channels=size.inputs, out_channels=size.outputs, groups=size.groups)
    elif isinstance(layer, nn.Linear):
        shape = (size.outputs, size.inputs)
        _set(layer, in_features=size.inputs, out_features=size.outputs)
    else:
        shape = (size.outputs,)
        _set(layer, num_features=size.outputs)
    for name, tensor in (
        *layer.named_parameters(recurse=False),
        *layer.named_buffers(recurse=False),
    ):
        if tensor.ndim:
            wanted = shape if name == "weight" else (size.outputs,)
            fresh = torch.zeros(wanted, dtype=tensor.dtype, device=tensor.device)
            is_weight = isinstance(tensor, nn.Parameter)
            kept = nn.Parameter(fresh, requires_grad=tensor.requires_grad) if is_weight else fresh
            setattr(layer, name, kept)


def _set(layer: "nn.Module", **sizes: int) -> None:
    for name, value in sizes.items():
        setattr(layer, name, value)


def _tell_halves(part: Any) -> None:
    """Ultralytics' C2f blocks keep beside their first convolution how wide each half of it is."""
    first = getattr(getattr(part, "cv1", None), "conv", None)
    if first is not None and hasattr(part, "forward_split") and hasattr(part, "c"):
        part.c = first.out_channels // 2


def _layers(module: "nn.Module") -> "Iterator[tuple[str, nn.Module]]":
    from torch import nn

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)
    return ((name, part) for name, part in module.named_modules() if isinstance(part, kinds))


def _size(name: str, layer: Any) -> LayerSize:
    from torch import nn

    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return LayerSize(
            name=name, inputs=layer.in_channels, outputs=layer.out_channels, groups=layer.groups
        )
    if isinstance(layer, nn.Linear):
        return LayerSize(name=name, inputs=layer.in_features, outputs=layer.out_features)
    return LayerSize(name=name, inputs=layer.num_features, outputs=layer.num_features)


def _check(size: LayerSize, own: LayerSize, layer: "nn.Module", reference: str) -> None:
    from torch import nn

    is_norm, is_grouped = isinstance(layer, nn.BatchNorm2d), hasattr(layer, "groups")
    fits = (
        size.inputs <= own.inputs
        and size.outputs <= own.outputs
        and (size.groups == 1 or is_grouped)
        and size.inputs % size.groups == 0
        and size.outputs % size.groups == 0
        and (not is_norm or size.inputs == size.outputs)
    )
    if not fits:
        raise ModelError(
            f"{reference}: its layer {size.name} can't have {size.inputs} inputs, {size.outputs} "
            f"outputs and {size.groups} groups; the architecture makes {own.inputs}, {own.outputs} "
            f"and {own.groups}. Its record is damaged; prune the model again."
        )
