"""A study in Optuna's own file: what Optuna reads there is the study."""

import datetime
import math
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from tuning_cases import OneNumber

from study_results_factory import a_cost
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.optuna_store import NAME, OptunaStore
from visiondyno.tuning.progress import ProgressBoard
from visiondyno.tuning.runner import Limits
from visiondyno.tuning.trial import Failure, State, TrialRecord

ONE = parse_objectives(["score:maximize"])
TWO = parse_objectives(["score:maximize", "latency_ms"])


def a_trial(number: int, state: State = State.COMPLETED, **more: object) -> TrialRecord:
    ended = {"started_at": 2000.0 + number, "ended_at": 2010.5 + number, "attempts": 1}
    values = {"values": (number / 10,)} if state is State.COMPLETED else {}
    found = TrialRecord(
        number, 7 * number, {"x": number / 16}, state, asked_at=1999.0, lane="here", worker_id="w"
    )
    return found.with_(**(ended if state.has_ended else {}) | values | more)


def loaded(folder: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / NAME)))
    return optuna.load_study(study_name=None, storage=storage)


def told(
    folder: Path,
    trials: Sequence[TrialRecord],
    *,
    objectives: Sequence = ONE,
    earlier: Sequence[TrialRecord] = (),
    finish: bool = True,
) -> optuna.Study:
    """The study that Optuna reads after the board was told of these trials, in this order."""
    board = ProgressBoard(objectives, Limits(99), 2)
    board.subscribe(OptunaStore(folder, objectives, OneNumber(), {"asked": {"a": 1}}, earlier), "s")
    for trial in trials:
        board.on_trial(trial)
    if finish:
        board.finish(None)
    (reading,) = board.close()
    assert (reading.errors, reading.pending) == (0, 0)
    return loaded(folder)


def test_optuna_reads_each_trial_with_its_number_state_values_and_attributes(tmp_path):
    failure = Failure("boom", "It failed.", "here")
    study = told(
        tmp_path,
        [
            a_trial(0, cost=a_cost(10, 20), reports={1: (0.25,), 2: (0.5,)}),
            a_trial(1, State.PRUNED, reports={1: (0.125,)}),
            a_trial(2, State.FAILED, failures=(failure,), started_at=None),
        ],
    )
    first, second, third = study.trials
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert first.values == [0.0]
    assert first.params == {"x": 0.0}
    assert first.distributions == {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    assert first.intermediate_values == {1: 0.25, 2: 0.5}
    assert second.intermediate_values == {1: 0.125}
    assert first.datetime_start.timestamp() == 2000.0
    assert first.duration == datetime.timedelta(seconds=10.5)
    assert first.user_attrs == {
        "seed": 0,
        "lane": "here",
        "worker": "w",
        "attempts": 1,
        "duration_s": 10.5,
        "usd_at_most": pytest.approx(0.004),
    }
    assert third.user_attrs["failure"] == "boom: It failed."
    assert study.metric_names == ["score"]
    assert study.user_attrs == {"asked": {"a": 1}}
    assert study.best_trial.number == 0


def test_trials_that_end_out_of_order_keep_their_numbers(tmp_path):
    order = [3, 1, 2, 0]
    study = told(tmp_path, [a_trial(number) for number in order])
    assert [trial.values[0] for trial in study.trials] == [0.0, 0.1, 0.2, 0.3]


def test_what_waits_for_an_earlier_trial_is_written_once_that_has_ended(tmp_path):
    began = [a_trial(0, State.RUNNING, started_at=2000.0), a_trial(1)]
    assert told(tmp_path / "a", began, finish=False).trials == []
    both = told(tmp_path / "b", [*began, a_trial(0)], finish=False)
    assert [trial.number for trial in both.trials] == [0, 1]


@pytest.fixture(autouse=True)
def folders(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()


def test_trials_that_never_ended_are_waiting_when_the_study_is_over(tmp_path):
    study = told(tmp_path, [a_trial(0, State.RUNNING, started_at=2000.0), a_trial(1)])
    waiting, done = study.trials
    assert waiting.state.name == "WAITING"
    assert waiting.params == {"x": 0.0}
    assert waiting.datetime_start is None
    assert done.values == [0.1]


def test_a_study_that_goes_on_is_written_anew_with_its_earlier_trials(tmp_path):
    told(tmp_path, [a_trial(0), a_trial(1, State.QUEUED), a_trial(2)])
    (tmp_path / f"{NAME}.lock").symlink_to("left-behind")
    study = told(tmp_path, [a_trial(1)], earlier=[a_trial(0), a_trial(2)])
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    assert [trial.user_attrs["seed"] for trial in study.trials] == [0, 7, 14]


def test_a_study_without_trials_can_be_opened(tmp_path):
    assert told(tmp_path, []).trials == []


def test_reports_of_several_objectives_are_an_attribute(tmp_path):
    values = {"values": (0.5, 2.0), "reports": {1: (0.25, 2.0)}}
    study = told(tmp_path, [a_trial(0, **values)], objectives=TWO)
    (trial,) = study.trials
    assert trial.values == [0.5, 2.0]
    assert trial.intermediate_values == {}
    assert trial.user_attrs["reports"] == {"1": {"score": 0.25, "latency_ms": 2.0}}
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_numbers_that_are_not_finite_are_kept(tmp_path):
    study = told(tmp_path, [a_trial(0, values=(math.inf,), reports={1: (math.nan,)})])
    assert study.trials[0].values == [math.inf]
    assert math.isnan(study.trials[0].intermediate_values[1])


def test_parameters_that_were_asked_for_while_the_trial_ran_are_what_it_says(tmp_path):
    kind = optuna.distributions.IntDistribution(1, 8, log=True)
    text = optuna.distributions.distribution_to_json(kind)
    study = told(tmp_path, [a_trial(0, params={"n": 4}, distributions={"n": text})])
    assert study.trials[0].params == {"n": 4}
    assert study.trials[0].distributions == {"n": kind}


def test_a_folder_that_cannot_be_written_costs_the_study_nothing_but_errors(tmp_path):
    board = ProgressBoard(ONE, Limits(99), 2)
    store = OptunaStore(tmp_path / "missing", ONE, OneNumber(), {})
    board.subscribe(store, NAME)
    board.on_trial(a_trial(0))
    board.finish(None)
    (reading,) = board.close()
    assert reading.errors == 2
    (tmp_path / "missing").mkdir()
    board = ProgressBoard(ONE, Limits(99), 2)
    board.subscribe(store, NAME)
    board.finish(None)
    board.close()
    assert [trial.number for trial in loaded(tmp_path / "missing").trials] == [0]
