"""`quantize`: an ONNX model with weights, and what is computed, in fewer bits, and checked."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visiondyno.datasets.base import Dataset
from visiondyno.errors import ChildDied, ModelError
from visiondyno.operations.calibration_data import overlap_note
from visiondyno.operations.context import OperationContext
from visiondyno.operations.export_graph import carry_card, carry_metadata, carry_origin
from visiondyno.operations.export_source import GraphWanted, SourceGraph, source_graph
from visiondyno.operations.int8_arithmetic import int8_arithmetic
from visiondyno.operations.made_of import data_name, made_of
from visiondyno.operations.model_check import MadeFile, check_made, images_of
from visiondyno.operations.onnx_files import HALF_NOTE, serialized, to_half
from visiondyno.operations.quantize_child import QUANTIZED
from visiondyno.operations.verified_data import open_verified
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.model_cards import resolve_card
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.references import resolve_reference
from visiondyno.sandbox import run_in_child
from visiondyno.specs.model_card import ModelCard
from visiondyno.specs.model_changes import QuantizeInput

_CHILD = "visiondyno.operations.quantize_child:quantize"
_AGPL = "AGPL"


@dataclass(frozen=True, slots=True)
class _Made:
    """A file's bytes before they are checked; what is said of it; what its reader must know."""

    data: bytes
    facts: dict[str, Any]
    notes: tuple[str, ...]


def run(spec: QuantizeInput, context: OperationContext) -> dict[str, Any]:
    """The quantized file's name in the blob store, what is in it, and how far it is from the model.

    Inputs and outputs stay float32, and the model card travels inside. The work is done in a child
    process, and so is the first run of the file.

    Returns:
        `files` (`quantized.onnx` to `sha256:…`), `model` (the same reference), `format`, `method`,
        `precision`, `size_bytes`, `source_size_bytes` (None of weights that lie in no file),
        `source_digest`, `check` (see `ModelCheck`), `notes`; of int8 `quantized` (type of operator
        to number of nodes), `kept_float` (`type`, `count`, `reason` of what stays float) and, of
        the static one, `calibration` (`method`, `data`, `images`, `activations`, `weight_bits`).

    Raises:
        SpecError: the reference is of a kind that can't be exported, or `exclude` names what isn't
            there.
        ModelError: the model can't be read, isn't in fp32, or can't be quantized; or what was made
            can't be run, or answers NaN.
        DatasetError: images can't be read.
    """
    checked_on = images_of(spec.data, spec.check_images, context)
    with _source(spec, context) as source:
        made = _half(source) if spec.method == "fp16" else _int8(spec, source, context)
        data = _with_metadata(made, source, spec)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / QUANTIZED
            file.write_bytes(data)
            precision = read_onnx(file).precision
            made_file = MadeFile(file, precision)
            check = check_made(source.model, made_file, checked_on, context, source.answers)
    reference = WorkerFiles.of_this_worker().publish(data)
    return {
        "operation": "quantize",
        "status": "success",
        "files": {QUANTIZED: reference},
        "model": reference,
        "format": "onnx",
        "method": spec.method,
        "precision": precision,
        "size_bytes": len(data),
        "source_size_bytes": source.size_bytes,
        "source_digest": source.model.description.digest,
        **check.flat,
        "check": check.report,
        **made.facts,
        "notes": [*_license_notes(source.card), *source.notes, *made.notes, *check.notes],
    }


@contextmanager
def _source(spec: QuantizeInput, context: OperationContext) -> Iterator[SourceGraph]:
    """The model as a graph in fp32 with its card inside: an ONNX file as it is, others exported."""
    import onnx

    resolved = resolve_reference(spec.model)
    if resolved.runtime != "onnx" or resolved.path is None:
        with source_graph(spec.model, GraphWanted(), context) as exported:
            yield exported
        return
    context.progress("reading the model", model=spec.model)
    facts = read_onnx(resolved.path)
    _require_fp32(spec.model, facts.precision)
    card = resolve_card(facts).card
    graph = onnx.load(str(resolved.path))  # with the weights that lie beside it
    carry_card(graph, card)
    with context.model(spec.model, LoadOptions()) as model:
        yield SourceGraph(graph, card, model, None, facts.file_bytes)


