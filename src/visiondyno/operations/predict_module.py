"""`predict` of a torch module: its outputs for samples that came with the job."""

import json
from typing import TYPE_CHECKING, Any

from visiondyno.errors import OperationFailed, SpecError, TooLarge, VisionDynoError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.training_samples import open_samples
from visiondyno.operations.training_setup import (
    PreparedModule,
    StepTicker,
    StoppableSamples,
    prepare_module,
    torch_as_asked,
)
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.inline_data import InlineData
from visiondyno.specs.operations import parse
from visiondyno.specs.training_data import TrainingData
from visiondyno.specs.training_operations import PredictModuleInput
from visiondyno.training.arguments import one_line
from visiondyno.training.checks import check_features, logits_of, output_shape
from visiondyno.training.data import Samples, batch_count, batches
from visiondyno.training.forward import wrapped
from visiondyno.training.memory import is_out_of_memory
from visiondyno.training.precision import autocast

if TYPE_CHECKING:
    import torch

MAX_OUTPUT_BYTES = 7_000_000
"""Of the outputs as JSON: what an answer can carry."""


def run(spec: PredictModuleInput, context: OperationContext) -> dict[str, Any]:
    """The outputs of the module in evaluation mode, in the order of the samples.

    Returns:
        `outputs`: one nested list a sample, each number a float32 exactly; `shape` of them all;
        with `probabilities`, softmax over the classes, the second dimension. Then `device`,
        `threads`, `torch`, `notes`.

    Raises:
        SpecError: the configuration is wrong, or the samples don't fit it.
        DatasetError: the samples can't be read.
        ModelError: the state is damaged or of another model.
        OperationFailed: an output isn't finite, or the memory is full.
        TooLarge: the outputs are more than an answer can carry.
    """
    files = WorkerFiles.of_this_worker()
    with torch_as_asked(spec, context):
        prepared = prepare_module(spec, files, context)
        data = open_samples(_data(spec), prepared.module, "features", files, context)
        samples = StoppableSamples(data.samples, context)
        prepared.module.eval()
        check_features(samples, prepared.module, "features")
        size = min(len(samples), spec.hyperparameters.batch_size)
        shape = output_shape(prepared.module, samples, size, "features")
        if spec.probabilities and (len(shape) < 2 or shape[1] == 1):
            raise SpecError(
                "'probabilities' needs one output for each class, and the model answers one "
                "number a sample; leave it out. Of a single logit it is 1 / (1 + exp(-output))."
            )
        return {
            "operation": "predict",
            "status": "success",
            "outputs": _outputs(spec, prepared, samples, StepTicker(context, "predicting")),
            "shape": [len(samples), *shape[1:]],
            **prepared.environment,
            "notes": [*prepared.notes, *data.notes],
        }


def _data(spec: PredictModuleInput) -> TrainingData:
    if not isinstance(spec.features, list):
        return spec.features
    payload = {"features": spec.features, "labels": [0] * len(spec.features)}
    data: InlineData = parse(InlineData, payload, "'features'")
    return data


def _outputs(
    spec: PredictModuleInput, prepared: PreparedModule, samples: Samples, ticker: StepTicker
) -> list[Any]:
    hyper = spec.hyperparameters
    steps = batch_count(len(samples), hyper.batch_size)
    forward = wrapped(prepared.module, hyper, prepared.device) or prepared.module
    outputs: list[Any] = []
    length = 0
    for number, indices in enumerate(batches(len(samples), hyper.batch_size), start=1):
        features = samples.features(indices)
        try:
            values = _forward(spec, prepared, forward, features)
        except VisionDynoError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise OperationFailed(
                f"In prediction, batch {number} of {steps}: {type(error).__name__}: "
                f"{one_line(error)}.",
                stage="predict",
            ) from error
        rows = _finite(values, int(indices[0])).tolist()
        length += len(json.dumps(rows))
        if length > MAX_OUTPUT_BYTES:
            raise TooLarge(
                f"The outputs of the first {int(indices[-1]) + 1} of {len(samples)} samples are "
                f"more than {MAX_OUTPUT_BYTES / 1e6:.0f} MB of JSON already; predict fewer samples "
                "in one job."
            )
        outputs += rows
        ticker.tell(number, steps)
    return outputs


def _forward(
    spec: PredictModuleInput, prepared: PreparedModule, forward: Any, features: "torch.Tensor"
) -> "torch.Tensor":
    import torch

    precision = spec.hyperparameters.mixed_precision
    with torch.no_grad(), autocast(precision, prepared.device):
        values = logits_of(forward(features.to(prepared.device))).to(torch.float32)
    return (values.softmax(1) if spec.probabilities else values).cpu()


def _finite(values: "torch.Tensor", first: int) -> "torch.Tensor":
    import torch

    wrong = ~torch.isfinite(values)
    if bool(wrong.any()):
        sample = first + int(wrong.nonzero()[0][0])
        raise OperationFailed(
            f"The model answers NaN or infinity for sample {sample} of 'features'; check its "
            "weights and the sample.",
            stage="predict",
        )
    return values
