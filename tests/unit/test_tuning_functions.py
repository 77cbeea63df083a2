"""An objective function of one's own: what it is given, what its errors become, how it ends."""

import asyncio
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from client_cases import ENDLESS, echo, inline
from function_cases import study
from tuning_cases import a_lane

from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import Cancelled, SpecError, TransportDown
from visiondyno.tuning.function_trial import FunctionTrial
from visiondyno.tuning.jobs_left import stop_jobs_left
from visiondyno.tuning.journal import Journal
from visiondyno.tuning.runner import Limits
from visiondyno.tuning.session import SharedClient
from visiondyno.tuning.trial import State, TrialRecord, trial_seed

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))


def test_a_function_asks_for_parameters_runs_jobs_and_returns_its_value(tmp_path: Path) -> None:
    threads: list[threading.Thread] = []

    def objective(trial: FunctionTrial) -> float:
        threads.append(threading.current_thread())
        x = trial.suggest_float("x", 0.0, 1.0)
        assert trial.suggest_float("x", 0.0, 1.0) == x, "asked again it is the same"
        n = trial.suggest_int("n", 1, 8, log=True)
        kind = trial.suggest_categorical("kind", ["a", "b"])
        assert trial.params == {"x": x, "n": n, "kind": kind}
        heard: list[threading.Thread] = []
        told = trial.client.run(
            echo(kind, steps=2), on_event=lambda _: heard.append(threading.current_thread())
        )
        assert set(heard) == {threading.current_thread()}
        assert told == {"said": kind}
        (trial.folder / "note").write_text(kind)
        trial.set_user_attr("kind", kind)
        return x

    book, runner, notes = study(objective, tmp_path)
    assert runner.stopped is None
    assert len(set(threads)) == 4
    assert threading.main_thread() not in threads
    for record in book.all():
        assert record.state is State.COMPLETED, record.failures
        assert record.values == (record.params["x"],)
        assert record.seed == trial_seed(0, record.number)
        assert record.measured["user_attrs"] == {"kind": record.params["kind"]}
        assert (tmp_path / str(record.number) / "note").read_text() == record.params["kind"]
        assert record.job_id in {event.job_id for n, event in notes.events if n == record.number}
        running = [told for told in notes.told if told.number == record.number]
        assert any(told.state is State.RUNNING and told.params for told in running)


def test_what_a_function_raises_is_its_trials_alone_with_type_message_and_line(  # noqa: C901
    tmp_path: Path,
) -> None:
    def objective(trial: FunctionTrial) -> Any:  # noqa: C901 - one case each
        x = trial.suggest_float("x", 0.0, 1.0)
        match trial.number:
            case 0:
                return {}["nothing"]
            case 1:
                raise optuna.TrialPruned("It is hopeless.")
            case 2:
                return trial.client.run({"operation": "refuse"})
            case 3:
                return "much"
            case 4:
                raise SystemExit(3)
            case 5:
                trial.suggest_float("y", 1.0, 0.0)
            case 6:
                trial.suggest_categorical("z", [object()])
            case 7:
                return [x, x]
            case 8:
                trial.report([1.0, 2.0], 1)
            case 9:
                trial.set_user_attr("o", object())
        return np.float32(x)

    book, runner, _ = study(objective, tmp_path, 11)
    assert runner.stopped is None
    records = book.all()
    assert Counter(record.state for record in records) == {
        State.COMPLETED: 1,
        State.PRUNED: 1,
        State.FAILED: 9,
    }
    assert records[1].measured["pruned"] == "It is hopeless."
    said = {record.number: record.failures[0] for record in records if record.failures}
    assert said[0].code == "objective_failed"
    assert said[0].message.startswith("The objective raised KeyError: 'nothing' (")
    assert "test_tuning_functions.py, line " in said[0].message
    assert "KeyError" in records[0].measured["traceback"]
    assert said[2].code == "bad_dataset"
    assert "What trial 3 returned is 'much'" in said[3].message
    assert "SystemExit: 3" in said[4].message
    assert said[5].message.startswith("'y' can't be suggested: ")
    assert "A choice of 'z'" in said[6].message
    assert said[7].code == "wrong_values"
    assert "reports 2 values at step 1" in said[8].message
    assert "attribute 'o'" in said[9].message


