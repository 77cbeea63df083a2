"""Typed inputs of the operations on torch modules."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from visiondyno.specs.operations import OperationInput
from visiondyno.specs.training import EarlyStopping, Hyperparameters, ModelConfig, Name, Seed
from visiondyno.specs.training_data import TrainingData

_MAX_SAMPLE_NUMBERS = 1_000_000_000
_BLOB = r"^sha256:[0-9a-f]{64}$"

ModelState = Annotated[str, Field(min_length=1)]
"""Base64 of an encoded state, or `sha256:…`, the name of a blob that holds one."""


Measurable = Literal["latency_ms", "throughput_images_per_s", "energy_joules", "parameters"]
"""What a worker measures of a module; see `operations.measure_module`."""


def _each_once(names: tuple[Measurable, ...]) -> tuple[Measurable, ...]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"'{twice}' is named twice; name each once")
    return names


class StateReply(BaseModel):
    """How the answer's `model_state` may be encoded; by default so that any client can read it.

    Attributes:
        delta: also as the lossless difference to the request's `model_state`, which the caller
            has; sent where it is smaller.
        lossy: `bf16` or `int8-delta`, with the error carried into the next reply, whatever
            `delta` says; `int8-delta` needs a `model_state` in the request.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    delta: bool = False
    lossy: Literal["bf16", "int8-delta"] | None = None


class ModuleInput(OperationInput):
    """What operations on a torch module have in common.

    Attributes:
        config: `model_config` on the wire.
        model_state: weights to begin with; fresh ones from the seed if None.
        model_state_format: how `model_state` is encoded; None: safetensors, packed or not.
        hyperparameters: of an evaluation, loss and batch size only.
        device: `auto` is the first GPU where there is one, else the processor; the answer says
            which.
        threads: of torch on the processor; its own default if None. Sums, and so the last bits of
            a result, depend on it.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), populate_by_name=True
    )

    config: Annotated[ModelConfig, Field(alias="model_config")]
    model_state: ModelState | None = None
    model_state_format: Name | None = None
    hyperparameters: Hyperparameters = Hyperparameters()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$")] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] | None = None

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _none_is_the_default(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _keras_is_not_compiled(self) -> Self:
        if self.config.type == "keras" and self.hyperparameters.compile:
            raise ValueError("'hyperparameters.compile' can't be used with a model of Keras")
        return self

    @property
    def seed_used(self) -> int:
        """The seed, 0 where none is given."""
        return self.hyperparameters.seed or 0

    def _check_reply(self, reply: StateReply) -> None:
        if reply.lossy == "int8-delta" and self.model_state is None:
            raise ValueError(
                "'state_reply.lossy' is 'int8-delta', a difference to 'model_state': give that, "
                "or take 'bf16'"
            )


class TrainEpochInput(ModuleInput):
    """Train for one epoch.

    Attributes:
        optimizer_state: what an earlier epoch answered with; the worker keeps what it names.
        epoch: which one it is, from 1: it decides the order of samples.
    """

    operation: Literal["train_epoch"] = "train_epoch"
    training_data: TrainingData
    optimizer_state: Annotated[str, Field(pattern=_BLOB)] | None = None
    epoch: Annotated[int, Field(ge=1, le=2**31 - 1)] = 1
    state_reply: StateReply = StateReply()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.optimizer_state is not None and self.model_state is None:
            raise ValueError(
                "'optimizer_state' goes with the 'model_state' that was answered beside it: give "
                "both, or none to begin anew"
            )
        self._check_reply(self.state_reply)
        return self


class TrainInput(ModuleInput):
    """Train for many epochs, and evaluate after each.

    Attributes:
        validation_data: never trained on; no `val_metrics` without it.
        seed: as `hyperparameters.seed`; give it in one place.
        measure: what the worker measures of the module before the first epoch.
        measure_seconds: all measurements together take about so long at most.
        health: tell of each epoch how its gradients behaved.
    """

    operation: Literal["train"] = "train"
    training_data: TrainingData
    validation_data: TrainingData | None = None
    epochs: Annotated[int, Field(ge=1, le=50_000)] = 1
    early_stopping: EarlyStopping | None = None
    seed: Seed | None = None
    state_reply: StateReply = StateReply()
    measure: Annotated[tuple[Measurable, ...], AfterValidator(_each_once)] = ()
    measure_seconds: Annotated[float, Field(ge=0.1, le=60)] = 3.0
    health: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        own = self.hyperparameters.seed
        if self.seed is not None and own is not None and self.seed != own:
            raise ValueError(f"'seed' is {self.seed} and 'hyperparameters.seed' {own}; give one")
        watched = self.early_stopping.monitor if self.early_stopping else "train_loss"
        if watched.startswith("val_") and self.validation_data is None:
            raise ValueError(f"'early_stopping.monitor' is '{watched}': give 'validation_data' too")
        self._check_reply(self.state_reply)
        return self

    @property
    def seed_used(self) -> int:
        """The seed, 0 where none is given."""
        return self.seed if self.seed is not None else super().seed_used


class EvaluateModuleInput(ModuleInput):
    """Score a torch module on labelled data, without learning."""

    operation: Literal["evaluate"] = "evaluate"
    validation_data: TrainingData


class PredictModuleInput(ModuleInput):
    """Run a torch module on samples.

    Attributes:
        features: inline, one entry a sample, or as `training_data` (labels aren't looked at).
        probabilities: apply softmax to the outputs of each sample.
    """

    operation: Literal["predict"] = "predict"
    features: list[Any] | TrainingData
    probabilities: bool = False


def _of_a_sample(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > _MAX_SAMPLE_NUMBERS:
        raise ValueError(f"a sample of more than {_MAX_SAMPLE_NUMBERS:,} numbers is not taken")
    return shape


class ExportModuleInput(ModuleInput):
    """Write a torch module as a file that other runtimes take.

    Attributes:
        format: `onnx`, or `exported`: a program of `torch.export`, for `model_config`.
        precision: of the weights and of what is computed; inputs and outputs stay float32.
        input_shape: of one sample, without the batch.
        opset: of ONNX; the exporter's own default if None.
        check_data: samples to compare module and file on, the first 256; noise from the seed if
            None.
    """

    operation: Literal["export"] = "export"
    input_shape: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=8), AfterValidator(_of_a_sample)
    ]
    format: Literal["onnx", "exported"] = "onnx"
    precision: Literal["fp32", "fp16"] = "fp32"
    opset: Annotated[int, Field(ge=18, le=25)] | None = None
    check_data: TrainingData | None = None

    @model_validator(mode="after")
    def _a_program_is_as_it_trains(self) -> Self:
        if self.format == "exported" and (self.precision != "fp32" or self.opset is not None):
            raise ValueError("'precision' and 'opset' are for 'format': 'onnx'; leave them out")
        return self


class BatchInput(OperationInput):
    """Several operations in one job, one after another.

    Attributes:
        operations: each the whole input of one; a batch in a batch is refused.
        stop_on_error: leave out what follows a failed one.
    """

    operation: Literal["batch"] = "batch"
    operations: Annotated[tuple[dict[str, Any], ...], Field(min_length=1, max_length=1000)]
    stop_on_error: bool = False
