"""Bodies of trials, the jobs they run in this process, and everything they tell."""

from collections.abc import Callable, Sequence
from typing import Any

from coroutines import run
from operation_cases import TRAIN

from visiondyno.client.async_client import AsyncClient
from visiondyno.executors.inline import InlineExecutor
from visiondyno.job import JobEvent, JobState
from visiondyno.operations.context import OperationContext
from visiondyno.tuning.body import Body, JobBody, Result
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.trial import TrialRecord

TRIAL = TrialRecord(7, seed=5, params={"learning_rate": 0.1})
Json = dict[str, Any]
Operation = Callable[[Json, OperationContext], Json]


class Heard:
    """Everything that a trial told; stops it at `stop_at`."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.jobs: list[str] = []
        self.events: list[JobEvent] = []
        self.reports: list[tuple[int, tuple[float, ...]]] = []
        self._stop_at = stop_at

    def started(self, job_id: str) -> None:
        self.jobs.append(job_id)

    def event(self, event: JobEvent) -> None:
        self.events.append(event)

    def report(self, step: int, values: Sequence[float]) -> str | None:
        self.reports.append((step, tuple(values)))
        return "It is worse than the others." if step == self._stop_at else None


def train_of(trial: TrialRecord) -> Json:
    hyper = TRAIN["hyperparameters"] | dict(trial.params)
    return TRAIN | {"hyperparameters": hyper, "seed": trial.seed, "measure_seconds": 0.1}


def body_of(
    *names: str, job_of: Callable[[TrialRecord], Json] = train_of, **options: Any
) -> JobBody:
    return JobBody(parse_objectives(names), job_of, **options)


def tried(body: Body, heard: Heard, where: Any = "inline", trial: TrialRecord = TRIAL) -> Result:
    async def scenario() -> Result:
        async with AsyncClient(where) as client:
            return await body.run(trial, client, heard)

    result: Result = run(scenario())
    return result


def epochs(*metrics: Json, measurements: Json | None = None, **output: Any) -> Operation:
    """An operation that tells these epochs and answers with them."""

    def operation(job_input: Json, context: OperationContext) -> Json:
        if measurements is not None:
            context.progress("measured", measurements=measurements, beside_other_load=False)
            output["measurements"] = measurements
        history = []
        for number, found in enumerate(metrics, start=1):
            history.append({"epoch": number, **found})
            context.progress("epoch", **history[-1], epochs=len(metrics))
        return {"history": history, "asked": job_input, **output}

    return operation


def scripted(*metrics: Json, **rest: Any) -> InlineExecutor:
    return InlineExecutor(epochs(*metrics, **rest))


GOOD = {"train_metrics": {"loss": 0.5}, "val_metrics": {"loss": 0.7, "accuracy": 0.75}}
BETTER = {"train_metrics": {"loss": 0.4}, "val_metrics": {"loss": 0.6, "accuracy": 0.8}}
JOULES = {"value": 0.5, "unit": "J/image", "estimated": False, "reason": None}


async def ended_as(client: AsyncClient, job_id: str) -> JobState:
    return [event async for event in client.watch(job_id)][-1].state
