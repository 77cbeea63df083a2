"""What a trial does on its lane."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import NotFound, OperationFailed, SpecError
from visiondyno.job import JobEvent
from visiondyno.tuning.objectives import MEASURED, Objective
from visiondyno.tuning.trial import Json, TrialRecord


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

    def started(self, job_id: str) -> None:
        """A worker has it."""

    def event(self, event: JobEvent) -> None:
        """Its job said something."""

    def report(self, step: int, values: Sequence[float]) -> str | None:
        """Values of the objectives so far; why it should stop, or None."""


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


class JobBody(Body):
    """One job a trial, most of all a `train`.

    Args:
        objectives: of the study.
        job_of: the job's input for a trial.
        values_of: the objectives' values in an output; None: those of `train`.
        time_limit_s: a job that runs for longer is killed where it runs; None: the place's own.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        job_of: Callable[[TrialRecord], Json],
        *,
        values_of: Callable[[Json], Sequence[float]] | None = None,
        time_limit_s: float | None = None,
    ) -> None:
        self._objectives = tuple(objectives)
        self._job_of = job_of
        self._values_of = values_of or self._values_of_training
        self._policy: Json | None = None
        if time_limit_s is not None:
            self._policy = {"executionTimeout": max(1, round(time_limit_s * 1000))}
        self._so_far: dict[int, Result] = {}
        self._measured: dict[int, Json] = {}

    async def run(self, record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        result = self._so_far[record.number] = Result()
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
            self._take_report(record.number, event, told)

        try:
            output = await client.run(self._job_of(record), policy=self._policy, on_event=on_event)
        finally:
            result.cost = _cost(client, result.job_id)
            self._measured.pop(record.number, None)
        result.values = tuple(float(value) for value in self._values_of(output))
        result.measured = {
            name: output[name]
            for name in ("history", "measurements", "environment", "device", "torch", "notes")
            if name in output
        }
        if "history" in output:
            result.measured["last_epoch"] = result.measured.pop("history")[-1]
        return result

    def result_so_far(self, number: int) -> Result:
        return self._so_far.get(number, Result())

    def _take_report(self, number: int, event: JobEvent, told: Told) -> None:
        """An epoch's metrics as a report; measurements come before the first epoch."""
        said = event.progress or {}
        if said.get("stage") == "measured":
            self._measured[number] = said.get("measurements", {})
        if said.get("stage") != "epoch":
            return
        values = self._reported(said, self._measured.get(number, {}))
        if values is None:
            return
        why = told.report(int(said["epoch"]), values)
        if why is not None:
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
        last = output["history"][-1]
        values = self._reported(last, output.get("measurements", {}))
        if values is not None:
            return values
        missing = next(
            objective
            for objective in self._objectives
            if (last.get(objective.part, {}).get(objective.metric) is None)
            and (output.get("measurements", {}).get(objective.name, {}).get("value") is None)
        )
        if missing.name in MEASURED:
            reason = output.get("measurements", {}).get(missing.name, {}).get("reason")
            raise OperationFailed(
                f"The worker couldn't measure '{missing.name}'{f': {reason}' if reason else ''}. "
                "Leave this objective out, or let the study run where it can be measured."
            )
        known = sorted(
            f"{part.removesuffix('_metrics')}_{name}"
            for part in ("val_metrics", "train_metrics")
            for name in last.get(part, {})
        )
        raise SpecError(
            f"The training gives no '{missing.name}'; as an objective take one of "
            f"{', '.join(known)}."
        )


def _cost(client: AsyncClient, job_id: str | None) -> Json | None:
    if job_id is None:
        return None
    try:
        cost = client.cost_of(job_id)
    except (SpecError, NotFound):
        return None
    return None if cost is None else cost.to_json()
