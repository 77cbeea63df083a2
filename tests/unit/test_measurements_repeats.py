"""Merging repeats: the process is the unit, and nothing is made narrower than it is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from visiondyno.measurements.measure import Measure, measured, not_measured
from visiondyno.measurements.repeats import merge_repeats

NAME = "latency_p50_ms"


def one(value: float, interval: tuple[float | None, float | None] | None = None) -> Measure:
    return measured(NAME, value, "clock", interval=interval, n=100)


def merged(*each: Measure) -> Measure:
    return merge_repeats([{NAME: measure} for measure in each])[NAME]


def test_one_process_is_left_as_it_is() -> None:
    assert merged(one(10, (9, 11))) == one(10, (9, 11))


@given(st.lists(st.floats(1, 1e4), min_size=3, max_size=12))
def test_from_three_processes_on_the_interval_is_students_t(values: list[float]) -> None:
    found = merged(*map(one, values))
    assert found.value == pytest.approx(np.mean(values))
    assert found.n == 100 * len(values)
    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    reach = stats.t.ppf(0.975, len(values) - 1) * spread
    assert found.interval == pytest.approx(
        (np.mean(values) - reach, np.mean(values) + reach), rel=1e-6, abs=1e-6
    )


def test_two_processes_give_the_hull() -> None:
    assert merged(one(10, (9, 11)), one(14, (12.5, 15))).interval == (9, 15)
    assert merged(one(10, (9, None)), one(14, (12.5, 15))).interval == (9, None)
    assert merged(one(10), one(14)).interval == (10, 14)


def test_a_process_without_a_value_leaves_none_and_its_reason() -> None:
    found = merged(one(10), not_measured(NAME, "no counter"), one(12))
    assert found.value is None
    assert found.reason == "no counter"


def test_one_estimate_makes_the_whole_an_estimate() -> None:
    found = merged(one(10), one(11), one(12).model_copy(update={"estimated": True}))
    assert found.estimated
    assert "3 fresh processes" in found.method


def test_t_intervals_cover_the_truth() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        process = random.normal(10, 1, 5)  # what a process adds to all its samples
        low, high = merged(*map(one, process)).interval or (None, None)
        assert low is not None
        assert high is not None
        hits += low <= 10 <= high
    assert hits / 400 >= 0.93
