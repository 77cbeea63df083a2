"""Names, directions and dominance of objectives."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import SpecError
from visiondyno.tuning.objectives import (
    Objective,
    dominates,
    pareto_front,
    parse_objective,
    parse_objectives,
)

VALUES = st.one_of(
    st.integers(0, 4).map(float), st.floats(allow_nan=True), st.just(math.nan), st.just(-0.0)
)


@pytest.mark.parametrize(
    ("text", "direction"),
    [
        ("val_accuracy", "maximize"),
        ("train_top5_accuracy", "maximize"),
        ("val_loss", "minimize"),
        ("val_rmse", "minimize"),
        ("latency_ms", "minimize"),
        ("energy_joules", "minimize"),
        ("throughput_images_per_s", "maximize"),
        ("parameters", "minimize"),
        (" score:maximize ", "maximize"),
        ("val_accuracy:minimize", "minimize"),
    ],
)
def test_directions_are_known_or_told(text: str, direction: str) -> None:
    assert parse_objective(text).direction == direction


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score", "'score:minimize' or 'score:maximize'"),
        ("score:up", "'up' is no direction"),
        ("a:minimize:x", "no direction"),
        ("", "empty"),
        (":minimize", "empty"),
        ("val_", "isn't known"),
    ],
)
def test_what_is_no_objective_is_told_with_what_to_write(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_objective(text)


def test_a_metric_of_training_is_found_by_its_part() -> None:
    objective = parse_objective("val_top5_accuracy")
    assert (objective.part, objective.metric) == ("val_metrics", "top5_accuracy")
    assert parse_objective("train_loss").part == "train_metrics"
    other = parse_objective("latency_ms")
    assert (other.part, other.metric) == (None, "latency_ms")


def test_objectives_are_some_and_different() -> None:
    assert [o.name for o in parse_objectives(["val_loss", "latency_ms"])] == [
        "val_loss",
        "latency_ms",
    ]
    with pytest.raises(SpecError, match="needs an objective"):
        parse_objectives([])
    with pytest.raises(SpecError, match="'val_loss' is given twice"):
        parse_objectives(["val_loss", "val_loss:maximize"])


@given(a=VALUES, b=VALUES)
def test_better_is_a_strict_order_in_which_nan_is_last(a: float, b: float) -> None:
    for direction in ("minimize", "maximize"):
        objective = Objective("x", direction)
        assert not objective.is_better(a, a)
        assert not (objective.is_better(a, b) and objective.is_better(b, a))
        if math.isnan(b) and not math.isnan(a):
            assert objective.is_better(a, b)
    if a < b:
        assert Objective("x", "minimize").is_better(a, b)
        assert Objective("x", "maximize").is_better(b, a)


@given(
    directions=st.lists(st.sampled_from(["minimize", "maximize"]), min_size=1, max_size=3),
    data=st.data(),
)
def test_the_front_is_what_nothing_else_dominates(
    directions: list[str], data: st.DataObject
) -> None:
    objectives = [Objective(str(n), direction) for n, direction in enumerate(directions)]
    points = data.draw(st.lists(st.tuples(*[VALUES] * len(directions)), max_size=25))
    whole = [n for n, point in enumerate(points) if not any(map(math.isnan, point))]
    expected = [
        n for n in whole if not any(dominates(objectives, points[m], points[n]) for m in whole)
    ]
    assert pareto_front(objectives, points) == expected


def test_dominance_needs_one_better_and_none_worse() -> None:
    both = parse_objectives(["val_accuracy", "latency_ms"])
    assert dominates(both, (0.9, 5.0), (0.8, 5.0))
    assert dominates(both, (0.9, 4.0), (0.9, 5.0))
    assert not dominates(both, (0.9, 5.0), (0.9, 5.0))
    assert not dominates(both, (0.9, 6.0), (0.8, 5.0))
    assert pareto_front(both, [(0.9, 6.0), (0.8, 5.0), (0.8, 6.0), (0.9, 6.0)]) == [0, 1, 3]
