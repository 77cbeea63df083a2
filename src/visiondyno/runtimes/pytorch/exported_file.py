"""Files of `torch.export.save`: checked before torch sees them, described by their graph."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiondyno.errors import ModelError
from visiondyno.runtimes.graph_facts import GraphFacts, Shape, TensorFacts
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.runtimes.pytorch.module import parameter_count, precision_of, reason
from visiondyno.state.program_check import checked_program

if TYPE_CHECKING:
    from torch import fx, nn
    from torch.export import ExportedProgram

_AGAIN = "Export the module again, in evaluation mode, from a batch of images alone."
# ATen's names → ONNX's, where those differ.
_OPERATORS = {"_softmax": "Softmax", "log_softmax": "LogSoftmax", "cat": "Concat"}


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A program and what it says of itself; `module` is on its device."""

    facts: GraphFacts
    module: "nn.Module"


def read_exported(path: Path, on: TorchDevice) -> ExportedFile:
    """The program in a file.

    Raises:
        ModelError: it isn't a program of torch.export, is damaged, holds more than a graph and
            numbers, or doesn't fit what a vision model is.
    """
    import torch

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}.") from error
    checked = checked_program(data, str(path))
    try:
        program = torch.export.load(checked)
        if on.device.type != "cpu":
            program = torch.export.passes.move_to_device_pass(program, on.device)
        module = program.module()
    except Exception as error:  # a damaged graph fails anywhere inside torch
        raise ModelError(
            f"{path} can't be loaded by torch {on.version}: {reason(error)}. Export it again with "
            "this version."
        ) from error
    _check_evaluation(program.graph, path)
    return ExportedFile(_facts(program, path, data, module), module)


def _facts(program: "ExportedProgram", path: Path, data: bytes, module: "nn.Module") -> GraphFacts:
    nodes = {node.name: node for node in program.graph.nodes}
    inputs = [_tensor(name, nodes, path) for name in program.graph_signature.user_inputs]
    outputs = [_tensor(name, nodes, path) for name in program.graph_signature.user_outputs]
    if inputs:
        _check_any_batch(program, nodes[inputs[0].name], path)
    operators = Counter(filter(None, map(_operator, nodes.values())))
    return GraphFacts(
        path=path,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        operators=frozenset(operators),
        output_operators=tuple(_operator(nodes[output.name]) for output in outputs),
        metadata={},
        precision=precision_of(module),
        parameters=parameter_count(module),
        file_bytes=len(data),
        digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
    )


def _tensor(name: Any, nodes: "dict[str, fx.Node]", path: Path) -> TensorFacts:
    import torch

    value = nodes[name].meta.get("val") if name in nodes else None
    if not isinstance(value, torch.Tensor):
        raise ModelError(
            f"{path} takes or gives something that isn't a tensor ({str(name)[:80]}). {_AGAIN}"
        )
    shape: Shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorFacts(name, str(value.dtype).removeprefix("torch."), shape)


def _check_any_batch(program: "ExportedProgram", images: "fx.Node", path: Path) -> None:
    """Refuse bounds on a free batch size: 1 and any larger number must do."""
    size = images.meta["val"].shape[0]
    if isinstance(size, int):
        return
    bounds = program.range_constraints.get(size.node.expr)
    if bounds is not None and (bounds.lower > 1 or bounds.upper.is_Integer):
        raise ModelError(
            f"{path} takes batches of {bounds.lower} to {bounds.upper} images. Export it again "
            "with one fixed size, or with torch.export.Dim('batch') without bounds."
        )


def _operator(node: "fx.Node") -> str | None:
    if node.op != "call_function":
        return None
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return None
    name = str(schema.name).rpartition("::")[2]
    return _OPERATORS.get(name, name.strip("_").title().replace("_", ""))


def _check_evaluation(graph: "fx.Graph", path: Path) -> None:
    """Refuse a program that drops out, or normalises by its batch: it was exported in training."""
    for node in graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        said = _arguments(node)
        drops = said.get("train") is True or said.get("dropout_p", 0) not in (0, 0.0)
        # Normalisation that keeps no statistics takes the batch's in evaluation too.
        learns = said.get("training") is True and said.get("running_mean", "none kept") is not None
        if drops or learns:
            raise ModelError(
                f"{path} was exported in training mode: it calls {node.target}, whose answers "
                "depend on chance or on the rest of the batch. Call module.eval() before "
                "torch.export.export, and export it again."
            )


def _arguments(node: "fx.Node") -> dict[str, Any]:
    names = [str(argument.name) for argument in node.target._schema.arguments]
    found: dict[str, Any] = dict(zip(names, node.args, strict=False))
    return found | dict(node.kwargs)
