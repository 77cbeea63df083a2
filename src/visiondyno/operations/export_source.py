"""Any model that can be exported as one ONNX graph in fp32, beside the model that it is of."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ModelError, SpecError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.export_graph import carry_card, in_opset, opset_of, set_batch, set_size
from visiondyno.operations.made_of import source_name
from visiondyno.operations.model_check import Answers
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.runtimes.graph_input import image_input
from visiondyno.runtimes.model_cards import resolve_card
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.references import resolve_reference, shipped_models
from visiondyno.specs.model_card import ModelCard
from visiondyno.training.arguments import one_line

if TYPE_CHECKING:
    import onnx

    from visiondyno.runtimes.pytorch.exportable import Exportable

INPUT_NAME = "images"
_OF_TORCH = frozenset({"torch", "ultralytics", "torchvision", "timm", "transformers", "trained"})
_DEFAULT_EXAMPLES = 2
_TORCHS_FIRST_OPSET = 18
_NO_CHECKS = "TRANSFORMERS_DISABLE_TORCH_CHECK"
_MOST_PIXELS = 1 << 28
"""In one batch: 3 GB of float32, and what a network keeps of them is a multiple of that."""


@dataclass(frozen=True, slots=True)
class GraphWanted:
    """What of the graph is asked for; None as of `ExportInput`."""

    opset: int | None = None
    batch_size: int | None = None
    image_size: int | None = None


@dataclass(frozen=True, slots=True)
class SourceGraph:
    """A model as an ONNX graph.

    Attributes:
        graph: in fp32, with its card inside.
        card: that the graph is fed and read by.
        model: its source, loaded.
        answers: of the source to the graph's input; None: those of `model.infer`.
        size_bytes: of the source's file or weights; None of weights that lie in no file.
        doubtful: what to say if its answers turn out to be others than the source's; None: nothing
            was changed that could make them so.
        notes: what whoever uses the graph must know.
    """

    graph: "onnx.ModelProto"
    card: ModelCard
    model: LoadedModel
    answers: Answers | None
    size_bytes: int | None
    doubtful: str | None = None
    notes: tuple[str, ...] = ()


@contextmanager
def source_graph(
    reference: str, wanted: GraphWanted, context: OperationContext
) -> Iterator[SourceGraph]:
    """The graph of the model that `reference` names; its source is closed at the end.

    Raises:
        SpecError: the reference is of a kind that can't be exported, or not in that size.
        ModelError: it can't be read, run or written so.
        MissingExtra, Unavailable: its library or its weights aren't here.
    """
    resolved = resolve_reference(reference)
    context.progress("reading the model", model=reference)
    if resolved.runtime == "onnx" and resolved.path is not None:
        with context.model(reference, LoadOptions()) as model:
            yield _of_file(reference, resolved.path, model, wanted)
        return
    if resolved.runtime not in _OF_TORCH:
        known = ", ".join(f"visiondyno:{name}" for name in shipped_models())
        raise SpecError(
            f"'model': {reference} can't be exported: only ONNX files ({known} among them) and "
            "models that torch runs (Ultralytics, torchvision, timm, transformers, trained "
            "folders, .pt2) can; or give a 'model_config' for a module of torch."
        )
    from visiondyno.runtimes.pytorch.exportable import exportable

    context.fetch_weights(reference)
    found = exportable(reference, wanted.image_size)
    with found.model:
        yield _of_torch(reference, found, wanted, context)


def with_origin(card: ModelCard, reference: str) -> ModelCard:
    """The card, saying what it was exported from unless it names its source already."""
    if card.source is not None:
        return card
    return card.model_copy(update={"source": f"exported from {source_name(reference)}"})


def _of_file(reference: str, path: Path, model: LoadedModel, wanted: GraphWanted) -> SourceGraph:
    import onnx

    facts = read_onnx(path)
    if facts.precision != "fp32":
        raise ModelError(
            f"{reference} computes in {facts.precision}; only models in fp32 can be exported."
        )
    card = resolve_card(facts).card
    graph = onnx.load(str(path))  # with the weights that lie beside it
    card = _sized(reference, graph, facts, card, wanted.image_size)
    _require_room(wanted.batch_size, card)
    graph = in_opset(graph, wanted.opset, reference)
    doubtful = _batched(reference, graph, facts, wanted.batch_size)
    card = with_origin(card, reference)
    carry_card(graph, card)
    return SourceGraph(graph, card, model, None, facts.file_bytes, doubtful)


def _sized(
    reference: str, graph: Any, facts: GraphFacts, card: ModelCard, image_size: int | None
) -> ModelCard:
    found = image_input(facts)
    if image_size is None or (found.height, found.width) == (image_size, image_size):
        return card
    if found.height is not None or found.width is not None or not found.has_batch_axis:
        raise SpecError(
            f"'image_size': {reference} takes {card.input.height}x{card.input.width} pixels, which "
            "is fixed in its graph; leave 'image_size' out."
        )
    set_size(graph, found.name, image_size, image_size, is_nchw=found.layout == "nchw")
    size = {"height": image_size, "width": image_size}
    if card.input.resize == "letterbox_to_stride":
        size |= {"resize": "letterbox", "stride": None}  # type: ignore[dict-item]
    return card.model_copy(update={"input": card.input.model_copy(update=size)})


def _batched(reference: str, graph: Any, facts: GraphFacts, batch_size: int | None) -> str | None:
    """Set the batch size; what to say if the graph doesn't bear it."""
    found = image_input(facts)
    if not found.has_batch_axis:
        if batch_size in (None, 1):
            return None
        raise SpecError(
            f"'batch_size': {reference} takes one image without an axis for a batch; leave "
            "'batch_size' out."
        )
    names = (found.name, *([found.size_input] if found.size_input else []))
    if not set_batch(graph, names, batch_size):
        return None
    return (
        f"{reference} has its batch size, {found.batch}, built into its graph; give "
        f"'batch_size': {found.batch}."
    )


