"""What a trial's job is asked, what it tells, and what a study takes of it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from coroutines import run
from operation_cases import TRAIN

from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import (
    Diverged,
    OperationFailed,
    SpecError,
    TimeLimitExceeded,
    Unavailable,
    VisionDynoError,
)
from visiondyno.executors.cost import Cost
from visiondyno.executors.inline import InlineExecutor
from visiondyno.job import JobEvent, JobState
from visiondyno.operations.context import OperationContext
from visiondyno.probes.cost import Price
from visiondyno.tuning.body import Body, JobBody, Pruned, Result
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.trial import Failure, TrialRecord

pytestmark = pytest.mark.torch

TRIAL = TrialRecord(7, seed=5, params={"learning_rate": 0.1})
Json = dict[str, Any]
Operation = Callable[[Json, OperationContext], Json]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's home of this test's own."""
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))


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


# ---- what is taken of it


def test_values_come_from_the_output_and_are_numbers() -> None:
    result = tried(
        body_of("val_accuracy", "val_loss"), Heard(), scripted(GOOD, BETTER, notes=["n"])
    )
    assert result.values == (0.8, 0.6)
    assert result.measured["notes"] == ["n"]
    own = body_of("mine:maximize", values_of=lambda output: [output["score"]])
    result = tried(own, Heard(), InlineExecutor(lambda job, context: {"score": 3}))
    assert result.values == (3.0,)
    assert result.measured == {}


def test_an_epoch_without_one_of_the_objectives_is_no_report() -> None:
    heard = Heard()
    without = {"train_metrics": {"loss": 0.5}}
    result = tried(
        body_of("train_loss", "val_loss"), heard, scripted(without, GOOD, without, BETTER)
    )
    assert heard.reports == [(2, (0.5, 0.7)), (4, (0.4, 0.6))]
    assert result.values == (0.4, 0.6)


def test_energy_counts_from_the_first_epoch_on() -> None:
    heard = Heard()
    place = scripted(GOOD, BETTER, measurements={"energy_joules": JOULES})
    result = tried(body_of("val_loss", "energy_joules"), heard, place)
    assert heard.reports == [(1, (0.7, 0.5)), (2, (0.6, 0.5))]
    assert result.values == (0.6, 0.5)
    assert result.measured["measurements"] == {"energy_joules": JOULES}


def test_an_estimate_is_refused_before_the_first_epoch_unless_it_is_allowed() -> None:
    estimate = {"energy_joules": JOULES | {"estimated": True}}
    heard = Heard()
    body = body_of("val_loss", "energy_joules")
    with pytest.raises(Unavailable, match=r"estimate on this worker.*--allow-estimated"):
        tried(body, heard, scripted(GOOD, measurements=estimate))
    assert heard.reports == []
    assert body.result_so_far(7).measured == {"measurements": estimate}
    allowed = body_of("val_loss", "energy_joules", allow_estimated=True)
    assert tried(allowed, heard, scripted(GOOD, measurements=estimate)).values == (0.7, 0.5)
    # Nobody optimises it: it may be what it is.
    other = tried(body_of("val_loss"), Heard(), scripted(GOOD, measurements=estimate))
    assert other.measured["measurements"] == estimate


@pytest.mark.parametrize("own_values", [False, True], ids=["of train", "own"])
def test_an_estimate_is_refused_in_the_output_too(own_values: bool) -> None:
    estimate = {"energy_joules": JOULES | {"estimated": True}}
    options: Json = {"values_of": lambda output: (1.0, 2.0)} if own_values else {}
    place = InlineExecutor(lambda job, context: {"history": [], "measurements": estimate})
    with pytest.raises(Unavailable):
        tried(body_of("val_loss", "energy_joules", **options), Heard(), place)


def test_what_could_not_be_measured_is_told_with_the_reason() -> None:
    nothing = {"latency_ms": {"value": None, "reason": "the memory is full."}}
    with pytest.raises(OperationFailed, match=r"'latency_ms': the memory is full. Leave") as caught:
        tried(body_of("latency_ms"), Heard(), scripted(GOOD, measurements=nothing))
    assert caught.value.stage == "measure"
    with pytest.raises(OperationFailed, match=r"'parameters': its answer holds none. Leave"):
        tried(body_of("parameters"), Heard(), scripted(GOOD))


def test_events_that_were_lost_are_made_up_for_by_the_output() -> None:
    history = [{"epoch": 1, **GOOD}, {"epoch": 2, **BETTER}]
    place = InlineExecutor(lambda job, context: {"history": history})
    result = tried(body_of("val_loss"), Heard(), place)
    assert [one["val_loss"] for one in result.measured["health"]] == [0.7, 0.6]
    assert result.measured["last_epoch"] == history[-1]


class Priced(InlineExecutor):
    """A place that costs, or can't say what."""

    def __init__(self, price: Price | None, run: Operation) -> None:
        super().__init__(run)
        self._price = price

    def cost_of(self, job_id: str) -> Cost | None:
        if self._price is None:
            raise SpecError("By which price isn't known; give --gpu.")
        return Cost(2, 9, self._price)


@pytest.mark.parametrize("fails", [False, True], ids=["completed", "failed"])
def test_the_cost_is_kept_however_the_trial_ends(fails: bool) -> None:
    def operation(job_input: Json, context: OperationContext) -> Json:
        if fails:
            raise OperationFailed("It broke.")
        return {"history": [{"epoch": 1, **GOOD}]}

    price = Price(0.36, None, "a test")
    for known in (price, None):
        body = body_of("val_loss")
        try:
            tried(body, Heard(), Priced(known, operation))
        except VisionDynoError:
            assert fails
        expected = Cost(2, 9, price).to_json() if known else None
        assert body.result_so_far(7).cost == expected


def test_a_trial_that_never_reached_its_place_has_no_cost() -> None:
    class Away(InlineExecutor):
        async def submit(self, *_: Any, **__: Any) -> str:
            raise OperationFailed("It is away.")

    body = body_of("val_loss")
    with pytest.raises(OperationFailed, match="It is away"):
        tried(body, Heard(), Away(epochs(GOOD)))
    assert body.result_so_far(7) == Result()
    assert body.result_so_far(99) == Result()


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