def test_reports_prune_by_the_studys_pruner(tmp_path: Path) -> None:
    def objective(trial: FunctionTrial) -> float:
        for step in range(1, 4):
            trial.report(-float(trial.number), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return -float(trial.number)

    book, _, _ = study(objective, tmp_path, 8, at_once=1, pruner="asha")
    states = Counter(record.state for record in book.all())
    assert states[State.PRUNED] >= 3
    pruned = next(record for record in book.all() if record.state is State.PRUNED)
    assert pruned.reports
    assert "Pruned at step" in pruned.measured["pruned"]


def test_what_the_place_failed_is_called_again_and_asks_for_the_same(tmp_path: Path) -> None:
    seen: dict[int, list[float]] = {}

    def objective(trial: FunctionTrial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        seen.setdefault(trial.number, []).append(x)
        if len(seen[trial.number]) == 1:
            raise TransportDown("Gone.")
        return x

    book, _, _ = study(objective, tmp_path, 3)
    for record in book.all():
        assert record.state is State.COMPLETED
        assert record.attempts == 2
        assert seen[record.number] == [record.params["x"]] * 2


def test_a_trial_past_its_limit_has_its_jobs_cancelled_and_its_function_is_told(
    tmp_path: Path,
) -> None:
    raised: list[BaseException] = []

    def objective(trial: FunctionTrial) -> float:
        if trial.number != 1:
            return trial.suggest_float("x", 0.0, 1.0)
        waiting = trial.client.submit(ENDLESS)
        assert waiting
        for _ in range(2):
            try:
                trial.client.run(ENDLESS)
            except Cancelled as error:
                raised.append(error)
        try:
            trial.report(1.0, 1)
        except Cancelled as error:
            raised.append(error)
        return 1.0

    limits = Limits(4, trial_timeout_s=3.0, grace_s=0.0)
    book, runner, _ = study(objective, tmp_path, limits=limits, leave_s=10.0)
    assert runner.stopped is None
    assert len(raised) == 3
    record = book.records[1]
    assert record.state is State.FAILED
    assert record.failures[0].code == "time_limit"
    assert "left" not in record.measured
    assert Counter(one.state for one in book.all())[State.COMPLETED] == 3


def test_a_function_that_only_computes_is_left_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()

    def objective(trial: FunctionTrial) -> float:
        if trial.number == 0:
            released.wait(60)
        return trial.suggest_float("x", 0.0, 1.0)

    limits = Limits(3, trial_timeout_s=3.0, grace_s=0.0)
    book, _, _ = study(objective, tmp_path, limits=limits, leave_s=0.01)
    released.set()
    assert "computes on" in book.records[0].measured["left"]
    assert "computes on" in caplog.text
    assert [record.state for record in book.all()] == [
        State.FAILED,
        State.COMPLETED,
        State.COMPLETED,
    ]
    for thread in threading.enumerate():
        if thread.name.startswith("trial-"):
            thread.join(10)


def test_parameters_of_a_trial_that_was_cut_off_are_its_own_again(tmp_path: Path) -> None:
    seen: dict[int, float] = {}

    def cut_off(trial: FunctionTrial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        if trial.number < 2:
            return x
        seen[trial.number] = x
        trial.client.run(ENDLESS)
        return x

    journal = Journal.begin(tmp_path / "study", {})
    first, runner, _ = study(cut_off, tmp_path, limits=Limits(6, timeout_s=3.0), journal=journal)
    assert runner.stopped is not None
    assert sorted(seen) == [2, 3]
    first.close()
    opened, _, kept = Journal.go_on(tmp_path / "study")
    again: dict[int, float] = {}

    def whole(trial: FunctionTrial) -> float:
        again[trial.number] = trial.suggest_float("x", 0.0, 1.0)
        return again[trial.number]

    second, _, _ = study(whole, tmp_path, 6, journal=opened, kept=kept)
    second.close()
    assert sorted(again) == [2, 3, 4, 5], "what had ended isn't called again"
    assert {number: again[number] for number in seen} == seen
    assert [second.records[n].params for n in (0, 1)] == [first.records[n].params for n in (0, 1)]


def test_a_resumed_trial_that_asks_for_another_range_fails_with_that(tmp_path: Path) -> None:
    def record(number: int, **rest: Any) -> dict[str, Any]:
        return TrialRecord(number, 1, {"x": 0.5}, **rest).to_json()

    kind = optuna.distributions.distribution_to_json(
        optuna.distributions.FloatDistribution(0.0, 1.0)
    )
    kept = [record(0, state=State.RUNNING, distributions={"x": kind})]
    book, _, _ = study(lambda t: t.suggest_float("x", 5.0, 6.0), tmp_path, 1, kept=kept)
    assert "another range" in book.records[0].failures[0].message


def test_jobs_that_a_killed_process_left_are_cancelled_before_the_study_goes_on() -> None:
    async def main() -> None:
        client = AsyncClient(inline())
        lane = a_lane("here", session=SharedClient(client, is_here=True))
        job_ids = [await client.submit(ENDLESS) for _ in range(2)]
        told = [
            TrialRecord(0, 1, {}, lane="here", job_id=job_ids[0]),
            TrialRecord(1, 1, {}, lane="here", job_id=job_ids[1]),
            TrialRecord(1, 1, {}, State.FAILED, lane="here", job_id=job_ids[1], ended_at=5.0),
            TrialRecord(2, 1, {}, lane="gone", job_id="x"),
            TrialRecord(3, 1, {}, lane="here", job_id="forgotten"),
            TrialRecord(4, 1, {}),
        ]
        await stop_jobs_left([record.to_json() for record in told], [lane])
        with pytest.raises(Cancelled):
            await client.result(job_ids[0])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.result(job_ids[1]), 0.05)
        await client.close()

    asyncio.run(main())


def test_a_borrowed_client_refuses_the_loop_it_borrows(tmp_path: Path) -> None:
    caught: list[str] = []

    def objective(trial: FunctionTrial) -> float:
        loop = trial.client._thread._loop
        assert loop is not None
        done = threading.Event()

        def on_loop() -> None:
            with pytest.raises(SpecError) as error:
                trial.client.run(echo())
            caught.append(str(error.value))
            done.set()

        loop.call_soon_threadsafe(on_loop)
        assert done.wait(10)
        assert [event.state for event in trial.client.watch(trial.client.submit(echo()))]
        job_id = trial.client.submit(echo("later"))
        assert trial.client.result(job_id) == {"said": "later"}
        assert trial.client.run_many([echo("a"), echo("b")]) == [{"said": "a"}, {"said": "b"}]
        trial.client.close()
        with pytest.raises(SpecError, match="closed"):
            trial.client.run(echo())
        return 1.0

    book, _, _ = study(objective, tmp_path, 1)
    assert book.records[0].state is State.COMPLETED, book.records[0]
    assert "on that loop itself" in caught[0]
