"""What the methods of the trainer take beside what is trained."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from visiondyno.client.callbacks import Callback
from visiondyno.client.client import AnyPolicy
from visiondyno.errors import SpecError
from visiondyno.specs.training import EarlyStopping, Hyperparameters

AnyHyperparameters = Hyperparameters | Mapping[str, Any] | None


class JobOptions(TypedDict, total=False):
    """What every method of the trainer takes beside its own.

    Attributes:
        device: `auto` (the first GPU where there is one), `cpu`, `cuda`, `cuda:1`.
        threads: of torch on the worker's processor.
        policy: limits of the job, such as `{"executionTimeout": 3_600_000}` (milliseconds);
            without it, servers and RunPod stop a job after ten minutes.
        input_shape: of one sample, without the batch: to export a module of your own where the
            data lie elsewhere.
    """

    device: str
    threads: int
    policy: AnyPolicy
    input_shape: Sequence[int]


class TrainOptions(JobOptions, total=False):
    """What `Trainer.train_model` takes beside.

    Attributes:
        early_stopping: `{"monitor": "val_loss", "patience": 3, …}`; see `EarlyStopping`.
        seed: of weights, of the order of samples and of dropout.
        callbacks: for this training only, after the trainer's own.
        measure: what the worker measures of the module before the first epoch.
        measure_seconds: how long that may take in all, about.
        health: tell of each epoch how its gradients behaved.
    """

    early_stopping: EarlyStopping | Mapping[str, Any] | None
    seed: int | None
    callbacks: Sequence[Callback]
    measure: Sequence[str]
    measure_seconds: float
    health: bool


class TrialOptions(TrainOptions, total=False):
    """What `Trainer.hyperparameter_trial` takes beside.

    Attributes:
        monitor: the metric that is reported to the trial: `val_loss` if left out.
    """

    monitor: str


def check_options(given: Mapping[str, Any], kind: type) -> None:
    """Refuse options that `kind`, one of the above, hasn't: a misspelt one must not be passed over.

    Raises:
        SpecError: names the first such option; or one of the callbacks isn't one.
    """
    known = sorted(kind.__annotations__)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}."
            raise SpecError(f"There is no option '{name}' here; {hint}")
    check_callbacks(given.get("callbacks", ()))


def check_callbacks(callbacks: Iterable[Any]) -> None:
    """Refuse what isn't a callback before anything runs.

    Raises:
        SpecError: one isn't.
    """
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise SpecError(
                f"A callback is of type {type(callback).__name__}; derive its class from "
                "visiondyno.Callback."
            )
