"""What a trial does on its lane."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import NotFound, OperationFailed, SpecError, Unavailable, VisionDynoError
from visiondyno.job import JobEvent
from visiondyno.tuning.objectives import MEASURABLE, Objective, check_of_trainings
from visiondyno.tuning.trial import Json, TrialRecord

if TYPE_CHECKING:
    import optuna

MAX_HEALTH_EPOCHS = 1000


class Pruned(Exception):
    """The trial promises nothing: it was stopped; the text says why."""


@dataclass(slots=True)
class Result:
    """What a trial came to.

    Attributes:
        values: of the objectives, in their order.
        measured: what else there is to know; see `TrialRecord.measured`.
        job_id, worker_id, delay_ms, execution_ms, cost: of its job; see `TrialRecord`.
    """

    values: tuple[float, ...] = ()
    measured: Json = field(default_factory=dict)
    job_id: str | None = None
    worker_id: str | None = None
    delay_ms: int | None = None
    execution_ms: int | None = None
    cost: Json | None = None


class Told(Protocol):
    """What a running trial tells of."""

    def started(self, job_id: str | None) -> None:
        """A worker has it; None: it has begun, and which jobs it will have isn't known."""

    def suggest(self, name: str, draw: Callable[["optuna.Trial"], Any]) -> Any:
        """A parameter that the trial asks for while it runs; see `Book.suggest`. In any thread."""

    def event(self, event: JobEvent) -> None:
        """Its job said something."""

    def report(self, step: int, values: Sequence[float]) -> str | None:
        """Values of the objectives so far; why it should stop, or None. In any thread."""


