"""What a trial's job is asked, what it tells, and how it ends."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from body_cases import (
    BETTER,
    GOOD,
    TRIAL,
    Heard,
    Json,
    body_of,
    ended_as,
    scripted,
    train_of,
    tried,
)
from coroutines import run
from operation_cases import TRAIN

from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import Diverged, SpecError, TimeLimitExceeded
from visiondyno.executors.inline import InlineExecutor
from visiondyno.job import JobState
from visiondyno.operations.context import OperationContext
from visiondyno.tuning.body import Body, Pruned, Result
from visiondyno.tuning.trial import Failure, TrialRecord

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's home of this test's own."""
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))


# ---- a real training


def test_a_training_reports_each_epoch_with_all_objectives() -> None:
    heard = Heard()
    body = body_of("val_accuracy", "train_loss", "latency_ms", "parameters")
    result = tried(body, heard)
    measured = result.measured
    latency, count = (measured["measurements"][n]["value"] for n in ("latency_ms", "parameters"))
    assert latency > 0
    assert count == 4 * 8 + 8 + 16 + 8 * 3 + 3
    assert [step for step, _ in heard.reports] == [1, 2, 3, 4]
    assert all(values[2:] == (latency, count) for _, values in heard.reports)
    assert heard.reports[-1][1] == result.values
    last = measured["last_epoch"]
    assert result.values[:2] == (last["val_metrics"]["accuracy"], last["train_metrics"]["loss"])
    assert [one["epoch"] for one in measured["health"]] == [1, 2, 3, 4]
    assert measured["health"][-1] == {
        "epoch": 4,
        "train_loss": last["train_metrics"]["loss"],
        "val_loss": last["val_metrics"]["loss"],
        **last["health"],
    }
    assert last["health"]["gradient_norm_max"] > 0
    assert measured["device"] == "cpu"
    assert measured["threads"] == 1
    assert heard.jobs == [result.job_id]
    assert result.worker_id == "inline"
    assert (result.delay_ms or 0) >= 0
    assert (result.execution_ms or 0) > 0
    assert result.cost is None
    assert heard.events[-1].state is JobState.COMPLETED
    assert body.result_so_far(7) is result


def test_a_trial_that_is_stopped_in_mid_run_ends_its_job_and_keeps_what_it_told() -> None:
    heard = Heard(stop_at=2)
    body = body_of("val_loss", job_of=lambda trial: train_of(trial) | {"epochs": 50_000})

    async def scenario() -> JobState:
        async with AsyncClient("inline") as client:
            with pytest.raises(Pruned, match="worse than the others"):
                await body.run(TRIAL, client, heard)
            return await ended_as(client, heard.jobs[0])

    assert run(scenario()) is JobState.CANCELLED
    assert [step for step, _ in heard.reports] == [1, 2]
    so_far = body.result_so_far(7)
    assert so_far.values == ()
    assert so_far.job_id == heard.jobs[0]
    assert [one["epoch"] for one in so_far.measured["health"]] == [1, 2]
    assert so_far.measured["last_epoch"]["epoch"] == 2


def diverging(batch_size: int) -> Json:
    hyper = {"optimizer": "sgd", "learning_rate": 1e30, "batch_size": batch_size}
    return TRAIN | {"hyperparameters": hyper}


def test_a_trial_isnt_stopped_after_its_last_epoch() -> None:
    heard = Heard(stop_at=2)
    result = tried(body_of("val_accuracy"), heard, scripted(GOOD, BETTER))
    assert [step for step, _ in heard.reports] == [1, 2]
    assert result.values == (0.8,), "it has cost what it costs, and has its value"


def test_trainings_that_diverge_at_different_places_fail_by_one_cause() -> None:
    failures = []
    for batch_size in (8, 16):
        body = body_of("val_loss", job_of=lambda _, size=batch_size: diverging(size))
        with pytest.raises(Diverged) as caught:
            tried(body, Heard())
        failures.append(Failure(caught.value.code, caught.value.message, "inline"))
    one, other = failures
    assert one.message != other.message
    assert one.cause == other.cause
    assert one.cause.startswith("diverged: In epoch # batch #")


