"""A study's lines as the dashboard reads them."""

from dataclasses import replace
from pathlib import Path

import pytest
from study_cases import ACCURACY, Clock, epoch_event, trial

from visiondyno.dashboard.study_charts import history_plot
from visiondyno.dashboard.study_reading import (
    PROGRESS,
    EndedTrial,
    StudyReader,
    last_line,
    line_of,
)
from visiondyno.tuning.json_lines import JsonLines
from visiondyno.tuning.objectives import Objective
from visiondyno.tuning.progress import ProgressBoard
from visiondyno.tuning.runner import Limits
from visiondyno.tuning.trial import Failure, State

NAMES = ("val_accuracy:maximize",)


class Telling:
    """A study that tells its folder."""

    def __init__(self, folder: Path, trials: int = 5) -> None:
        self.clock = Clock()
        self.board = ProgressBoard(ACCURACY, Limits(trials), 2, now=self.clock)
        self._lines = JsonLines(folder / PROGRESS, ACCURACY)
        self.board.subscribe(self._lines)

    def close(self) -> None:
        assert [reading.errors for reading in self.board.close()] == [0]
        self._lines.close()


def told(folder: Path) -> None:
    """Trial 0 completes, 1 fails, 2 is pruned, 3 runs, 4 is queued."""
    study = Telling(folder)
    board = study.board
    for number in range(4):
        board.on_trial(trial(number, State.RUNNING, attempts=1, started_at=1000.0))
    board.on_event(3, epoch_event(2, epochs=8, val_metrics={"accuracy": 0.25}))
    study.clock.at = 1004.0
    board.on_trial(
        trial(0, State.COMPLETED, started_at=1000.0, ended_at=1004.0, values=(0.5,), attempts=1)
    )
    failure = Failure("diverged", "The loss is NaN.", "here")
    board.on_trial(trial(1, State.FAILED, failures=(failure,), attempts=2))
    board.on_trial(trial(2, State.PRUNED, attempts=1))
    board.on_trial(trial(4, State.QUEUED))
    study.close()


def test_a_study_stands_as_its_lines_say(tmp_path: Path) -> None:
    told(tmp_path)
    standing = StudyReader(tmp_path, NAMES).read()
    assert standing.last is not None
    assert standing.last["trials"] == {
        "total": 5, "queued": 1, "running": 1, "completed": 1, "pruned": 1, "failed": 1,
    }  # fmt: skip
    assert set(standing.running) == {3}
    running = standing.running[3]
    assert (running.epoch, running.epochs, running.done) == (2, 8, 0.25)
    assert running.values == {"val_accuracy": 0.25}
    assert {n: t.state for n, t in standing.ended.items()} == {
        0: "completed", 1: "failed", 2: "pruned",
    }  # fmt: skip
    assert standing.ended[0].values == {"val_accuracy": 0.5}
    assert standing.ended[0].duration_s == 4.0
    assert standing.ended[1].trouble == "The loss is NaN. (diverged)"
    assert standing.ended[1].attempts == 2
    assert last_line(tmp_path) == standing.last


def test_reading_piece_by_piece_is_reading_at_once(tmp_path: Path) -> None:
    told(tmp_path)
    whole = (tmp_path / PROGRESS).read_bytes()
    at_once = StudyReader(tmp_path, NAMES).read()
    folder = tmp_path / "again"
    folder.mkdir()
    reader = StudyReader(folder, NAMES)
    assert reader.read().last is None
    for end in range(0, len(whole) + 700, 700):  # lines are torn where they will
        with (folder / PROGRESS).open("ab") as file:
            file.write(whole[end - 700 : end] if end else b"")
        reader.read()
    assert reader.standing == at_once


def test_another_run_drops_what_ran_in_the_one_before(tmp_path: Path) -> None:
    told(tmp_path)
    reader = StudyReader(tmp_path, NAMES)
    assert set(reader.read().running) == {3}
    again = Telling(tmp_path)
    again.board.on_trial(trial(4, State.RUNNING, attempts=1, started_at=1000.0))
    again.board.finish("Enough.")
    again.close()
    standing = reader.read()
    assert standing.running == {}
    assert set(standing.ended) == {0, 1, 2}
    assert standing.last is not None
    assert standing.last["stopped"] == "Enough."


