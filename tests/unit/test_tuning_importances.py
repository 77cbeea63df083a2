"""Importances: what mattered comes first, whichever way an objective is better."""

import optuna
import pytest

from visiondyno.tuning.importances import FEWEST_TRIALS, METHOD, parameter_importances, searched
from visiondyno.tuning.objectives import parse_objectives

ONE = parse_objectives(["score:maximize"])
TWO = parse_objectives(["score:maximize", "latency_ms"])


def a_study(objectives, function, trials: int = 60) -> optuna.Study:
    study = optuna.create_study(
        directions=[objective.direction for objective in objectives],
        sampler=optuna.samplers.RandomSampler(seed=1),
    )
    study.optimize(function, n_trials=trials)
    return study


def scores(trial):
    x = trial.suggest_float("x", 0, 1)
    trial.suggest_categorical("idle", ["a", "b", "c"])
    y = trial.suggest_int("y", 1, 100) if x > 0.2 else 1
    return x, float(y)


def test_the_parameter_that_decides_comes_first_and_shares_add_up():
    found = parameter_importances(a_study(ONE, lambda trial: scores(trial)[0]), ONE)
    shares = found["of"]["score"]
    assert next(iter(shares)) == "x"
    assert shares["x"] > 0.5
    assert sum(shares.values()) == pytest.approx(1)
    assert (found["method"], found["trials"], found["reason"]) == (METHOD, 60, None)


def test_each_of_several_objectives_has_its_own():
    found = parameter_importances(a_study(TWO, scores), TWO)
    assert list(found["of"]) == ["score", "latency_ms"]
    assert next(iter(found["of"]["score"])) == "x"


def test_which_way_is_better_decides():
    """Low values of a decide at the one end, b at the other."""

    def act(trial):
        a, b = trial.suggest_float("a", 0, 1), trial.suggest_float("b", 0, 1)
        return b**9 - a**9

    down = parse_objectives(["score:minimize"])
    best_of_most = parameter_importances(a_study(ONE, act, 200), ONE)["of"]["score"]
    best_of_least = parameter_importances(a_study(down, act, 200), down)["of"]["score"]
    assert best_of_most["b"] > 0.8
    assert best_of_least["a"] > 0.8


def test_what_was_searched_is_told_of_parameters_of_some_trials_too():
    def act(trial):
        rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
        if trial.suggest_categorical("kind", ["a", "b"]) == "b":
            trial.suggest_int("count", 1, 9)
        return rate

    assert searched(a_study(ONE, act, 12)) == {
        "rate": {"low": 1e-4, "high": 1.0, "log": True},
        "kind": {"choices": ("a", "b")},
        "count": {"low": 1, "high": 9, "log": False},
    }


def test_too_few_trials_have_none_and_say_so():
    found = parameter_importances(a_study(ONE, lambda t: scores(t)[0], FEWEST_TRIALS - 1), ONE)
    assert found["of"] == {}
    assert found["reason"] == "Importances need 10 completed trials, and there are 9."


@pytest.mark.parametrize(
    "function",
    [
        lambda trial: 0 * trial.suggest_float("x", 0, 1),
        lambda trial: trial.number + trial.suggest_categorical("x", [0]),
        lambda trial: float(trial.number),
    ],
    ids=["one-value", "one-choice", "no-parameters"],
)
def test_where_nothing_differs_there_are_none(function):
    found = parameter_importances(a_study(ONE, function, 12), ONE)
    assert found["of"] == {}
    assert found["reason"] == "Every trial had the same parameters or the same value."
