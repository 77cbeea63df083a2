"""Programs of `torch.export` as modules that train: any architecture, without its source code."""

import base64
import binascii
import copy
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from visiondyno.errors import ModelError, SpecError
from visiondyno.state.program_check import checked_program
from visiondyno.training.arguments import one_line

if TYPE_CHECKING:
    from torch import fx

# Arguments of operations that say whether the module is training.
_MODE_FLAGS = frozenset({"train", "training", "use_input_stats"})
_SWITCHED_OFF = _MODE_FLAGS | {"dropout_p"}


def read_program(program: str, open_blob: Callable[[str], bytes] | None) -> bytes:
    """The file behind `model_config.program`.

    Raises:
        SpecError: it isn't base64, or names a blob and there is no store of blobs.
    """
    if program.startswith("sha256:"):
        if open_blob is None:
            raise SpecError(
                "'model_config.program' names a blob, and there is no store of blobs here; "
                "give the program as base64."
            )
        return open_blob(program)
    try:
        return base64.b64decode(program, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SpecError(
            "'model_config.program' is neither base64 nor the name of a blob (sha256:…)."
        ) from error


def load_exported(data: bytes) -> "fx.GraphModule":
    """The program as a module; `train()` and `eval()` switch dropout and normalisation.

    In training it does what was exported: export a module in training mode to train it. A module
    that was exported in evaluation mode keeps its dropout off and its statistics fixed.

    Args:
        data: what `torch.export.save` wrote.

    Raises:
        ModelError: the file is damaged, of another version, or holds more than a graph;
            or it draws random numbers outside dropout.
    """
    import torch

    program = checked_program(data)
    try:
        module = torch.export.load(program).module()
    except Exception as error:  # a damaged graph fails anywhere inside torch
        raise ModelError(
            f"'model_config.program' can't be loaded by torch {torch.__version__}: "
            f"{one_line(error)}. Export it again with this version."
        ) from error
    training = module.graph
    evaluating = _for_evaluation(module)

    def train(self: Any, mode: bool = True) -> Any:
        if self.training is not mode or self.graph not in (training, evaluating):
            self.graph = training if mode else evaluating
        for part in self.modules():
            part.training = mode
        return self

    module.train = types.MethodType(train, module)
    module.eval = types.MethodType(lambda self: self.train(False), module)
    module.training = True
    return module


def _for_evaluation(module: "fx.GraphModule") -> "fx.Graph":
    """A copy of the graph with dropout off, and fixed statistics where there are any."""
    import torch

    graph = copy.deepcopy(module.graph)
    buffers = {name for name, _ in module.named_buffers()}
    for node in list(graph.nodes):
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            continue
        if node.target.__name__ == "add_.Tensor" and not node.users and _reads(node, buffers):
            graph.erase_node(node)  # counting of batches, by batch normalisation
            continue
        names = {argument.name for argument in schema.arguments}
        if torch.Tag.nondeterministic_seeded in node.target.tags and not names & _SWITCHED_OFF:
            raise ModelError(
                f"'model_config.program' draws random numbers by '{node.target}' itself, which "
                "can't be switched off for evaluation. Export the module in evaluation mode, or "
                "without what draws them."
            )
        for position, argument in enumerate(schema.arguments):
            if argument.name in _MODE_FLAGS and _switches(node, argument.name):
                _set(node, position, argument.name, value=False)
            elif argument.name == "dropout_p":
                _set(node, position, argument.name, value=0.0)
    graph.lint()
    return graph


def _reads(node: "fx.Node", buffers: set[str]) -> bool:
    source = node.args[0]
    return getattr(source, "op", "") == "get_attr" and source.target in buffers


def _switches(node: "fx.Node", name: str) -> bool:
    """Normalisation without running statistics uses the batch's in evaluation too."""
    if name == "train" or "norm" not in str(node.target):
        return True
    running = node.args[3] if len(node.args) > 3 else node.kwargs.get("running_mean")
    return running is not None


def _set(node: "fx.Node", position: int, name: str, *, value: float) -> None:
    if position < len(node.args):
        node.update_arg(position, value)
    elif name in node.kwargs:
        node.update_kwarg(name, value)
