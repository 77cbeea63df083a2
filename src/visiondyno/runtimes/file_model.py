"""A loaded model that is one graph of a file, whatever runs that graph."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import Unavailable
from visiondyno.runtimes.base import (
    Device,
    GraphModel,
    GraphTensor,
    LoadOptions,
    ModelDescription,
    Precision,
    gpu_number,
)
from visiondyno.runtimes.card_model import CardModel
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.runtimes.graph_input import GraphInput, image_input, output_shapes
from visiondyno.runtimes.model_cards import ResolvedCard, resolve_card
from visiondyno.specs.model_card import ModelCard
from visiondyno.vision.heads import HEADS, Output

Run = Callable[[Sequence[str], Mapping[str, NDArray[Any]]], list[NDArray[Any]]]
"""Runs a graph: names of outputs and feeds to outputs; raises ModelError."""

_DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16",
    "float32": "FP32", "float64": "FP64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CardedGraph:
    """A graph and the card that it is read by."""

    facts: GraphFacts
    graph_input: GraphInput
    resolved: ResolvedCard

    def describe(
        self,
        reference: str,
        options: LoadOptions,
        *,
        runtime: str,
        provider: str,
        precision: Precision | None = None,
        notes: tuple[str, ...] = (),
    ) -> ModelDescription:
        """The description of the model as `runtime` runs it; `precision` is the file's if None."""
        card = self.resolved.card
        shapes = output_shapes(self.facts, self.graph_input)
        alone = HEADS[card.head].lacks_batch_axis(shapes, card)
        return ModelDescription(
            reference=reference,
            runtime=runtime,
            device=options.device,
            precision=precision or self.facts.precision,
            provider=provider,
            card=card,
            card_source=self.resolved.sources,
            batch_size=1 if alone else self.graph_input.batch,
            parameters=self.facts.parameters,
            file_bytes=self.facts.file_bytes,
            digest=self.facts.digest,
            notes=(*self.resolved.notes, *notes),
        )


def carded_graph(facts: GraphFacts, given: ModelCard | None) -> CardedGraph:
    """The graph that `facts` describe with its card.

    Raises:
        ModelError: it takes no image, no source knows how to read it, or a card doesn't fit it.
    """
    return CardedGraph(facts, image_input(facts), resolve_card(facts, given))


class FileModel(CardModel):
    """Everything of `CardModel` but running the graph, which subclasses do in `_run_graph`."""

    def __init__(self, description: ModelDescription, graph: CardedGraph) -> None:
        super().__init__(description, [output.name for output in graph.facts.outputs])
        self._input = graph.graph_input
        self.files = (graph.facts.path, *graph.facts.external_files)

    @abstractmethod
    def _run_graph(self, wanted: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[Output]:
        """The outputs called `wanted`, or a `ModelError`: after `close`, and where it fails."""

    def _run(self, tensor: NDArray[Any]) -> list[Output]:
        feeds = {self._input.name: tensor if self._input.has_batch_axis else tensor[0]}
        if self._input.size_input:
            size = self.description.card.input
            # Boxes then come in pixels of the input, as everywhere else.
            feeds[self._input.size_input] = np.tile(
                np.array([[size.width, size.height]], np.int64), (len(tensor), 1)
            )
        outputs = self._run_graph(self._output_names, feeds)
        return outputs if self._input.has_batch_axis else [output[None] for output in outputs]


class FileGraph(GraphModel):
    """The graph of a file by itself; see `GraphModel`."""

    def __init__(
        self, inputs: tuple[GraphTensor, ...], outputs: tuple[GraphTensor, ...],
        *, has_free_rows: bool, run: Run,
    ) -> None:  # fmt: skip
        self.inputs = inputs
        self.outputs = outputs
        self.has_free_rows = has_free_rows
        self._run = run

    def run_graph(
        self, feeds: Mapping[str, NDArray[Any]], wanted: Sequence[str]
    ) -> list[NDArray[Any]]:
        """See `GraphModel.run_graph`."""
        return self._run(wanted, feeds)


def graph_by_facts(facts: GraphFacts, run: Run) -> FileGraph | None:
    """The graph that `facts` tell of; None where a tensor is of a type that NumPy hasn't got.

    Of runtimes whose free sizes have no names: no two are known to be the same.
    """
    tensors = (*facts.inputs, *facts.outputs)
    if any(one.dtype not in _DATATYPES for one in tensors):
        return None
    said = tuple(
        GraphTensor(
            one.name,
            _DATATYPES[one.dtype],
            tuple(-1 if size is None else size for size in one.shape),
        )
        for one in tensors
    )
    count = len(facts.inputs)
    return FileGraph(said[:count], said[count:], has_free_rows=False, run=run)


def feeds_in_order(facts: GraphFacts, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """A contiguous array for each input, in the graph's order.

    Raises:
        KeyError: one is missing.
        ValueError: one doesn't fit its input's shape, which not every library checks.
    """
    found = []
    for one in facts.inputs:
        feed = feeds[one.name]
        if feed.ndim != len(one.shape) or any(
            size not in (None, real) for size, real in zip(one.shape, feed.shape, strict=True)
        ):
            raise ValueError(f"a feed of shape {feed.shape} doesn't fit input '{one.name}'")
        found.append(np.ascontiguousarray(feed))
    return found


def require_cpu(device: Device, why: str) -> None:
    """Refuse every device but the processor.

    Args:
        device: as asked for.
        why: of a GPU there is none, and what to do; ends the message.

    Raises:
        SpecError: it isn't the name of a device.
        Unavailable: it is a GPU.
    """
    if gpu_number(device) is not None:
        raise Unavailable(f"Device '{device}' can't be used here: {why}")