class Body(ABC):
    """What a trial does on its lane; one instance serves all trials of a study."""

    @abstractmethod
    async def run(self, record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        """Run one trial to its end. Cancelling this ends what it started.

        Raises:
            Pruned: it was stopped because it promises nothing.
            VisionDynoError: it failed.
        """

    def result_so_far(self, number: int) -> Result:  # noqa: ARG002 - of those that have one
        """What is known of a trial that was stopped or failed."""
        return Result()


class TrainingCurve:
    """How a training went, epoch by epoch, in a bounded list.

    Of a training longer than `most` epochs every second is kept, then every fourth, and so on, and
    always the first and the last: the curve stays whole.
    """

    def __init__(self, most: int = MAX_HEALTH_EPOCHS) -> None:
        """`most` is 2 or more."""
        self._most = max(2, most)
        self._stride = 1
        self._kept: list[Json] = []
        self._last: Json | None = None
        self._epoch = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Take an epoch's record; one that isn't later than the last was told again, and is left.

        Args:
            record: `epoch`, `train_metrics`, and maybe `val_metrics` and `health`.
        """
        epoch = int(record["epoch"])
        if epoch <= self._epoch:
            return
        self._epoch = epoch
        losses = {
            f"{part}_loss": record[f"{part}_metrics"]["loss"]
            for part in ("train", "val")
            if "loss" in record.get(f"{part}_metrics", {})
        }
        self._last = {"epoch": epoch, **losses, **record.get("health", {})}
        if (epoch - 1) % self._stride == 0:
            self._kept.append(self._last)
        while len(self._kept) >= self._most:
            self._stride *= 2
            self._kept = [one for one in self._kept if (one["epoch"] - 1) % self._stride == 0]

    def to_json(self) -> list[Json]:
        """`{"epoch", "train_loss", "val_loss", "gradient_norm_mean", …}` of each, in order."""
        if self._last is None or (self._kept and self._kept[-1] is self._last):
            return list(self._kept)
        return [*self._kept, self._last]


class JobBody(Body):
    """One job a trial, most of all a `train`.

    A `train` is asked to measure what the objectives need, and how its gradients behave.

    Args:
        objectives: of the study.
        job_of: the job's input for a trial.
        values_of: the objectives' values in an output; None: those of `train`.
        time_limit_s: a job that runs for longer is killed where it runs; None: the place's own.
        allow_estimated: whether an estimated energy may be an objective.

    Raises:
        SpecError: an objective is nothing that a training gives.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        job_of: Callable[[TrialRecord], Json],
        *,
        values_of: Callable[[Json], Sequence[float]] | None = None,
        time_limit_s: float | None = None,
        allow_estimated: bool = False,
    ) -> None:
        self._objectives = tuple(objectives)
        self._job_of = job_of
        if values_of is None:
            check_of_trainings(self._objectives)
        self._is_of_training = values_of is None
        self._values_of = values_of or self._values_of_training
        self._policy: Json | None = None
        if time_limit_s is not None:
            self._policy = {"executionTimeout": max(1, round(time_limit_s * 1000))}
        self._allow_estimated = allow_estimated
        self._so_far: dict[int, Result] = {}

    async def run(self, record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        result = self._so_far[record.number] = Result()
        curve = TrainingCurve()
        has_started = False

        def on_event(event: JobEvent) -> None:
            nonlocal has_started
            result.job_id = event.job_id
            if event.state == "IN_PROGRESS" and not has_started:
                has_started = True
                told.started(event.job_id)
            told.event(event)
            if event.answer is not None:
                result.worker_id = event.answer.worker_id
                result.delay_ms = event.answer.delay_time_ms
                result.execution_ms = event.answer.execution_time_ms
            with _of_this_version():
                self._take(event.progress or {}, result.measured, curve, told)

        job = self._asking_for_all(self._job_of(record))
        try:
            output = await client.run(job, policy=self._policy, on_event=on_event)
        finally:
            result.cost = _cost(client, result.job_id)
        with _of_this_version():
            self._take_output(output, result, curve)
        return result

    def _take_output(self, output: Json, result: Result, curve: TrainingCurve) -> None:
        for epoch in output.get("history", ()):
            _note_epoch(epoch, result.measured, curve)  # of which no event may have come
        kept = ("measurements", "environment", "device", "threads", "torch", "notes")
        result.measured |= {name: output[name] for name in kept if name in output}
        if "measurements" in output:
            for objective in self._objectives:
                self._check_measurement(objective, output["measurements"])
        result.values = tuple(float(value) for value in self._values_of(output))

    def result_so_far(self, number: int) -> Result:
        return self._so_far.get(number, Result())

    def _asking_for_all(self, job: Json) -> Json:
        if job.get("operation") != "train":
            return job
        wanted = [one.name for one in self._objectives if one.name in MEASURABLE]
        measure = [*dict.fromkeys([*job.get("measure", ()), *wanted])]
        return {"health": True, **job, **({"measure": measure} if measure else {})}

    def _take(self, said: Json, measured: Json, curve: TrainingCurve, told: Told) -> None:
        """An epoch's metrics as a report; measurements come before the first epoch."""
        if said.get("stage") == "measured":
            measured["measurements"] = said["measurements"]
            for objective in self._objectives:
                self._check_measurement(objective, said["measurements"])
        if said.get("stage") != "epoch":
            return
        _note_epoch(said, measured, curve)
        if self._is_of_training:  # the other epochs would cost the same and not give it either
            for objective in self._objectives:
                if objective.part and said.get(objective.part):
                    _check_metric(objective, said)
        values = self._reported(said, measured.get("measurements", {}))
        if values is None:
            return
        why = told.report(int(said["epoch"]), values)
        if why is not None and said["epoch"] != said.get("epochs"):  # after the last it is done
            raise Pruned(why)

    def _reported(self, epoch: Json, measurements: Json) -> tuple[float, ...] | None:
        """The objectives as they stand after an epoch; None where one of them isn't known."""
        values = []
        for objective in self._objectives:
            if objective.part is not None:
                value = epoch.get(objective.part, {}).get(objective.metric)
            else:
                value = measurements.get(objective.name, {}).get("value")
            if value is None:
                return None
            values.append(float(value))
        return tuple(values)

    def _values_of_training(self, output: Json) -> Sequence[float]:
        last, measurements = output["history"][-1], output.get("measurements", {})
        for objective in self._objectives:
            self._check_measurement(objective, measurements)
            if objective.name not in MEASURABLE:
                _check_metric(objective, last)
        values = self._reported(last, measurements)
        assert values is not None
        return values

    def _check_measurement(self, objective: Objective, measurements: Json) -> None:
        """Refuse, before the training has cost anything, what can't be an objective.

        Raises:
            OperationFailed: it wasn't measured.
            Unavailable: it is an estimate, and that isn't allowed.
        """
        if objective.name not in MEASURABLE:
            return
        found = measurements.get(objective.name, {})
        if found.get("value") is None:
            reason = str(found.get("reason") or "its answer holds none").rstrip(".")
            raise OperationFailed(
                f"The worker couldn't measure '{objective.name}': {reason}. Leave this objective "
                "out, or let the study run where it can be measured.",
                stage="measure",
            )
        if found.get("estimated") and not self._allow_estimated:
            raise Unavailable(
                f"'{objective.name}' would be an estimate on this worker, not a measurement: it "
                "mostly restates processor time. Let the study run where energy is counted "
                "('dyno doctor' tells), or take the estimate with --allow-estimated."
            )


@contextmanager
def _of_this_version() -> Iterator[None]:
    """What a worker of another version says fails its trial, and not the study."""
    try:
        yield
    except VisionDynoError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise OperationFailed(
            "The worker's answer isn't that of a training of this version "
            f"({type(error).__name__}: {error}); give its image the version of this client."
        ) from error


def _note_epoch(epoch: Json, measured: Json, curve: TrainingCurve) -> None:
    curve.add(epoch)
    measured["health"] = curve.to_json()
    measured["last_epoch"] = {
        name: epoch[name]
        for name in ("epoch", "train_metrics", "val_metrics", "health")
        if name in epoch
    }


def _check_metric(objective: Objective, epoch: Json) -> None:
    if objective.part and epoch.get(objective.part, {}).get(objective.metric) is not None:
        return
    known = sorted(
        f"{part.removesuffix('_metrics')}_{name}"
        for part in ("val_metrics", "train_metrics")
        for name in epoch.get(part, {})
    )
    raise SpecError(
        f"The training gives no '{objective.name}'; as an objective take one of "
        f"{', '.join([*known, *sorted(MEASURABLE)])}."
    )


def _cost(client: AsyncClient, job_id: str | None) -> Json | None:
    if job_id is None:
        return None
    try:
        cost = client.cost_of(job_id)
    except (SpecError, NotFound):
        return None
    return None if cost is None else cost.to_json()
