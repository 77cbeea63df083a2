"""Which model card holds for a file: its own metadata, a card beside it, or known shapes.

Each part of the card comes from the first source that knows it; `LoadOptions.card` beats all.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from visiondyno.errors import ModelError
from visiondyno.runtimes.card_file import card_path, card_text, parse_card, read_card
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.runtimes.graph_input import GraphInput, image_input, output_shapes
from visiondyno.runtimes.known_shapes import conventional_detection, known_output, known_shape
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.partial_card import PartialCard, all_parts, merge
from visiondyno.runtimes.ultralytics_metadata import read_ultralytics
from visiondyno.specs.model_card import DepthCard, HeadName, ModelCard, OutputCard
from visiondyno.specs.operations import describe_validation
from visiondyno.vision.heads import HEADS, overlaid
from visiondyno.vision.preprocess import Preprocessor

METADATA_KEY = "visiondyno.model"
"""The `metadata_props` key under which a model carries its whole card as JSON."""


@dataclass(frozen=True, slots=True)
class ResolvedCard:
    """The card in use and where each part of it came from.

    Attributes:
        sources: part of the card → `given`, `metadata`, `card FILE`, `shape` or `assumed`.
        notes: what a reader of the report must know.
    """

    card: ModelCard
    sources: dict[str, str]
    notes: tuple[str, ...]


def resolve_card(facts: GraphFacts, given: ModelCard | None = None) -> ResolvedCard:
    """The card of the file that `facts` describe, checked against its graph.

    Raises:
        ModelError: no source knows how to read the model, or a card doesn't fit it.
    """
    graph_input = image_input(facts)
    resolved = _resolve(facts, graph_input, given, strict=True)
    _check(resolved.card, facts, graph_input)
    return resolved


def read_graph_file(path: Path) -> GraphFacts:
    """What the file or folder of a graph says about itself, read as its suffix says.

    Raises:
        ModelError: it can't be read, or (Keras, TensorFlow) converted.
        MissingExtra: the package that reads it isn't installed.
    """
    suffix = path.suffix.lower()
    if suffix == ".xml":
        from visiondyno.runtimes.openvino_file import read_openvino

        return read_openvino(path)
    if suffix == ".tflite":
        from visiondyno.runtimes.litert_file import read_litert

        return read_litert(path)
    if suffix in (".keras", ".h5"):
        from visiondyno.runtimes.keras import read_keras

        return read_keras(path)
    if (path / "saved_model.pb").is_file():
        from visiondyno.runtimes.tensorflow import read_saved_model

        return read_saved_model(path)
    return read_onnx(path)


def guess_card(path: Path) -> tuple[ModelCard, dict[str, str], tuple[str, ...]]:
    """The best guess at the card of the model file `path`, without a card beside it.

    Returns:
        the card, where each part came from, and notes.

    Raises:
        ModelError: the file can't be read, or its outputs are of no known kind.
    """
    facts = read_graph_file(path)
    graph_input = image_input(facts)
    resolved = _resolve(facts, graph_input, None, strict=False, beside=False)
    return resolved.card, resolved.sources, resolved.notes


def write_card(path: Path, *, force: bool = False) -> Path:
    """Write the best guess at the card of the model file `path` beside it.

    Returns:
        the card's path.

    Raises:
        ModelError: as `guess_card`; or the card exists and `force` isn't set; or it can't be
            written.
    """
    target = card_path(path)
    if target.exists() and not force:
        raise ModelError(f"{target} exists already; remove it or use --force to replace it.")
    card, sources, notes = guess_card(path)
    origins = sources | {f"note {number}": note for number, note in enumerate(notes, start=1)}
    try:
        target.write_text(card_text(card, path.name, origins), encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{target} can't be written: {error.strerror}.") from error
    return target


def _resolve(
    facts: GraphFacts,
    graph_input: GraphInput,
    given: ModelCard | None,
    *,
    strict: bool,
    beside: bool = True,
) -> ResolvedCard:
    sources = [all_parts(given, "given")] if given else _written_sources(facts, graph_input, beside)
    said, _ = merge(sources)
    if said.get("head", "yolov8") not in HEADS:
        raise ModelError(
            f"{facts.path}: its card says head '{said['head']}', which isn't available in this "
            f"version; there are {', '.join(HEADS)}."
        )
    needed = {"task", "head", "classes", "input"} - said.keys()
    if needed or (said["task"] == "classification" and "activation" not in said and not given):
        sources.extend(known_shape(facts, graph_input, said, strict=strict))
    parts, origins = merge(sources)
    _add_conventions(parts, origins, facts, graph_input)
    notes = tuple(note for source in sources for note in source.notes)
    try:
        return ResolvedCard(ModelCard(**parts), origins, notes + _disagreements(sources))
    except ValidationError as error:
        raise ModelError(f"{facts.path}: {describe_validation(error)}.") from error


def _written_sources(facts: GraphFacts, graph_input: GraphInput, beside: bool) -> list[PartialCard]:
    sources: list[PartialCard] = []
    if METADATA_KEY in facts.metadata:
        sources.append(_own_metadata(facts))
    elif (ultralytics := read_ultralytics(facts, graph_input)) is not None:
        sources.append(ultralytics)
    path = card_path(facts.path)
    if beside and path.is_file():
        sources.append(all_parts(read_card(path), f"card {path.name}"))
    return sources


def _own_metadata(facts: GraphFacts) -> PartialCard:
    what = f"{facts.path}: its metadata '{METADATA_KEY}'"
    try:
        content = json.loads(facts.metadata[METADATA_KEY])
    except ValueError as error:
        raise ModelError(f"{what} isn't JSON; export the model again.") from error
    return all_parts(parse_card(content, what), "metadata")


def _add_conventions(
    parts: dict[str, Any], origins: dict[str, str], facts: GraphFacts, graph_input: GraphInput
) -> None:
    """Fill in what no source says by what the graph tells, then by the head's convention."""
    head: HeadName = parts["head"]
    conventional = "assumed" if origins["head"] != "shape" else "shape"
    said, told = parts.get("output"), _told_output(facts, graph_input, head)
    if said is not None or told is not None:
        parts["output"] = overlaid(said, overlaid(told, HEADS[head].defaults))
        origins.setdefault("output", "shape")
    if parts["task"] == "detection" and "detection" not in parts:
        parts["detection"] = conventional_detection(head, parts.get("output"))
        origins["detection"] = conventional
    if parts["task"] == "depth" and "depth" not in parts:
        parts["depth"] = DepthCard()
        origins["depth"] = conventional


