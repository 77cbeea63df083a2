"""A module of the user's own → a program of `torch.export` that trains as its source does."""

import contextlib
import copy
import io
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from visiondyno.errors import MissingExtra, ModelError
from visiondyno.training.arguments import one_line
from visiondyno.training.exported import load_exported

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

_OTHERWISE = (
    "Change what can't be followed, or describe the model by a 'model_config' of type "
    "'sequential', 'torchvision', 'timm' or 'transformers'"
)


def is_module(value: Any) -> bool:
    """Whether it is a module of torch; False without torch."""
    return any(
        kind.__name__ == "Module" and kind.__module__.startswith("torch.nn.")
        for kind in type(value).__mro__
    )


def export_program(module: "nn.Module", features: npt.NDArray[Any]) -> bytes:
    """The program of a module in training mode, for batches of any size.

    Each part of the module is taken as in training, as `module.train()` makes it, and then is in
    the mode that it was in. Tied weights are one tensor in the program too, under the name that
    sorts first.

    Args:
        module: on any device; unchanged afterwards.
        features: of two samples, shape (2, …), float32 or int64.

    Returns:
        What `torch.export.save` writes, weights included; `load_exported` takes it.

    Raises:
        ModelError: torch can't follow what the module does, or it can't be trained elsewhere.
        MissingExtra: torch isn't installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "Training") from error
    source = _on_processor(module)
    with _in_training_mode(source), _undisturbed():
        example = torch.from_numpy(np.ascontiguousarray(features))
        _try(source, example)
        try:
            program = torch.export.export(
                source, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
        except Exception as error:  # whatever torch's reading of the user's code raises
            raise ModelError(
                f"torch.export can't follow {type(module).__name__} with a batch of shape "
                f"{tuple(features.shape)}: {_reason(error)}. {_OTHERWISE}."
            ) from error
        _tie(program, source)
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    data = buffer.getvalue()
    _check_names(load_exported(data), source)
    return data


def _try(module: "nn.Module", example: "torch.Tensor") -> None:
    """One pass as plain torch does it: what doesn't fit is told better here than by the export."""
    import torch

    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        with torch.no_grad():
            torch.func.functional_call(module, buffers, (example,))
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} can't take a batch of shape {tuple(example.shape)} and dtype "
            f"{example.dtype}: {one_line(error)}. Give data that fit it, or correct the model."
        ) from error


def _reason(error: Exception) -> str:
    text = one_line(error)
    if "Constraints violated" in text:
        return "what it does depends on how many samples a batch holds"
    if "data-dependent" in text:
        return f"what it does depends on the numbers that it sees ({text})"
    return text


def _on_processor(module: "nn.Module") -> "nn.Module":
    tensors = [*module.parameters(), *module.buffers()]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return module
    try:
        return copy.deepcopy(module).cpu()
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} can't be copied to the processor ({one_line(error)}); move "
            "it there with .cpu() first."
        ) from error


@contextlib.contextmanager
def _in_training_mode(module: "nn.Module") -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.train()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """With gradients, silent, and with the random state restored."""
    import torch

    handlers = logging.getLogger("torch").handlers
    with (
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for handler in handlers:
            handler.addFilter(_nothing)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(_nothing)


def _nothing(_: logging.LogRecord) -> bool:
    return False


def _tie(program: "ExportedProgram", module: "nn.Module") -> None:
    """Let each tensor that the module has under several names have one in the program."""
    specs = program.graph_signature.input_specs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    of_target = {spec.target: spec for spec in specs if spec.target is not None}
    for names in _names_of_tensors(module):
        kept, *others = [of_target[name] for name in names if name in of_target] or [None]
        for spec in others:
            node = nodes[spec.arg.name]
            node.replace_all_uses_with(nodes[kept.arg.name])
            program.graph.erase_node(node)
            specs.remove(spec)
            program.state_dict.pop(spec.target, None)
    program.graph_module.recompile()


def _names_of_tensors(module: "nn.Module") -> list[list[str]]:
    """The sorted names of each tensor in the module's state."""
    groups: dict[Any, list[str]] = defaultdict(list)
    spans = {}
    for name, tensor in sorted(module.state_dict().items()):
        place: Any = name
        if tensor.numel():  # all empty tensors lie at address 0
            place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            spans[place] = _span(name, tensor)
        groups[place].append(name)
    for (_, end, name), (begin, _, other) in pairwise(sorted(spans.values())):
        if begin < end:
            raise ModelError(
                f"'{name}' and '{other}' of {type(module).__name__} share a part of their memory, "
                "which a training elsewhere can't keep up. Clone one of them first."
            )
    return list(groups.values())


def _span(name: str, tensor: "torch.Tensor") -> tuple[int, int, str]:
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    begin = tensor.data_ptr()
    return begin, begin + (reach + 1) * tensor.element_size(), name


def _check_names(program: "nn.Module", module: "nn.Module") -> None:
    expected = {names[0] for names in _names_of_tensors(module)}
    differing = expected ^ set(program.state_dict())
    if differing:
        raise ModelError(
            f"'{min(differing)}' isn't in both the state_dict of {type(module).__name__} and what "
            f"torch.export makes of it, so its weights couldn't come back. {_OTHERWISE}."
        )