def test_a_second_attempt_begins_anew_and_new_parameters_do_not(tmp_path: Path) -> None:
    study = Telling(tmp_path)
    study.board.on_trial(trial(0, State.RUNNING, attempts=1, started_at=1000.0))
    study.board.on_event(0, epoch_event(2, epochs=8))
    study.board.on_trial(trial(0, State.RUNNING, attempts=1, started_at=1000.0, params={"lr": 0.5}))
    study.close()
    reader = StudyReader(tmp_path, NAMES)
    same = reader.read().running[0]
    assert (same.epoch, same.params) == (2, {"lr": 0.5})
    study = Telling(tmp_path)
    study.board.on_trial(trial(1, State.RUNNING, attempts=1, started_at=1000.0))
    study.board.on_event(1, epoch_event(2, epochs=8))
    study.board.on_trial(trial(1, State.RUNNING, attempts=2, started_at=1001.0))
    study.close()
    second = reader.read().running[1]
    assert (second.attempt, second.epoch, second.done) == (2, 0, 0.0)


def test_a_file_that_was_begun_anew_is_read_anew(tmp_path: Path) -> None:
    told(tmp_path)
    reader = StudyReader(tmp_path, NAMES)
    assert len(reader.read().ended) == 3
    (tmp_path / PROGRESS).unlink()
    assert len(reader.read().ended) == 3  # nothing is known that is newer
    study = Telling(tmp_path)
    study.board.on_trial(trial(0, State.RUNNING, attempts=1, started_at=1000.0))
    study.close()
    standing = reader.read()
    assert set(standing.running) == {0}
    assert standing.ended == {}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"1", b'{"schema": "other/1"}', b"\xff"])
def test_a_line_of_something_else_is_none(text: bytes) -> None:
    assert line_of(text) is None


def test_a_study_without_lines_says_nothing(tmp_path: Path) -> None:
    assert last_line(tmp_path) is None
    (tmp_path / PROGRESS).write_bytes(b"no json\n")
    assert last_line(tmp_path) is None
    assert StudyReader(tmp_path, ("what:ever",)).read().last is None


def ended(number: int, value: float | None, at: float) -> EndedTrial:
    state, values = ("pruned", {}) if value is None else ("completed", {"val_accuracy": value})
    return EndedTrial(number, state, values, {}, "here", 1, 1.0, at, None)


def test_a_history_draws_each_value_and_the_best_up_to_it() -> None:
    trials = [ended(0, 0.5, 3), ended(1, 0.75, 1), ended(2, None, 2), ended(3, 0.875, 4)]
    plot = history_plot(trials, ACCURACY[0])
    assert plot is not None
    assert plot.count("<svg") == 2
    assert plot.count("<title>") == 6
    # In the order of their ends: 1 and 3 are better than all before them, 0 isn't.
    wide = plot.split("<svg")[1]
    told = [part.split("</title>")[0] for part in wide.split("<title>")[1:]]
    assert told == [
        "trial 1: val_accuracy 0.7500",
        "trial 0: val_accuracy 0.5000",
        "trial 3: val_accuracy 0.8750",
    ]
    assert [css in wide for css in ("marker s0", "marker s7")] == [True, True]
    assert "the best is 0.8750" in wide


def test_a_history_without_a_value_is_none() -> None:
    assert history_plot([ended(0, None, 1), ended(1, float("nan"), 2)], ACCURACY[0]) is None


def test_a_long_history_is_thinned() -> None:
    trials = [ended(number, 0.5 + number / 1e4, number) for number in range(3000)]
    plot = history_plot(trials, ACCURACY[0])
    assert plot is not None
    assert 300 <= plot.split("<svg")[1].count("<title>") <= 600


def test_a_history_escapes_what_people_named() -> None:
    objective = Objective("<b>", "minimize")
    named = replace(ended(0, 0.5, 1), values={"<b>": 0.5})
    plot = history_plot([named], objective)
    assert plot is not None
    assert "<b>" not in plot
    assert "&lt;b&gt;" in plot