def _told_output(facts: GraphFacts, graph_input: GraphInput, head: HeadName) -> OutputCard | None:
    """What names, shapes and quantisation of the graph tell of its outputs."""
    told = known_output(facts, graph_input, head)
    scales = tuple(output.quantisation for output in facts.outputs)
    if not any(scales):
        return told
    return overlaid(told, OutputCard(quantisation=scales))


def _disagreements(sources: list[PartialCard]) -> tuple[str, ...]:
    """Where a card beside the model says otherwise than its metadata, which wins."""
    written = [source for source in sources if source.origin not in ("shape", "assumed")]
    if len(written) < 2:
        return ()
    first, card = written
    return tuple(
        f"The {card.origin} says otherwise about '{part}'; the model's own metadata wins."
        for part in (
            "task",
            "head",
            "classes",
            "input",
            "output",
            "detection",
            "depth",
            "activation",
        )
        if first.parts.get(part) is not None
        and card.parts.get(part) is not None
        and first.parts[part] != card.parts[part]
    )


def _check(card: ModelCard, facts: GraphFacts, graph_input: GraphInput) -> None:
    head = HEADS[card.head]
    if head.task != card.task:
        raise ModelError(
            f"{facts.path}: its card says task '{card.task}', but head '{card.head}' is for "
            f"{head.task}; correct the model card."
        )
    if not card.classes and card.task != "depth":
        raise ModelError(f"{facts.path}: its card names no classes; add them to the model card.")
    for part, stated, real in (
        ("height", card.input.height, graph_input.height),
        ("width", card.input.width, graph_input.width),
        ("dtype", card.input.dtype, graph_input.dtype),
        ("layout", card.input.layout, graph_input.layout),
    ):
        if real is not None and stated != real:
            raise ModelError(
                f"{facts.path}: its card says input {part} {stated}, but the graph takes {real}; "
                "correct the model card."
            )
    scales = card.output.quantisation if card.output else None
    if scales is not None and len(scales) != len(facts.outputs):
        raise ModelError(
            f"{facts.path}: its card gives 'output.quantisation' for {len(scales)} outputs, but "
            f"there are {len(facts.outputs)}; give one an output, null where there is none."
        )
    try:
        Preprocessor(card.input)
        head.check(output_shapes(facts, graph_input), card)
    except ModelError as error:
        raise ModelError(f"{facts.path}: {error}") from error
