"""Which trials are stopped early: ASHA for any number of objectives, and Optuna's own pruners."""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuning_cases import a_book

from visiondyno.errors import SpecError
from visiondyno.tuning import pruning
from visiondyno.tuning.objectives import dominates, parse_objectives
from visiondyno.tuning.pruning import Halving, OptunasPruner, make_pruner
from visiondyno.tuning.pruning import _fronts as fronts_of
from visiondyno.tuning.trial import State, TrialRecord

ONE = parse_objectives(["val_accuracy"])
TWO = parse_objectives(["val_accuracy", "latency_ms"])
_values = st.floats(0, 1, allow_nan=False)


class Numbered:
    """All that `Halving` asks of a trial."""

    def __init__(self, number: int) -> None:
        self.number = number


def trial(number: int) -> optuna.Trial:
    return cast("optuna.Trial", Numbered(number))


def arrivals(pruner: Halving, step: int, points: Sequence[Sequence[float]]) -> list[bool]:
    """Whether each is stopped, in the order in which they come to a step."""
    return [pruner.reason(trial(n), step, values) is not None for n, values in enumerate(points)]


@pytest.mark.parametrize(
    ("min_steps", "reduction", "rungs"), [(1, 3, [1, 3, 9]), (2, 2, [2, 4, 8])]
)
def test_rungs_lie_at_powers(min_steps: int, reduction: int, rungs: list[int]) -> None:
    pruner = Halving(ONE, min_steps=min_steps, reduction=reduction)
    found = []
    for step in range(1, 12):
        pruner.reason(trial(0), step, (0.9,))
        if pruner.reason(trial(1), step, (0.1,)) is not None:
            found.append(step)
    assert found == rungs


def test_the_best_third_goes_on() -> None:
    points = [(0.5,), (0.6,), (0.4,), (0.7,), (0.55,), (0.65,), (0.64,)]
    # n // 3 is 0, 0, 1, 1, 1, 2, 2 as they come; at least one goes on.
    assert arrivals(Halving(ONE), 1, points) == [False, False, True, False, True, False, True]


