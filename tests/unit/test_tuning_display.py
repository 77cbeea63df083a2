"""A study on the terminal, as text of so many columns."""

import io
import random
from dataclasses import replace

import pytest
from rich.console import Console
from study_cases import ACCURACY, Clock, Plan, Simulation, trial

from visiondyno.cli.tuning_display import TuningDisplay, study_view
from visiondyno.executors.breaker import BreakerReading, BreakerState
from visiondyno.tuning.lanes import LaneReading
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.progress import ProgressBoard
from visiondyno.tuning.runner import Limits
from visiondyno.tuning.trial import Failure, State

OPEN = BreakerReading(BreakerState.OPEN, 3, "503", 12.0)
LANES = [
    LaneReading("local", 4, 4, 4, 12, {}, 0, None, None),
    LaneReading("https://api.example/v2/abc", 8, 2, 2, 3, {"rate_limited": 3}, 2, OPEN, None),
    LaneReading("https://api.example/v2/xyz", 8, 4, 0, 0, {}, 1, None, "The key was refused."),
]


def shown(board: ProgressBoard, width: int, height: int, names: tuple[str, ...]) -> list[str]:
    console = Console(
        width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None
    )
    console.print(study_view(board.progress(), names, "mnist", console))
    text = console.file.getvalue()
    return [line.rstrip() for line in text.splitlines()]


def a_study(trials: int, places: int, share: float) -> ProgressBoard:
    draw = random.Random(3)
    kinds = (State.COMPLETED, State.COMPLETED, State.PRUNED, State.FAILED)
    plans = [
        Plan(draw.uniform(20, 60), 1.0 if state is State.COMPLETED else 0.3, state)
        for state in (draw.choice(kinds) for _ in range(trials))
    ]
    study = Simulation(plans, places)
    study.run_until(1000 + share * (study.end - 1000))
    return study.board


def test_what_matters_is_on_the_screen() -> None:
    board = a_study(20, 4, 0.5)
    text = "\n".join(shown(board, 100, 40, ("val_accuracy",)))
    now = board.progress()
    assert f"{now.ended_trials}/20" in text
    assert f"{now.completed_trials} completed" in text
    assert "best val_accuracy 0.500 trial" in text
    assert "x=" in text
    assert " left" in text
    for one in now.running:
        assert f"trial {one.number} " in text
        assert f"epoch {one.epoch}/10" in text or "begins" in text
    assert "failed: x: It failed." in text
    assert "trials/min" in text


@pytest.mark.parametrize("width", [20, 40, 50, 63, 64, 80, 100, 140, 300])
@pytest.mark.parametrize("height", [10, 24, 50])
def test_64_running_trials_fold_into_any_terminal(width: int, height: int) -> None:
    board = a_study(200, 64, 0.4)
    board._lanes = lambda: LANES
    lines = shown(board, width, height, ("val_accuracy",))
    assert all(len(line) <= width for line in lines)
    if width >= 80:
        assert len(lines) <= max(height, 14)
        assert any("trials more" in line for line in lines) == (height < 64)


def test_lanes_show_width_breaker_failures_and_why_one_is_closed() -> None:
    board = ProgressBoard(ACCURACY, Limits(2), 4, lanes=lambda: LANES, now=Clock())
    text = "\n".join(shown(board, 140, 40, ("val_accuracy",)))
    assert "lane local  4 of 4  12 done" in text
    assert "2 of 2 (up to 8)" in text
    assert "breaker open, tried again in 12 s" in text
    assert "failures: 3 rate_limited" in text
    assert "closed: The key was refused." in text
    assert "no trial has completed yet" in text
    quiet = ProgressBoard(ACCURACY, Limits(2), 4, lanes=lambda: LANES[:1], now=Clock())
    assert "lane" not in "\n".join(shown(quiet, 140, 40, ("val_accuracy",)))


def test_several_objectives_show_the_front_and_many_causes_fold() -> None:
    names = ("val_accuracy", "latency_ms")
    board = ProgressBoard(parse_objectives(names), Limits(30), 4, now=Clock())
    for number in range(7):
        board.on_trial(trial(number, State.COMPLETED, values=(number / 10, float(number))))
    for number, letter in enumerate("abcdef", 7):
        failure = Failure(letter, "Why.", "here")
        board.on_trial(trial(number, State.FAILED, attempts=2, failures=(failure,)))
    text = "\n".join(shown(board, 100, 40, names))
    assert "front: 7 trials" in text
    assert "and 2 more" in text
    assert "and by 2 causes more" in text
    assert "6 retried" in text
    board.finish(None)
    assert "over after" in "\n".join(shown(board, 100, 40, names))


def test_off_a_terminal_each_ended_trial_is_a_plain_line() -> None:
    console = Console(file=io.StringIO(), width=80)
    board = ProgressBoard(ACCURACY, Limits(4), 4, now=Clock())
    with TuningDisplay(board, ACCURACY, "mnist", console):
        board.on_trial(trial(0, State.RUNNING, attempts=1, started_at=1000.0))
        board.on_trial(
            trial(0, State.COMPLETED, values=(0.75,), started_at=1000.0, ended_at=1065.0)
        )
        board.on_trial(trial(1, State.PRUNED, measured={"pruned": "Below the best half."}))
        failure = Failure("diverged", "The loss is nan.", "local")
        board.on_trial(trial(2, State.FAILED, failures=(failure,)))
        board.on_trial(trial(3, State.COMPLETED, values=(0.5,)))
        board.close()
    assert console.file.getvalue().splitlines() == [
        "trial   0  completed  val_accuracy 0.750  best so far  [1:05, 1/4]",
        "trial   1  pruned     Below the best half.  [2/4]",
        "trial   2  failed     The loss is nan. (diverged, on local)  [3/4]",
        "trial   3  completed  val_accuracy 0.500  [4/4]",
    ]


def test_why_a_trial_is_tried_again_is_told_once_for_each_place_and_cause() -> None:
    console = Console(file=io.StringIO(), width=80)
    board = ProgressBoard(ACCURACY, Limits(4), 4, now=Clock())
    gone = Failure("unreachable", "No server answers.", "here")
    with TuningDisplay(board, ACCURACY, "mnist", console):
        board.on_trial(trial(0, State.QUEUED))
        board.on_trial(trial(0, State.QUEUED, attempts=1, failures=(gone,)))
        board.on_trial(trial(0, State.QUEUED, attempts=2, failures=(gone, gone)))
        board.on_trial(trial(1, State.QUEUED, attempts=1, failures=(gone,)))
        elsewhere = replace(gone, where="there")
        board.on_trial(trial(1, State.QUEUED, attempts=2, failures=(gone, elsewhere)))
        board.close()
    assert console.file.getvalue().splitlines() == [
        "trial   0  again      No server answers. (unreachable, on here)",
        "trial   1  again      No server answers. (unreachable, on there)",
    ]


def test_on_a_terminal_the_lines_stay_above_what_moves() -> None:
    console = Console(
        file=io.StringIO(), width=80, height=30, force_terminal=True, color_system=None
    )
    board = a_study(20, 4, 0.5)
    with TuningDisplay(board, ACCURACY, "mnist", console):
        board.on_trial(trial(19, State.COMPLETED, values=(0.75,)))
        board.close()
    text = console.file.getvalue()
    assert "trial  19  completed  val_accuracy 0.750" in text
    assert "mnist" in text
