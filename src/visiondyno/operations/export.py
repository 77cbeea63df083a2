"""`export` of a model reference: in the format and precision asked for, and checked."""

import re
import tempfile
from pathlib import Path
from typing import Any

from visiondyno.datasets.base import Dataset
from visiondyno.errors import ModelError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.export_formats import (
    WrittenFiles,
    require_format,
    write_onnx,
    write_openvino,
    write_tensorrt,
)
from visiondyno.operations.export_graph import carry_origin, opset_of
from visiondyno.operations.export_source import GraphWanted, SourceGraph, source_graph
from visiondyno.operations.made_of import made_of, own_name
from visiondyno.operations.model_check import MadeFile, ModelCheck, check_made, images_of
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.runtimes.references import resolve_reference
from visiondyno.specs.model_changes import ExportInput


def run(spec: ExportInput, context: OperationContext) -> dict[str, Any]:
    """The files' names in the blob store, and how far they are from the model.

    The file carries its model card inside. It and its source answer the same inputs, and predict
    the same images, made of `data`.

    Returns:
        `files` (name → `sha256:…`, the main file first), `model` (of the main file), `format`,
        `precision`, `size_bytes`, `source_size_bytes` (None of weights that lie in no file),
        `source_digest`, `check` (see `ModelCheck`), `notes`; beside them `max_abs_difference`,
        `mean_abs_difference`, `max_abs_output`, `checked_samples`, `input_name`, `output_names`,
        `opset`.

    Raises:
        SpecError: the reference is of a kind that can't be exported, or not so.
        ModelError: the model can't be read or run, computes in another precision than fp32, or
            the exported one doesn't answer what it does.
        DatasetError: the data can't be read.
        Unavailable: what the model or the format needs isn't here.
    """
    require_format(spec.format)
    dataset = images_of(spec.data, spec.check_images, context)
    # An engine of TensorRT is built for one size.
    batch_size = 1 if spec.format == "tensorrt" and not spec.batch_size else spec.batch_size
    wanted = GraphWanted(spec.opset, batch_size, spec.image_size)
    with source_graph(spec.model, wanted, context) as source, tempfile.TemporaryDirectory() as name:
        context.progress("writing the file", format=spec.format)
        facts = _facts(source)
        how = {"format": spec.format, "precision": spec.precision}
        carry_origin(source.graph, made_of(spec.model, source.model, "export", how))
        written = _written(spec, source, Path(name))
        context.progress("checking the file")
        checked = _checked(spec, source, written, dataset, context)
        store = WorkerFiles.of_this_worker()
        data = [path.read_bytes() for path in written.paths]
        references = [store.publish(one) for one in data]
        return {
            "operation": "export",
            "status": "success",
            "files": {
                path.name: reference
                for path, reference in zip(written.paths, references, strict=True)
            },
            "model": references[0],
            "format": spec.format,
            "precision": spec.precision,
            "size_bytes": sum(map(len, data)),
            "source_size_bytes": source.size_bytes,
            "source_digest": source.model.description.digest,
            "check": checked.report,
            "notes": [*source.notes, *written.notes, *checked.notes],
            **checked.flat,
            **facts,
        }


def file_stem(spec: ExportInput) -> str:
    """What the files of an export are called."""
    return stem_of(spec.model) + ("-fp16" if spec.precision == "fp16" else "")


def stem_of(reference: str) -> str:
    """What files made of a model are called: `yolov8n` of `ultralytics:yolov8n`."""
    resolved = resolve_reference(reference)
    name = resolved.name if resolved.path is None else _name_of(resolved.path)
    name = name.rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml")
    return re.sub(r"[^\w.-]+", "-", name.rpartition(":")[2]).strip("-.") or "model"


def _name_of(path: Path) -> str:
    """Of a folder the whole name: what follows its dot is no suffix."""
    return own_name(path) if path.is_dir() else path.stem


def _facts(source: SourceGraph) -> dict[str, Any]:
    graph = source.graph.graph
    weights = {tensor.name for tensor in graph.initializer}
    names = [one.name for one in graph.input if one.name not in weights]
    return {
        "input_name": names[0],
        "output_names": [one.name for one in graph.output],
        "opset": opset_of(source.graph),
    }


def _written(spec: ExportInput, source: SourceGraph, folder: Path) -> WrittenFiles:
    stem = file_stem(spec)
    if spec.format == "openvino":
        return write_openvino(source.graph, source.card, spec.precision, folder, stem)
    if spec.format == "tensorrt":
        return write_tensorrt(source.graph, spec.precision, folder, stem)
    return write_onnx(source.graph, spec.precision, folder, stem)


def _checked(
    spec: ExportInput,
    source: SourceGraph,
    written: WrittenFiles,
    dataset: Dataset | None,
    context: OperationContext,
) -> ModelCheck:
    made = MadeFile(written.paths[0], spec.precision, written.device)
    try:
        return check_made(source.model, made, dataset, context, source.answers)
    except ModelError as error:
        if source.doubtful is None:
            raise
        raise ModelError(f"{source.doubtful} ({error.message})") from error
