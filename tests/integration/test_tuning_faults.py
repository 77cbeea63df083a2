"""Studies on endpoints that are dead, busy, killing, locked, too dear or all down: all add up."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import visiondyno
from counted_operations import FOLDER_VARIABLE
from emulated_endpoint import KEY, an_emulator, client
from faulty_endpoint import COUNTED_WORKER, FaultyEndpoint, faulty_endpoint, work, worker_environ
from services import free_port
from visiondyno import places
from visiondyno.emulator.config import EndpointConfig
from visiondyno.emulator.emulator import Emulator
from visiondyno.emulator.serve import RunningEmulator
from visiondyno.executors.breaker import BreakerState
from visiondyno.tuning.function_trial import FunctionTrial
from visiondyno.tuning.lanes import LaneReading
from visiondyno.tuning.progress import AggregatedProgress
from visiondyno.tuning.study import StudyResult
from visiondyno.tuning.trial import State
from visiondyno.wiring import make_queue_executor

pytest.importorskip("runpod")
pytest.importorskip("optuna")
pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {"workers_max": 2, "idle_timeout_s": 30.0}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))


def seconds_of_work(trial: FunctionTrial) -> float:
    """A job of about one second; its name is the trial's number."""
    x = trial.suggest_float("x", 0.0, 1.0)
    trial.client.run(work(f"trial {trial.number}", steps=10, step_s=0.1))
    return (x - 0.3) ** 2


@contextmanager
def over_and_over(act: Any, every_s: float) -> Iterator[list[Any]]:
    """Do this again and again on a thread; what it gave."""
    ended = threading.Event()
    given: list[Any] = []

    def loop() -> None:
        while not ended.wait(every_s):
            try:
                given.append(act())
            except Exception as error:
                given.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield given
    finally:
        ended.set()
        thread.join()


def refuse_every_second(endpoint: FaultyEndpoint) -> None:
    """Answer 429 to the next submission, once the one before was taken."""
    taken, refused = endpoint.asked("run", 200), endpoint.asked("run", 429)
    if not endpoint.armed() and taken >= refused:
        endpoint.arm("status", status=429, operation="run", retry_after_s=0.2)


def disarm(endpoint: FaultyEndpoint) -> None:
    with client(endpoint.running) as http:
        http.delete(f"{endpoint.running.base_url}/emulator/faults")


def adds_up(result: StudyResult, trials: int) -> None:
    """Every trial once, told once, each attempt accounted for."""
    assert [record.number for record in result.trials] == list(range(trials))
    for record in result.trials:
        ends_well = record.state in (State.COMPLETED, State.PRUNED)
        assert record.attempts == len(record.failures) + ends_well, record
        assert record.duration_s is not None
        assert record.duration_s >= 0
    failed_attempts = Counter(f.where for record in result.trials for f in record.failures)
    for lane in result.lanes:
        assert lane.running == 0
        assert sum(lane.failures.values()) == failed_attempts[lane.name]
    counts = Counter(record.state for record in result.trials)
    assert counts.total() == trials


def lane_of(result: StudyResult, name: str) -> LaneReading:
    (found,) = [lane for lane in result.lanes if lane.name.endswith(name)]
    return found


def dead_url() -> str:
    return f"http://127.0.0.1:{free_port()}/v2/dead"


def test_of_four_endpoints_one_is_dead_one_busy_one_deadly_and_the_study_adds_up(
    tmp_path: Path,
) -> None:
    trials = 28
    dead = dead_url()
    told: list[AggregatedProgress] = []
    with ExitStack() as stack:
        busy, deadly, well = (
            stack.enter_context(faulty_endpoint(tmp_path / name, endpoint_id=name, **QUICK))
            for name in ("busy", "deadly", "well")
        )
        refusals = stack.enter_context(over_and_over(lambda: refuse_every_second(busy), 0.05))
        kills = stack.enter_context(over_and_over(lambda: deadly.arm("kill_worker"), 6.0))
        result = visiondyno.tune(
            seconds_of_work,
            objectives="loss",
            trials=trials,
            workers=6,
            on="runpod",
            endpoint=",".join([dead, busy.url, deadly.url, well.url]),
            api_key=KEY,
            gpu="A4000",
            callbacks=[told.append],
        )
        refused = busy.asked("run", 429)
        for endpoint in (busy, deadly, well):
            assert endpoint.open_jobs() == 0, "no job is left behind"
    assert result.stopped is None
    adds_up(result, trials)
    assert {record.state for record in result.trials} == {State.COMPLETED}
    assert None in refusals
    assert sum(kill for kill in kills if isinstance(kill, int)) >= 1, "workers were killed"
    assert refused >= 3, "and requests refused"
    again = [record for record in result.trials if record.failures]
    assert again, "trials were given to the dead endpoint"
    assert not [record for record in result.trials if record.lane == dead], "and to others then"
    reading = lane_of(result, "/v2/dead")
    assert reading.breaker is not None
    assert reading.breaker.state is BreakerState.OPEN
    assert reading.breaker.reason is not None
    assert "No server answers" in reading.breaker.reason
    assert reading.completed == 0
    assert all(lane_of(result, name).completed > 0 for name in ("busy", "deadly", "well"))
    assert result.cost is not None
    assert result.cost["usd_at_least"] > 0
    assert told[-1].is_over
    assert told[-1].completed_trials == trials
    assert told[-1].requests.retries == len([f for r in again for f in r.failures])
    assert [progress.sequence for progress in told] == list(range(1, len(told) + 1))