def _require_fp32(reference: str, precision: str) -> None:
    if precision == "fp32":
        return
    parts = {"int8": "is quantized already", "mixed": "is quantized or halved in part already"}
    already = parts.get(precision, "isn't in fp32")
    raise ModelError(
        f"{reference} {already} ({precision}); give the model in fp32 that it was made of."
    )


def _half(source: SourceGraph) -> _Made:
    import onnx

    half = onnx.ModelProto()
    half.CopyFrom(source.graph)  # it is changed in place
    data = serialized(to_half(half))
    return _Made(data, {}, (HALF_NOTE,))


def _int8(spec: QuantizeInput, source: SourceGraph, context: OperationContext) -> _Made:
    payload: dict[str, Any] = {
        "method": spec.method,
        "per_channel": spec.per_channel,
        "exclude": list(spec.exclude),
        "keep_head": spec.keep_head,
    }
    facts: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if spec.calibration_data is not None:
        dataset = open_verified(
            spec.calibration_data,
            skip_bad=False,
            max_images=spec.calibration_images,
            context=context,
            unlabelled=True,
        )
        chosen, notes = _calibration(spec, dataset, context)
        payload |= chosen
        facts["calibration"] = {
            "method": spec.calibration,
            "data": spec.calibration_data,
            "images": len(dataset),
            "activations": chosen["activations"],
            "weight_bits": chosen["weight_bits"],
        }
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "source.onnx"
        model.write_bytes(serialized(source.graph))
        found = _run_child({**payload, "folder": folder, "model": str(model)}, context)
        data = (Path(folder) / QUANTIZED).read_bytes()
    facts |= {"quantized": found["quantized"], "kept_float": found["kept_float"]}
    return _Made(data, facts, (*notes, *found["notes"]))


def _calibration(
    spec: QuantizeInput, dataset: Dataset, context: OperationContext
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the child is told of it, and what the reader must know."""
    fits = int8_arithmetic()
    activations = spec.activations or fits.activations
    weight_bits = spec.weight_bits or fits.weight_bits
    notes = [
        f"Activations are {activations} and weights have {weight_bits} bits"
        + (
            f": what this machine's processor computes fastest without overflow ({fits.why})."
            if (activations, weight_bits) == (fits.activations, fits.weight_bits)
            else f", as was asked for; this machine's processor ({fits.why}) would get "
            f"{fits.activations} and {fits.weight_bits} bits."
        )
    ]
    overlap = None if spec.data is None else overlap_note(dataset, spec.data, context)
    notes += [overlap] if overlap is not None else []
    chosen = {
        "calibration": spec.calibration,
        "images": [str(dataset.sample(index).path) for index in range(len(dataset))],
        "activations": activations,
        "weight_bits": weight_bits,
    }
    return chosen, tuple(notes)


def _run_child(payload: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    try:
        return run_in_child(
            _CHILD,
            payload,
            on_event=lambda event: context.progress(event.pop("stage"), **event),
            check=context.check,
        )
    except ChildDied as error:
        raise ModelError(
            f"ONNX Runtime dies of quantizing the model ({error.message}) Take 'method': 'fp16', "
            "or fewer 'calibration_images' where memory is short."
        ) from error


def _with_metadata(made: _Made, source: SourceGraph, spec: QuantizeInput) -> bytes:
    """With the source's metadata, its card and origin, and without operators that nobody uses."""
    import onnx

    model = onnx.ModelProto.FromString(made.data)
    carry_metadata(model, source.graph)
    how: dict[str, Any] = {"method": spec.method}
    if "calibration" in made.facts:
        told = made.facts["calibration"]
        how["calibration"] = {**told, "data": data_name(told["data"])}
    carry_origin(model, made_of(spec.model, source.model, "quantize", how))
    used = {node.domain for node in model.graph.node} | {
        node.domain for function in model.functions for node in function.node
    }
    kept = [one for one in model.opset_import if one.domain in used | {"", "ai.onnx"}]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return serialized(model)


def _license_notes(card: ModelCard) -> list[str]:
    if card.license is None or _AGPL not in card.license:
        return []
    return [f"Made of weights under {card.license}, it is under that licence too."]
