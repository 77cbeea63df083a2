"""What a job can do: one file an operation; `OPERATIONS` maps a name to its input and function."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from visiondyno.errors import SpecError
from visiondyno.operations.context import OperationContext
from visiondyno.specs.archive import PredictArchiveInput
from visiondyno.specs.model_changes import (
    ExportInput,
    ProfileInput,
    PruneInput,
    QuantizeInput,
)
from visiondyno.specs.operations import (
    BenchmarkInput,
    EvaluateInput,
    OperationInput,
    PredictInput,
    ScoreSubmissionInput,
)
from visiondyno.specs.training_operations import (
    BatchInput,
    EvaluateModuleInput,
    ExportModuleInput,
    PredictModuleInput,
    TrainEpochInput,
    TrainInput,
)
from visiondyno.specs.video import PredictVideoInput
from visiondyno.specs.vision_training import TrainVisionInput


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its name, the type of its input, and the module whose `run` does it.

    The module is imported at the first run: it may be heavy.
    """

    name: str
    input_type: type[OperationInput]
    module: str = ""

    @property
    def run(self) -> Callable[[Any, OperationContext], dict[str, Any]]:
        """`run(input, context) -> output`."""
        module = importlib.import_module(f"visiondyno.operations.{self.module or self.name}")
        function: Callable[[Any, OperationContext], dict[str, Any]] = module.run
        return function


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation("batch", BatchInput),
        Operation("benchmark", BenchmarkInput),
        Operation("evaluate", EvaluateInput),
        Operation("export", ExportInput),
        Operation("predict", PredictInput),
        Operation("profile", ProfileInput),
        Operation("prune", PruneInput),
        Operation("quantize", QuantizeInput),
        Operation("score_submission", ScoreSubmissionInput),
        Operation("train", TrainInput),
        Operation("train_epoch", TrainEpochInput),
    )
}

ON_MODULES: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation("evaluate", EvaluateModuleInput, "evaluate_module"),
        Operation("export", ExportModuleInput, "export_module"),
        Operation("predict", PredictModuleInput, "predict_module"),
    )
}
"""What takes the place of the operation of that name where the input has a `model_config`."""

ON_REFERENCES: dict[str, Operation] = {
    "train": Operation("train", TrainVisionInput, "train_vision"),
}
"""What takes its place where the input has a `model` and no `model_config`."""

ON_VIDEOS: dict[str, Operation] = {
    "predict": Operation("predict", PredictVideoInput, "predict_video"),
}
"""What takes its place where the input has a `video`."""

ON_ARCHIVES: dict[str, Operation] = {
    "predict": Operation("predict", PredictArchiveInput, "predict_archive"),
}
"""What takes its place where the input has an `archive`."""


def find_operation(job_input: dict[str, Any]) -> Operation:
    """The operation that `job_input` names.

    Raises:
        SpecError: none is named, or an unknown one.
    """
    name = job_input.get("operation")
    if not isinstance(name, str) or name not in OPERATIONS:
        known = ", ".join(sorted(OPERATIONS))
        raise SpecError(f"'operation' must be one of {known}; got {name!r:.100}.")
    if "model_config" in job_input:
        return ON_MODULES.get(name, OPERATIONS[name])
    if "video" in job_input:
        return ON_VIDEOS.get(name, OPERATIONS[name])
    if "archive" in job_input:
        return ON_ARCHIVES.get(name, OPERATIONS[name])
    if "model" in job_input:
        return ON_REFERENCES.get(name, OPERATIONS[name])
    return OPERATIONS[name]
