"""The layers of `torch.nn` that can stand in a sequence: one tensor in, one tensor out."""

import functools
import inspect
from typing import TYPE_CHECKING, Any

from visiondyno.errors import SpecError
from visiondyno.specs.training import LayerConfig, SequentialConfig
from visiondyno.training.arguments import construct
from visiondyno.training.names import find_by_name, snake_case

if TYPE_CHECKING:
    from torch import nn

_OF_OTHER_MODULES = frozenset(
    {
        "Container", "DataParallel", "Module", "ModuleDict", "ModuleList", "ParameterDict",
        "ParameterList", "RNNBase", "RNNCellBase", "Sequential", "TransformerDecoder",
        "TransformerEncoder",
    }
)  # fmt: skip


def build_sequential(config: SequentialConfig, *, max_bytes: int) -> "nn.Sequential":
    """The layers, with torch's own initial weights.

    Args:
        config: the layers.
        max_bytes: of all weights together; more is refused before any is allocated.

    Raises:
        SpecError: a layer is unknown, unusable here, or its arguments are wrong: the message
            begins with its index, from 0.
    """
    import torch
    from torch import nn

    with torch.device("meta"):
        planned = nn.Sequential(*_layers(config))
    size = sum(
        tensor.numel() * tensor.element_size()
        for tensor in [*planned.parameters(), *planned.buffers()]
    )
    if size > max_bytes:
        raise SpecError(
            f"'model_config.layers': the weights take {size / 1e9:.1f} GB, and at most "
            f"{max_bytes / 1e9:.1f} GB are taken; make the layers smaller."
        )
    return nn.Sequential(*_layers(config))


def layer_place(index: int, name: str) -> str:
    """What messages about a layer begin with."""
    return f"layer {index} ({name})"


@functools.cache
def layer_classes() -> dict[str, type["nn.Module"]]:
    """Every module of `torch.nn` by its name in snake_case, usable in a sequence or not."""
    from torch import nn

    return {
        snake_case(name): kind
        for name, kind in vars(nn).items()
        if inspect.isclass(kind) and issubclass(kind, nn.Module)
    }


def why_not_in_a_sequence(kind: type["nn.Module"]) -> str | None:
    """Why a class of `torch.nn` can't be a layer here, or None."""
    name = kind.__name__
    if name.startswith("Lazy"):
        return f"its sizes come from the data; give them to '{snake_case(name[4:])}'"
    if name == "SyncBatchNorm":
        return "it needs several processes; take 'batch_norm2d'"
    if name in _OF_OTHER_MODULES:
        return "it is made of other modules; give an 'exported' model instead"
    taken = list(inspect.signature(kind.forward).parameters.values())[1:]
    needed = [p.name for p in taken if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if len(needed) != 1:
        return f"it takes {' and '.join(needed)}, and a layer here gets one tensor"
    return None


def _layers(config: SequentialConfig) -> list["nn.Module"]:
    return [_layer(index, layer) for index, layer in enumerate(config.layers)]


def _layer(index: int, config: LayerConfig) -> "nn.Module":
    from torch import nn

    place = layer_place(index, config.type)
    kind = find_by_name(config.type, layer_classes(), place, "layer")
    reason = why_not_in_a_sequence(kind)
    if reason is not None:
        raise SpecError(f"{place} can't be used: {reason}.")
    if config.arguments.get("return_indices"):
        raise SpecError(f"{place}: 'return_indices' gives two tensors; the next layer takes one.")
    layer: nn.Module = construct(kind, config.arguments, place)
    if isinstance(layer, nn.RNNBase | nn.LSTMCell):
        layer.register_forward_hook(_first_output)
    return layer


def _first_output(_module: Any, _inputs: Any, output: Any) -> Any:
    """Recurrent layers answer (output, state); the next layer takes the output."""
    return output[0]
