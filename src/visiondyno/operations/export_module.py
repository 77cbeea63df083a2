"""`export` of a torch module: to a file that other runtimes take, checked against the module."""

from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.errors import DatasetError, ModelError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.onnx_files import (
    answers_to_features,
    differences,
    serialized,
    to_half,
)
from visiondyno.operations.training_samples import open_samples
from visiondyno.operations.training_setup import prepare_module, torch_as_asked
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.training_operations import ExportModuleInput
from visiondyno.training.arguments import one_line
from visiondyno.training.checks import logits_of
from visiondyno.training.data import takes_whole_numbers
from visiondyno.training.exported import load_exported
from visiondyno.training.onnx_export import INPUT_NAME, OUTPUT_NAME, export_onnx
from visiondyno.training.program_export import export_program

if TYPE_CHECKING:
    import torch
    from torch import nn

_BATCHES = (1, 2, 5)
"""Sizes that the first samples of the check are taken in: a graph may have learnt one by heart."""
_MOST_CHECKED = 256


def run(spec: ExportModuleInput, context: OperationContext) -> dict[str, Any]:
    """The file's name in the blob store, and how far it is from the module.

    The module and the file answer the same samples, on the processor and in float32, in batches of
    several sizes: of `check_data` (the first 256), or 8 of noise. An `onnx` file runs in a child
    process.

    Returns:
        `model` (`sha256:…`), `format`, `precision`, `size_bytes`; `max_abs_difference`,
        `mean_abs_difference`, `max_abs_output` and `checked_samples`; for `onnx` also
        `input_name`, `output_name` and `opset`; and `environment` as of training.

    Raises:
        SpecError: the configuration is wrong.
        ModelError: the module can't be exported (names what stands in the way), or the file
            doesn't answer what the module does.
        DatasetError: `check_data` doesn't fit.
    """
    files = WorkerFiles.of_this_worker()
    with torch_as_asked(spec, context):
        prepared = prepare_module(spec, files, context)
        module = prepared.module.cpu()
        features, notes = _features(spec, module, files, context)
        sizes = _sizes(len(features), spec.hyperparameters.batch_size)
        expected = _answers(module, features, sizes, context)
        context.progress("exporting", format=spec.format)
        if spec.format == "exported":
            data = export_program(module, features[:2].numpy())
            context.progress("checking the file")
            found = _answers(load_exported(data), features, sizes, context)
            facts: dict[str, Any] = {}
        else:
            graph = export_onnx(module, features[:2], spec.opset)
            facts = {"input_name": INPUT_NAME, "output_name": OUTPUT_NAME, "opset": _opset(graph)}
            if spec.opset not in (None, facts["opset"]):
                raise ModelError(
                    f"'opset': the model can't be written in {spec.opset}, only in "
                    f"{facts['opset']}; leave 'opset' out."
                )
            data = serialized(to_half(graph) if spec.precision == "fp16" else graph)
            context.progress("checking the file")
            (found,) = answers_to_features(data, features.numpy(), sizes, context, spec.threads)
        return {
            "operation": "export",
            "status": "success",
            "model": files.publish(data),
            "format": spec.format,
            "precision": spec.precision,
            "size_bytes": len(data),
            **differences([expected], [found], spec.precision),
            "checked_samples": len(features),
            **facts,
            **prepared.environment,
            "notes": [*prepared.notes, *notes],
        }


def _features(
    spec: ExportModuleInput, module: "nn.Module", files: WorkerFiles, context: OperationContext
) -> tuple["torch.Tensor", tuple[str, ...]]:
    """At least as many samples as the first batches hold: repeated where there are fewer."""
    import torch

    if spec.check_data is None:
        return _noise(spec, module), ()
    data = open_samples(spec.check_data, module, "check_data", files, context)
    count = min(max(len(data.samples), sum(_BATCHES)), _MOST_CHECKED)
    features = data.samples.features(torch.arange(count) % len(data.samples))
    if tuple(features.shape[1:]) != spec.input_shape:
        raise DatasetError(
            f"'check_data': samples have shape {tuple(features.shape[1:])}, and 'input_shape' is "
            f"{spec.input_shape}."
        )
    return features, data.notes


def _noise(spec: ExportModuleInput, module: "nn.Module") -> "torch.Tensor":
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(spec.seed_used)
    shape = (sum(_BATCHES), *spec.input_shape)
    if not takes_whole_numbers(module):
        return torch.randn(shape, generator=generator)
    first = module[0] if isinstance(module, nn.Sequential) else None
    rows = int(getattr(first, "num_embeddings", 1))
    return torch.randint(rows, shape, generator=generator)


def _sizes(count: int, batch_size: int) -> list[int]:
    rest = count - sum(_BATCHES)
    whole, last = divmod(rest, batch_size)
    return [*_BATCHES, *[batch_size] * whole, *([last] if last else [])]


def _answers(
    module: "nn.Module", features: "torch.Tensor", sizes: list[int], context: OperationContext
) -> np.ndarray[Any, Any]:
    """The module's outputs in evaluation mode; its mode is restored."""
    import torch

    was_training = module.training
    module.eval()
    answers = []
    try:
        with torch.no_grad():
            for batch in features.split(sizes):
                context.check()
                answers.append(logits_of(module(batch)).numpy())
    except (RuntimeError, ValueError, IndexError) as error:
        raise ModelError(
            f"'model_config': the model can't take a batch of shape {tuple(batch.shape)}: "
            f"{one_line(error)}. Correct 'input_shape'."
        ) from error
    finally:
        module.train(was_training)
    return np.concatenate(answers)


def _opset(graph: Any) -> int:
    versions: dict[str, int] = {entry.domain: entry.version for entry in graph.opset_import}
    return versions[""]