@given(st.lists(_values, min_size=1, max_size=30, unique=True), st.integers(2, 4))
def test_with_one_objective_it_is_the_rule_of_asha(values: list[float], reduction: int) -> None:
    pruner = Halving(ONE, reduction=reduction)
    for number, value in enumerate(values):
        so_far = sorted(values[: number + 1], reverse=True)
        kept = so_far[: max(1, len(so_far) // reduction)]
        assert (pruner.reason(trial(number), 1, (value,)) is None) == (value in kept)


@given(st.lists(st.tuples(_values, _values), min_size=1, max_size=25))
def test_what_nothing_dominates_is_never_stopped(points: list[tuple[float, float]]) -> None:
    pruner = Halving(TWO)
    for number, point in enumerate(points):
        stopped = pruner.reason(trial(number), 1, point) is not None
        so_far = points[: number + 1]
        if not any(dominates(TWO, other, point) for other in so_far):
            assert not stopped
        fronts = _fronts(so_far)
        before = sum(len(front) for front in fronts[: fronts.index(_front_of(fronts, number))])
        assert stopped == (before >= max(1, len(so_far) // 3))


def _fronts(points: Sequence[Sequence[float]]) -> list[list[int]]:
    left, fronts = list(range(len(points))), []
    while left:
        front = [
            i for i in left if not any(dominates(TWO, points[j], points[i]) for j in left)
        ]  # fmt: skip
        fronts.append(front)
        left = [i for i in left if i not in front]
    return fronts


def _front_of(fronts: list[list[int]], number: int) -> list[int]:
    return next(front for front in fronts if number in front)


def test_a_slow_model_that_is_worse_is_stopped_and_a_fast_one_isnt() -> None:
    pruner = Halving(TWO)
    points = [(0.9, 10.0), (0.8, 5.0), (0.85, 12.0), (0.5, 1.0)]
    assert arrivals(pruner, 1, points) == [False, False, True, False]


def test_earlier_runs_count() -> None:
    pruner = Halving(ONE)
    earlier = TrialRecord(0, 1, {}, State.COMPLETED, (0.9,), reports={1: (0.9,), 2: (0.95,)})
    pruner.take_up(earlier)
    assert pruner.reason(trial(1), 1, (0.5,)) is not None
    assert Halving(ONE).reason(trial(1), 1, (0.5,)) is None


def test_a_pruner_of_optuna_stops_what_it_would_stop_itself() -> None:
    pruner = make_pruner("median", {"n_startup_trials": 2, "n_warmup_steps": 0}, ONE)
    assert isinstance(pruner, OptunasPruner)
    book = a_book(["val_accuracy"], pruner=pruner)
    said: list[Any] = []
    for value in (0.8, 0.9, 0.1, 0.95):
        record = book.ask()
        why = book.report(record.number, 1, (value,))
        said.append(why)
        ended = State.PRUNED if why else State.COMPLETED
        book.tell(record.with_(state=ended, values=() if why else (value,)))
    assert said == [None, None, "Pruned at step 1 by MedianPruner.", None]


def test_a_report_that_is_no_number_stops_nothing() -> None:
    book = a_book(["val_accuracy"], pruner=Halving(ONE))
    first, second = book.ask(), book.ask()
    assert book.report(first.number, 1, (0.9,)) is None
    assert book.report(second.number, 1, (math.nan,)) is None


@pytest.mark.parametrize("name", ["none", "nop", "NopPruner"])
def test_no_pruner(name: str) -> None:
    assert make_pruner(name, {}, ONE) is None


@pytest.mark.parametrize("name", ["asha", "ASHA"])
def test_asha_takes_any_number_of_objectives(name: str) -> None:
    assert isinstance(make_pruner(name, {"reduction": 2}, TWO), Halving)


@pytest.mark.parametrize(
    ("name", "arguments", "objectives", "said"),
    [
        ("median", {}, TWO, "takes one objective, and this study has 2; take the pruner 'asha'"),
        ("medain", {}, ONE, "There is no pruner 'medain'; there are asha, none, "),
        ("asha", {"reduction": 1}, ONE, "at least 1 and 2"),
        ("asha", {"rungs": 1}, ONE, "can't be made"),
        ("percentile", {}, ONE, "can't be made"),
        ("percentile", {"percentile": 900}, ONE, "can't be made"),
    ],
)
def test_what_is_no_pruner_is_refused(
    name: str, arguments: dict[str, Any], objectives: Any, said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        make_pruner(name, arguments, objectives)


@given(st.integers(2, 4).flatmap(lambda m: st.lists(st.tuples(*[st.integers(0, 4)] * m))))
def test_fronts_of_many_objectives_are_those_of_the_definition(
    points: list[tuple[int, ...]],
) -> None:
    if not points:
        return
    objectives = parse_objectives([f"x{i}:minimize" for i in range(len(points[0]))])
    front_of = {}
    left = dict(enumerate(points))
    while left:
        front = [
            number
            for number, point in left.items()
            if not any(dominates(objectives, other, point) for other in left.values())
        ]
        front_of |= dict.fromkeys(front, len(set(front_of.values())))
        left = {number: point for number, point in left.items() if number not in front}
    found = fronts_of(np.array(points, float))
    assert list(found) == [front_of[number] for number in range(len(points))]


def test_a_chain_of_dominated_trials_is_sorted_in_few_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Accuracy and loss mostly agree: then each front has one trial, and peeling them off one by
    # one takes as many comparisons as the third power of the trials.
    compared = 0
    real = pruning._Front.dominates

    def counted(front: pruning._Front, point: np.ndarray) -> bool:
        nonlocal compared
        compared += 1
        return real(front, point)

    monkeypatch.setattr(pruning._Front, "dominates", counted)
    chain = np.arange(2000.0)
    assert list(fronts_of(np.column_stack([chain, chain]))) == list(range(2000))
    assert compared < 2000 * 12


def test_a_diverged_trial_of_an_earlier_run_counts_as_little_as_in_its_own() -> None:
    before, after = Halving(TWO), Halving(TWO)
    for number in range(9):
        values = (0.1 * number, 5.0) if number else (math.nan, math.nan)
        if number:
            before.reason(trial(number), 1, values)
        after.take_up(TrialRecord(number, 0, {}, State.PRUNED, reports={1: values}))
    mine = trial(9), 1, (0.65, 5.0)
    assert after.reason(*mine) == before.reason(*mine)