def test_a_metric_that_training_does_not_give_is_named_with_those_it_gives() -> None:
    heard = Heard()
    with pytest.raises(SpecError, match=r"gives no 'val_rmse'.* val_accuracy, val_loss"):
        tried(body_of("val_rmse"), heard)
    assert heard.reports == []


def test_a_metric_that_training_does_not_give_is_told_after_one_epoch() -> None:
    heard, said = Heard(), []

    def operation(job_input: Json, context: OperationContext) -> Json:
        for number in range(1, 1000):
            said.append(number)
            context.progress("epoch", epoch=number, **GOOD, epochs=999)
            time.sleep(0.01)
        return {"history": []}

    with pytest.raises(SpecError, match=r"gives no 'val_rmse'.* val_accuracy, val_loss"):
        tried(body_of("val_rmse"), heard, InlineExecutor(operation))
    assert len(said) < 999


def test_what_no_training_gives_is_refused_before_the_first_job() -> None:
    with pytest.raises(SpecError, match=r"'accuracy'\. Did you mean 'val_accuracy'\?"):
        body_of("accuracy")
    with pytest.raises(SpecError, match=r"'latency'\. Did you mean 'latency_ms'\?"):
        body_of("latency:minimize")
    with pytest.raises(SpecError, match=r"No training gives 'mine'\. There are val_accuracy, "):
        body_of("mine:minimize")
    body_of("mine:minimize", values_of=lambda output: (1.0,))


# ---- what is asked


def test_a_training_is_asked_for_what_the_objectives_need() -> None:
    def asked(job: Json, *names: str) -> Json:
        body = body_of(*names, job_of=lambda _: job, values_of=lambda output: (1.0,))
        seen: list[Json] = []

        def operation(job_input: Json, context: OperationContext) -> Json:
            seen.append(job_input)
            return {}

        tried(body, Heard(), InlineExecutor(operation))
        return seen[0]

    job = {"operation": "train", "epochs": 2}
    assert asked(job, "val_accuracy") == job | {"health": True}
    assert asked(job, "val_accuracy", "energy_joules", "latency_ms") == job | {
        "health": True,
        "measure": ["energy_joules", "latency_ms"],
    }
    own = job | {"health": False, "measure": ["parameters", "latency_ms"]}
    assert asked(own, "latency_ms", "throughput_images_per_s") == own | {
        "measure": ["parameters", "latency_ms", "throughput_images_per_s"]
    }
    assert asked({"operation": "echo"}, "latency_ms") == {"operation": "echo"}


def test_the_time_limit_goes_with_the_job() -> None:
    def endless(job_input: Json, context: OperationContext) -> Json:
        while True:
            context.check()

    body = body_of("val_loss", time_limit_s=0.02)
    with pytest.raises(TimeLimitExceeded):
        tried(body, Heard(), InlineExecutor(endless))
    assert body.result_so_far(7).job_id is not None


# ---- how it ends


def test_a_study_that_is_stopped_cancels_the_job() -> None:
    def until_stopped(job_input: Json, context: OperationContext) -> Json:
        context.progress("epoch", epoch=1, **GOOD)
        while True:
            context.check()

    class Waiting(Heard):
        def __init__(self) -> None:
            super().__init__()
            self.reported = asyncio.Event()

        def report(self, step: int, values: Sequence[float]) -> str | None:
            self.reported.set()
            return super().report(step, values)

    async def scenario() -> JobState:
        heard, body = Waiting(), body_of("val_loss")
        async with AsyncClient(InlineExecutor(until_stopped)) as client:
            trial = asyncio.create_task(body.run(TRIAL, client, heard))
            await heard.reported.wait()
            trial.cancel()
            with pytest.raises(asyncio.CancelledError):
                await trial
            return await ended_as(client, heard.jobs[0])

    assert run(scenario()) is JobState.CANCELLED


def test_a_body_without_results_of_its_own_knows_nothing() -> None:
    class Plain(Body):
        async def run(self, record: TrialRecord, client: Any, told: Any) -> Result:
            return Result((1.0,))

    assert Plain().result_so_far(0) == Result()
    assert tried(Plain(), Heard()).values == (1.0,)
