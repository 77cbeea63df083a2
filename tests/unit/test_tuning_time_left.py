"""How long a study is said to take still."""

import math
import random
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_cases import Clock, Plan, Simulation, a_board, end, epoch_event, told, trial

from visiondyno.tuning.eta import Begun, DurationModel
from visiondyno.tuning.lanes import LaneReading
from visiondyno.tuning.runner import Limits
from visiondyno.tuning.trial import Failure, State


def constant(draw: random.Random) -> Plan:
    return Plan(10.0)


def varying(draw: random.Random) -> Plan:
    return Plan(draw.uniform(5, 15))


def pruned(draw: random.Random) -> Plan:
    if draw.random() < 0.6:
        return Plan(10.0, draw.choice([0.1, 0.2, 0.3]), State.PRUNED)
    return Plan(10.0)


def failing(draw: random.Random) -> Plan:
    return Plan(10.0, 0.05, State.FAILED) if draw.random() < 0.2 else Plan(10.0)


@pytest.mark.parametrize("kind", [constant, varying, pruned, failing])
def test_half_way_the_time_left_is_right_within_a_quarter(
    kind: Callable[[random.Random], Plan],
) -> None:
    errors = []
    for seed in range(11):
        draw = random.Random(seed)
        study = Simulation([kind(draw) for _ in range(64)], 8)
        begin, ends = study.clock.at, study.end
        study.run_until((begin + ends) / 2)
        left_s = study.board.progress().estimated_time_remaining
        assert left_s is not None
        errors.append(abs(left_s - (ends - study.clock.at)) / (ends - study.clock.at))
    assert statistics.median(errors) < 0.25
    if kind is constant:
        assert max(errors) < 0.01


def test_before_a_trial_has_ended_partial_ones_tell_the_time() -> None:
    study = Simulation([Plan(100.0)] * 8, 4)
    assert study.board.progress().estimated_time_remaining is None
    study.run_until(1020.0)
    now = study.board.progress()
    assert now.completed_trials == 0
    assert now.estimated_time_remaining == pytest.approx(180.0)
    assert now.estimated_time_interval is None


def test_what_an_earlier_attempt_did_does_not_make_a_trial_fast() -> None:
    clock = Clock()
    board = a_board(1, now=clock)
    board.on_trial(trial(0, State.RUNNING, attempts=2, started_at=1000.0))
    board.on_event(0, told({"stage": "resumed", "epoch": 8, "epochs": 10}))
    clock.at += 10
    board.on_event(0, epoch_event(9))
    assert board.progress().estimated_time_remaining == pytest.approx(10.0)


def test_only_early_ends_are_all_there_is_to_go_by() -> None:
    board = a_board(3, at_once=1)
    end(board, 0, state=State.FAILED, failures=(Failure("x", "y", "z"),))
    assert board.progress().estimated_time_remaining == pytest.approx(20.0)


def test_fewer_places_take_longer_and_the_study_no_longer_than_its_limit() -> None:
    def lane(width: int, closed: str | None = None) -> LaneReading:
        return LaneReading("a", 4, width, 0, 0, {}, 0, None, closed)

    lanes = [lane(4)]
    board = a_board(9, lanes=lambda: lanes)
    for number in range(4):
        board.on_trial(trial(number, State.RUNNING, attempts=1))
    end(board, 0, 0.5)
    wide_s = board.progress().estimated_time_remaining
    lanes[:] = [lane(1), lane(4, "The key was refused.")]
    narrow_s = board.progress().estimated_time_remaining
    assert wide_s is not None
    assert narrow_s is not None
    assert narrow_s > wide_s > 0
    limited = a_board(limits=Limits(100, timeout_s=25.0))
    for number in range(3):
        end(limited, number, 0.5)
    now = limited.progress()
    assert now.estimated_time_remaining == 25.0
    assert now.estimated_time_interval is not None
    assert now.estimated_time_interval[1] == 25.0


SECONDS = st.floats(0, 1e6)
PARTS = st.floats(0, 1)


@settings(max_examples=200)
@given(
    completed=st.lists(SECONDS, max_size=6),
    stopped=st.lists(st.tuples(SECONDS, st.one_of(st.none(), PARTS)), max_size=6),
    failed=st.lists(SECONDS, max_size=6),
    running=st.lists(
        st.builds(Begun, SECONDS, PARTS, st.one_of(st.none(), SECONDS), PARTS), max_size=6
    ),
    left=st.integers(0, 1000),
    places=st.integers(1, 64),
)
def test_an_estimate_is_never_negative(
    completed: list[float],
    stopped: list[tuple[float, float | None]],
    failed: list[float],
    running: list[Begun],
    left: int,
    places: int,
) -> None:
    model = DurationModel()
    for seconds in completed:
        model.add_completed(seconds)
    for seconds, done in stopped:
        model.add_pruned(seconds, done)
    for seconds in failed:
        model.add_failed(seconds)
    estimate = model.estimate(running, left, places)
    if estimate is None:
        assert not completed
        assert not failed
        return
    assert 0 <= estimate.remaining_s < math.inf
    if estimate.interval_s is not None:
        low_s, high_s = estimate.interval_s
        assert 0 <= low_s <= estimate.remaining_s <= high_s < math.inf
    if not running and not left:
        assert estimate.remaining_s == 0


@pytest.mark.parametrize("seconds", [5e-324, 1e-310, 1e-300])
def test_trials_that_took_next_to_no_time_leave_a_number(seconds: float) -> None:
    model = DurationModel()
    model.add_completed(0.0)
    model.add_completed(seconds)
    estimate = model.estimate([Begun(1e6, 0.1, 1e6)], 5, 2)
    assert estimate is not None
    assert math.isfinite(estimate.remaining_s)
