"""A torch module → an ONNX graph, by torch's own exporter."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visiondyno.errors import MissingExtra, ModelError
from visiondyno.training.arguments import one_line
from visiondyno.training.checks import logits_of

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

INPUT_NAME, OUTPUT_NAME = "input", "output"

_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")
_ESCAPES = re.compile(r"\x1b\[\d+m")
_TALKERS = ("torch", "onnxscript", "onnx_ir")
_SUMMARY = "## Exception summary"


@dataclass(frozen=True, slots=True)
class GraphForm:
    """What a graph is to look like, and how messages call its module.

    Attributes:
        input_name: of its one input.
        output_names: of its outputs, in order; one: what `logits_of` finds in the answer.
        any_batch: whether it takes batches of any size, or of the example's alone.
        what: the module is, at a sentence's beginning.
        instead: what else to do, at a sentence's end.
    """

    input_name: str = INPUT_NAME
    output_names: tuple[str, ...] = (OUTPUT_NAME,)
    any_batch: bool = True
    what: str = "'model_config'"
    instead: str = "take 'format': 'exported'"


_PLAIN = GraphForm()


def export_onnx(
    module: "nn.Module",
    example: "torch.Tensor",
    opset: int | None = None,
    form: GraphForm = _PLAIN,
) -> "onnx.ModelProto":
    """The graph of what a module answers in evaluation mode.

    Args:
        module: on the processor; its mode is restored afterwards.
        example: a batch, of at least two samples where the graph is to take any number.
        opset: of the graph; the exporter's own default if None.
        form: names, and batches.

    Returns:
        The graph, weights included.

    Raises:
        ModelError: the exporter can't follow the module, or an operator has no counterpart in
            ONNX: names it.
        MissingExtra: torch or onnxscript isn't installed.
    """
    try:
        import onnxscript  # noqa: F401 (torch's exporter asks for it late, and in its own words)
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "Export to ONNX") from error
    was_training = module.training
    if was_training:  # an exported program has no such mode, and refuses to be asked
        module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _silent():
            answering = _answering(module) if len(form.output_names) == 1 else module
            graph = _graph(answering, example, opset, form)
            if form.any_batch and not _takes_any_batch(graph):
                # The exporter goes on with the example's size where a module asks for `len` of a
                # tensor; reading its bytecode finds what was meant.
                dynamic = ({0: torch.export.Dim("batch")},)
                program = torch.export.export(
                    answering, (example,), dynamic_shapes=dynamic, strict=True
                )
                graph = _graph(program, example, opset, form)
    except Exception as error:  # whatever torch's reading of the module raises
        raise ModelError(
            f"{form.what} can't be exported to ONNX: {_reason(error)}. Replace that part, or "
            f"{form.instead}."
        ) from error
    finally:
        if was_training:
            module.train()
    _forget_origins(graph)
    return graph


def _graph(
    module: Any, example: "torch.Tensor", opset: int | None, form: GraphForm
) -> "onnx.ModelProto":
    import torch

    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},) if form.any_batch else None,
        input_names=[form.input_name],
        output_names=list(form.output_names),
        opset_version=opset,
        verbose=False,
    )
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    return graph


def _takes_any_batch(graph: "onnx.ModelProto") -> bool:
    return bool(graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param)


def _answering(module: "nn.Module") -> "nn.Module":
    """The module with one tensor as its answer."""
    from torch import nn

    class Answering(nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.answering = module

        def forward(self, features: Any) -> Any:
            return logits_of(self.answering(features))

    made = Answering()
    made.training = False  # its own alone: the module's mode is set by who calls
    return made


def _forget_origins(model: "onnx.ModelProto") -> None:
    """The exporter writes into each part which line of which file of this machine made it."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:]
    values = (*graph.value_info, *graph.input, *graph.output)
    for part in (*graph.node, *graph.initializer, *values):
        del part.metadata_props[:]
        part.doc_string = ""


def _reason(error: Exception) -> str:
    """The one sentence of the exporter's pages that says what is wrong."""
    text = _ESCAPES.sub("", str(error))
    missing = _OPERATOR.search(text)
    if missing is not None:
        return f"the operator '{missing[1]}' has no counterpart in ONNX"
    summary = text.partition(_SUMMARY)[2].strip()
    told = re.sub(r"^<class '([\w.]+)'>: ", "", summary) or text
    if "data-dependent" in told:
        return f"what it does depends on the numbers that it sees ({one_line(ValueError(told))})"
    return one_line(ValueError(told))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's advice to those who write exporters, logged and printed."""
    known = logging.getLogger().manager.loggerDict
    loggers = [logging.getLogger(name) for name in sorted(known) if name.startswith(_TALKERS)]
    speaking = [*loggers, *(handler for logger in loggers for handler in logger.handlers)]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for one in speaking:
            one.addFilter(_nothing)
        try:
            yield
        finally:
            for one in speaking:
                one.removeFilter(_nothing)


def _nothing(_: logging.LogRecord) -> bool:
    return False
