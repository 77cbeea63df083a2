"""The litert runtime: .tflite files, run by LiteRT (once TensorFlow Lite) on the processor."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from numpy.typing import NDArray

from visiondyno.errors import MissingExtra, ModelError
from visiondyno.runtimes.base import (
    LoadedModel,
    LoadOptions,
    ModelDescription,
    Runtime,
)
from visiondyno.runtimes.file_model import (
    CardedGraph,
    FileModel,
    carded_graph,
    feeds_in_order,
    graph_by_facts,
    require_cpu,
)
from visiondyno.runtimes.litert_file import read_litert
from visiondyno.runtimes.references import resolve_reference
from visiondyno.vision.heads import Output

_NO_GPU = "LiteRT's Python package has no kernels for NVIDIA's GPUs; use cpu."
_LONGEST_REASON = 200
_THREADS_NOTE = "LiteRT uses one thread unless told otherwise; '--threads' gives it more."


class LiteRtRuntime(Runtime):
    """Runs .tflite files by LiteRT's interpreter with its XNNPACK kernels, on the processor.

    A file says itself whether its batch is free. One of a fixed batch isn't resized: whether its
    graph means the same for another size only its author knows.
    """

    name = "litert"

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """Read the file, resolve its card, and make an interpreter.

        Raises:
            ModelError: the file can't be read, understood or run.
            SpecError: the device's name is wrong.
            Unavailable: another device than the processor is asked for; `MissingExtra` without
                ai-edge-litert.
        """
        require_cpu(options.device, _NO_GPU)
        path = resolve_reference(reference).path
        if path is None:
            raise ModelError(f"{reference} names no file; give the path of a .tflite file.")
        graph = carded_graph(read_litert(path), options.card)
        interpreter = _interpreter(str(path), options.intra_op_threads, reference)
        description = graph.describe(
            reference,
            options,
            runtime=f"ai-edge-litert {version('ai-edge-litert')}",
            provider="XNNPACK",
            notes=() if options.intra_op_threads else (_THREADS_NOTE,),
        )
        return _LiteRtModel(description, graph, interpreter)


class _LiteRtModel(FileModel):
    def __init__(self, description: ModelDescription, graph: CardedGraph, interpreter: Any) -> None:
        super().__init__(description, graph)
        self._facts = graph.facts
        self._interpreter = interpreter
        self._inputs = interpreter.get_input_details()
        self._outputs = {
            said.name: real["index"]
            for said, real in zip(
                graph.facts.outputs, interpreter.get_output_details(), strict=True
            )
        }
        self.graph = graph_by_facts(graph.facts, self._run_graph)

    def _run_graph(self, wanted: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[Output]:
        self._require_open()
        interpreter = self._interpreter
        try:
            arrays = feeds_in_order(self._facts, feeds)
            self._resize(arrays)
            for real, array in zip(self._inputs, arrays, strict=True):
                interpreter.set_tensor(real["index"], array)
            interpreter.invoke()
            # Copies: the interpreter's own memory moves with the next resize.
            return [interpreter.get_tensor(self._outputs[name]) for name in wanted]
        except (ValueError, RuntimeError, TypeError, KeyError) as error:
            raise ModelError(
                f"{self.description.reference} stopped while running: {_reason(error)}"
            ) from error

    def _resize(self, arrays: Sequence[NDArray[Any]]) -> None:
        real = self._interpreter.get_input_details()
        if all(tuple(one["shape"]) == a.shape for one, a in zip(real, arrays, strict=True)):
            return
        for one, array in zip(real, arrays, strict=True):
            self._interpreter.resize_tensor_input(one["index"], array.shape, strict=True)
        self._interpreter.allocate_tensors()

    def _free(self) -> None:
        self._interpreter = None


def _interpreter(path: str, threads: int | None, reference: str) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingExtra("litert", reference) from error
    try:
        with _without_its_chatter():
            made = Interpreter(path, num_threads=threads)
            made.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"LiteRT can't load {path}: {_reason(error)}") from error
    return made


@contextmanager
def _without_its_chatter() -> Iterator[None]:
    """LiteRT prints which kernels it took, past Python; what others print meanwhile is kept."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        real = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(real, 2)
            os.close(real)
            said.seek(0)
            others = [line for line in said if not line.startswith((b"INFO:", b"ERROR:"))]
            os.write(2, b"".join(others))


def _reason(error: Exception) -> str:
    text = " ".join(re.sub(r"\S*/\S+\.(?:cc|h|cpp):\d+ ", "", str(error)).split())
    if len(text) > _LONGEST_REASON:
        text = text[: _LONGEST_REASON - 1].rsplit(" ", 1)[0] + "…"
    return text or type(error).__name__