@pytest.fixture
def counted_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Local workers run the same operations; the folder of their runs' notes."""
    runs = tmp_path / "runs"
    runs.mkdir()
    for name, value in worker_environ(tmp_path, "here").items():
        if name in (FOLDER_VARIABLE, "PYTHONPATH"):
            monkeypatch.setenv(name, value)
    counted = partial(make_queue_executor, entry="counted_operations:run")
    monkeypatch.setattr(places, "make_queue_executor", counted)
    return runs


@contextmanager
def late_endpoint(folder: Path, port: int) -> Iterator[FaultyEndpoint]:
    """One that begins to listen on a port that clients know already."""
    environ = worker_environ(folder, "late")
    (folder / "runs").mkdir(parents=True)
    config = EndpointConfig(endpoint_id="late", **QUICK)

    def make() -> Emulator:
        return Emulator(config, COUNTED_WORKER, log_folder=folder, environ=environ, api_key=KEY)

    with RunningEmulator(make, port) as running:
        yield FaultyEndpoint(running, folder / "runs", "late")


def test_local_workers_take_over_while_every_endpoint_is_down_and_give_back(
    tmp_path: Path, counted_here: Path
) -> None:
    def until_given_back(trial: FunctionTrial) -> float:
        if trial.number >= 5 and not (began and began[0].asked("run")):
            time.sleep(2.0)  # until the endpoint is tried again
        return seconds_of_work(trial)

    def begin_endpoint(progress: AggregatedProgress) -> None:
        if progress.completed_trials >= 3 and not began:
            began.append(stack.enter_context(late_endpoint(tmp_path / "late", port)))

    began: list[FaultyEndpoint] = []
    port, dead = free_port(), dead_url()
    late = f"http://127.0.0.1:{port}/v2/late"
    with ExitStack() as stack:
        result = visiondyno.tune(
            until_given_back,
            objectives="loss",
            trials=24,
            workers=2,
            on="runpod",
            endpoint=f"{dead},{late}",
            api_key=KEY,
            fallback="local",
            callbacks=[begin_endpoint],
        )
        assert began[0].open_jobs() == 0
    assert result.stopped is None
    adds_up(result, 24)
    lanes = Counter(record.lane for record in result.trials)
    assert lanes["local (fallback)"] == len(list(counted_here.iterdir())) >= 3
    assert lanes[late] >= 1, "it gave back"
    assert lanes[dead] == 0


def test_a_study_that_has_spent_its_limit_ends_and_goes_on_with_more(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "objectives": "loss",
        "on": "runpod",
        "api_key": KEY,
        "gpu": "A4000",
        "workers": 2,
        "out": tmp_path / "out",
    }
    with faulty_endpoint(tmp_path / "endpoint", **QUICK) as endpoint:
        given["endpoint"] = endpoint.url
        first = visiondyno.tune(
            seconds_of_work, trials=9, trial_timeout_s=12, max_cost_usd=0.005, **given
        )
        assert endpoint.open_jobs() == 0
        assert first.stopped is not None
        assert "limit" in first.stopped
        ended = [record for record in first.trials if record.state.has_ended]
        assert {record.state for record in ended} <= {State.COMPLETED}
        assert len(ended) < 9
        assert first.cost is not None
        assert first.cost["usd_at_least"] <= 0.005
        second = visiondyno.tune(
            seconds_of_work, resume=True, trial_timeout_s=60, max_cost_usd=1.0, **given
        )
        assert endpoint.open_jobs() == 0
        runs = [endpoint.runs_of(work(f"trial {n}", steps=10, step_s=0.1)) for n in range(9)]
    assert second.stopped is None
    adds_up(second, 9)
    assert second.taken_up == len(ended)
    for record in ended:
        assert second.trials[record.number] == record
        assert runs[record.number] == 1, "what had ended isn't run again"


def test_an_endpoint_that_takes_no_such_key_is_left_alone_with_that_reason(tmp_path: Path) -> None:
    with ExitStack() as stack:
        locked = stack.enter_context(
            an_emulator(tmp_path / "l", COUNTED_WORKER, api_key="another", endpoint_id="locked")
        )
        well = stack.enter_context(faulty_endpoint(tmp_path / "w", **QUICK))
        result = visiondyno.tune(
            seconds_of_work,
            objectives="loss",
            trials=4,
            on="runpod",
            endpoint=f"{locked.url},{well.url}",
            api_key=KEY,
        )
    assert result.stopped is None
    adds_up(result, 4)
    assert {record.lane for record in result.trials} == {well.url}
    reading = lane_of(result, "locked")
    assert reading.closed is not None
    assert "key" in reading.closed
    assert {f.code for r in result.trials for f in r.failures} == {"unauthorized"}


def test_without_any_endpoint_that_takes_the_key_the_study_ends_and_loses_nothing(
    tmp_path: Path,
) -> None:
    with an_emulator(tmp_path, COUNTED_WORKER, api_key="another") as locked:
        result = visiondyno.tune(
            seconds_of_work, objectives="loss", on="runpod", endpoint=locked.url, api_key=KEY
        )
    assert result.stopped is not None
    assert result.stopped.startswith("No place takes trials any more.")
    assert {record.state for record in result.trials} == {State.QUEUED}, "to be gone on with"