def _of_torch(
    reference: str, found: "Exportable", wanted: GraphWanted, context: OperationContext
) -> SourceGraph:
    import torch

    from visiondyno.training.onnx_export import GraphForm, export_onnx

    if wanted.opset is not None and wanted.opset < _TORCHS_FIRST_OPSET:
        raise SpecError(
            f"'opset': torch writes {_TORCHS_FIRST_OPSET} and later, not {wanted.opset}; leave it "
            "out, or export the ONNX file that this gives once more."
        )
    own = found.batch_size
    if own is not None and wanted.batch_size not in (None, own):
        raise SpecError(
            f"'batch_size': {reference} takes batches of {own} and no others; leave it out."
        )
    size = own or wanted.batch_size
    _require_room(size, found.card)
    context.progress("exporting", model=reference)
    side = found.card.input
    example = torch.zeros(size or _DEFAULT_EXAMPLES, 3, side.height, side.width)
    form = GraphForm(INPUT_NAME, found.outputs, size is None, reference, "take another model")
    with torch.no_grad(), _without_tracers_checks():
        _call_once(found.module, example[:1] if size is None else example, reference)
        graph = export_onnx(found.module, example, wanted.opset, form)
    if wanted.opset not in (None, opset_of(graph)):
        raise ModelError(
            f"'opset': {reference} can't be written in {wanted.opset}, only in {opset_of(graph)}; "
            "leave 'opset' out."
        )
    card = with_origin(found.card, reference)
    carry_card(graph, card)
    description = found.model.description
    notes = (*found.notes, *description.notes)
    answers = _answers(found.module)
    size_bytes = description.file_bytes or None
    return SourceGraph(graph, card, found.model, answers, size_bytes, None, notes)


def _require_room(batch_size: int | None, card: ModelCard) -> None:
    """Refuse what would fill the memory of whatever runs it.

    Raises:
        SpecError: says how much it is.
    """
    pixels = (batch_size or 1) * card.input.height * card.input.width
    if pixels > _MOST_PIXELS:
        raise SpecError(
            f"'batch_size': {batch_size or 1} images of {card.input.height}x{card.input.width} are "
            f"{pixels / 1e6:,.0f} million pixels, and one batch holds at most "
            f"{_MOST_PIXELS / 1e6:,.0f} million; give a smaller batch, or smaller images."
        )


def _call_once(module: Any, example: Any, reference: str) -> None:
    """Have the network set up what its first call does, such as its grids of anchors.

    Raises:
        ModelError: it can't take images of that size.
    """
    try:
        module(example)
    except Exception as error:  # whatever a network makes of a size that it isn't for
        height, width = example.shape[2:]
        raise ModelError(
            f"{reference} can't take images of {height}x{width} pixels: {one_line(error)}. Give "
            "another 'image_size', or leave it out."
        ) from error


@contextmanager
def _without_tracers_checks() -> Iterator[None]:
    """Transformers checks shapes as it runs, by operators that ONNX hasn't got."""
    before = os.environ.get(_NO_CHECKS)
    os.environ[_NO_CHECKS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_CHECKS]
        else:
            os.environ[_NO_CHECKS] = before


def _answers(module: Any) -> Answers:
    import torch

    def answers(tensor: NDArray[Any]) -> list[NDArray[Any]]:
        with torch.no_grad():
            found = module(torch.from_numpy(np.ascontiguousarray(tensor)))
        tensors = [found] if isinstance(found, torch.Tensor) else list(found)
        return [one.float().numpy() for one in tensors]

    return answers
