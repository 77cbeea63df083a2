"""`export` of a model reference: its file as one file, in the precision asked for, and checked."""

import tempfile
from pathlib import Path
from typing import Any

from visiondyno.errors import ModelError, SpecError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.onnx_files import answers_to_noise, differences, serialized, to_half
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.runtimes.graph_input import image_input
from visiondyno.runtimes.model_cards import METADATA_KEY, resolve_card
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.references import resolve_reference, shipped_models
from visiondyno.specs.model_card import ModelCard
from visiondyno.specs.model_changes import ExportInput

_BATCHES = (1, 2)


def run(spec: ExportInput, context: OperationContext) -> dict[str, Any]:
    """The exported file's name in the blob store, and how far it is from the model.

    It carries its model card inside. It and its source answer the same three images of noise, of
    the model's own size, each in a child process.

    Returns:
        `model` (`sha256:…`), `format`, `precision`, `size_bytes`, `max_abs_difference`,
        `mean_abs_difference`, `max_abs_output`, `checked_samples`, `input_name`, `output_names`,
        `opset`.

    Raises:
        SpecError: the reference is of a kind that can't be exported.
        ModelError: the file can't be read or run, computes in another precision than fp32, or the
            exported one doesn't answer what it does.
    """
    import onnx

    resolved = resolve_reference(spec.model)
    path = resolved.path
    if path is None or resolved.runtime != "onnx":
        known = ", ".join(f"visiondyno:{name}" for name in shipped_models())
        raise SpecError(
            f"'model': {spec.model} is no ONNX file, and only those can be exported again; give "
            f"the path of one, or one of {known}; or a 'model_config' for a module of torch."
        )
    context.progress("reading the model", model=spec.model)
    facts = read_onnx(path)
    card = resolve_card(facts).card
    if facts.precision != "fp32":
        raise ModelError(
            f"{spec.model} computes in {facts.precision}; only models in fp32 can be exported."
        )
    graph = onnx.load(str(path))  # with the weights that lie beside it
    _carry_card(graph, card)
    context.progress("exporting", format=spec.format)
    data = serialized(to_half(graph) if spec.precision == "fp16" else graph)
    context.progress("checking the file")
    checked = _checked(spec, path, data, context)
    return {
        "operation": "export",
        "status": "success",
        "model": WorkerFiles.of_this_worker().publish(data),
        "format": spec.format,
        "precision": spec.precision,
        "size_bytes": len(data),
        **checked,
        "checked_samples": sum(_BATCHES),
        **_names(facts),
        "opset": {entry.domain: entry.version for entry in graph.opset_import}[""],
    }


def _checked(
    spec: ExportInput, path: Path, data: bytes, context: OperationContext
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "exported.onnx"
        exported.write_bytes(data)
        expected = answers_to_noise(path, _BATCHES, context)
        found = answers_to_noise(exported, _BATCHES, context)
    return differences(expected, found, spec.precision)


def _carry_card(graph: Any, card: ModelCard) -> None:
    kept = [prop for prop in graph.metadata_props if prop.key != METADATA_KEY]
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)
    graph.metadata_props.add(key=METADATA_KEY, value=card.model_dump_json(by_alias=True))


def _names(facts: GraphFacts) -> dict[str, Any]:
    return {
        "input_name": image_input(facts).name,
        "output_names": [output.name for output in facts.outputs],
    }
