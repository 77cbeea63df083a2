"""`evaluate` of a torch module: its loss and metrics on labelled data; nothing learns."""

from typing import Any

from visiondyno.operations.context import OperationContext
from visiondyno.operations.training_samples import open_samples
from visiondyno.operations.training_setup import (
    StepTicker,
    StoppableSamples,
    prepare_module,
    torch_as_asked,
)
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.training_operations import EvaluateModuleInput
from visiondyno.training.checks import check_evaluation
from visiondyno.training.forward import wrapped
from visiondyno.training.loop import PassOptions, evaluate_module
from visiondyno.training.losses import build_loss
from visiondyno.training.precision import check_precision


def run(spec: EvaluateModuleInput, context: OperationContext) -> dict[str, Any]:
    """The metrics of the module on `validation_data`, in evaluation mode.

    Returns:
        `metrics`, and what they were found by: `device`, `threads`, `torch`, `notes`.

    Raises:
        SpecError: configuration, loss or device option is wrong, or a layer doesn't fit.
        ModelError: the state is damaged or of another model.
        DatasetError: features or labels can't be read or don't fit.
        OperationFailed: the loss isn't finite, or the memory is full.
    """
    files = WorkerFiles.of_this_worker()
    hyper = spec.hyperparameters
    with torch_as_asked(spec, context):
        loss = build_loss(hyper)
        prepared = prepare_module(spec, files, context)
        check_precision(hyper.mixed_precision, prepared.device, loss)
        data = open_samples(
            spec.validation_data, prepared.module, "validation_data", files, context
        )
        samples = StoppableSamples(data.samples, context)
        check_evaluation(prepared.module, samples, loss, batch_size=hyper.batch_size)
        options = PassOptions(
            hyper, prepared.device, forward=wrapped(prepared.module, hyper, prepared.device)
        )
        ticker = StepTicker(context, "evaluating")
        metrics = evaluate_module(prepared.module, samples, loss, options, ticker.tell)
        return {
            "operation": "evaluate",
            "status": "success",
            "metrics": metrics,
            **prepared.environment,
            "notes": [*prepared.notes, *data.notes],
        }
