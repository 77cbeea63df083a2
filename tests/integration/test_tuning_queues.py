"""Studies on worker processes, over the local queue and over Redis: hung trials, bad workers."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import visiondyno
from faulty_endpoint import MARK_VARIABLE, TESTS, processes_of
from services import redis_server
from visiondyno import places
from visiondyno.places import Place
from visiondyno.tuning.function_trial import FunctionTrial
from visiondyno.tuning.study import StudyResult
from visiondyno.tuning.trial import State
from visiondyno.wiring import make_queue_executor

pytest.importorskip("optuna")
pytestmark = pytest.mark.slow


@pytest.fixture(params=["local", "redis"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """Two workers of our own for `tuned_operations`; none is left at the end."""
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    mark = os.urandom(8).hex()
    monkeypatch.setenv(MARK_VARIABLE, mark)
    tuned = partial(make_queue_executor, entry="tuned_operations:run")
    monkeypatch.setattr(places, "make_queue_executor", tuned)
    if request.param == "local":
        yield Place("local")
    else:
        with redis_server(tmp_path / "redis") as server:
            monkeypatch.setenv("VISIONDYNO_REDIS_URL", server.url)
            yield Place("redis", workers=2)
            server.flush()
    left = [pid for pid in processes_of(mark) if "redis-server" not in _command(pid)]
    assert not left, "no worker is left"


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def states(result: StudyResult) -> Counter[State]:
    return Counter(record.state for record in result.trials)


def test_a_hung_trial_is_killed_at_its_limit_and_its_worker_replaced(place: Place) -> None:
    pids: list[int] = []

    def objective(trial: FunctionTrial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        if trial.number == 2:
            trial.client.run(
                {"operation": "hang"},
                on_event=lambda e: pids.append(e.progress["pid"]) if e.progress else None,
            )
        answer = trial.client.run({"operation": "nap", "x": x})
        pids.append(answer["pid"])
        return float(answer["value"])

    result = visiondyno.tune(
        objective, objectives="score:maximize", trials=10, on=place, trial_timeout_s=8.0
    )
    assert result.stopped is None
    assert states(result) == {State.COMPLETED: 9, State.FAILED: 1}
    failed = result.trials[2]
    assert failed.failures[0].code == "time_limit"
    assert failed.attempts == 1
    for record in result.trials:
        if record is not failed:
            assert record.values == (record.params["x"],)
            assert not record.failures, "no other one was touched"


def test_a_worker_that_fails_everything_gets_no_more_trials(place: Place, tmp_path: Path) -> None:
    def objective(trial: FunctionTrial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        job = {"operation": "choosy", "x": x, "folder": str(tmp_path)}
        return float(trial.client.run(job)["value"])

    result = visiondyno.tune(objective, objectives="score:maximize", trials=24, on=place)
    assert result.stopped is None
    (lane,) = result.lanes
    assert len(lane.quarantined) == 1
    failed = [record for record in result.trials if record.state is State.FAILED]
    assert {record.worker_id for record in failed} == set(lane.quarantined)
    assert 3 <= len(failed) <= 5
    assert states(result)[State.COMPLETED] == 24 - len(failed)


def test_the_same_seed_and_one_worker_give_the_same_trials_wherever_they_run(
    place: Place,
) -> None:
    def objective(trial: FunctionTrial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        return float(trial.client.run({"operation": "nap", "x": x})["value"])

    def pure(trial: FunctionTrial) -> float:
        return trial.suggest_float("x", 0.0, 1.0)

    given = {"objectives": "score:maximize", "trials": 12, "workers": 1, "seed": 9}
    there = visiondyno.tune(objective, on=place, **given)
    here = visiondyno.tune(pure, on="inline", **given)
    assert [r.values for r in there.trials] == [r.values for r in here.trials]
    assert [r.seed for r in there.trials] == [r.seed for r in here.trials]
