import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from visiondyno.measurements.percentiles import (
    difference_interval,
    mean_interval,
    percentile,
    percentile_interval,
    proportion_interval,
)

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200)
QUANTILES = st.floats(0.01, 0.99)


@given(NUMBERS, QUANTILES)
def test_a_percentile_is_loadgens_order_statistic_and_observed(samples: list[float], q: float):
    assert percentile(samples, q) == sorted(samples)[int(len(samples) * q)]


def test_a_whole_rank_takes_the_larger_neighbour():
    assert percentile([1, 2, 3, 4], 0.5) == 3
    assert percentile(list(range(100)), 0.99) == 99


@given(NUMBERS, QUANTILES, st.randoms())
def test_percentiles_need_no_order(samples: list[float], q: float, random):
    shuffled = samples.copy()
    random.shuffle(shuffled)
    assert percentile(shuffled, q) == percentile(samples, q)
    independent = [percentile_interval(x, q, in_order=False) for x in (shuffled, samples)]
    assert independent[0] == independent[1]


@given(NUMBERS, QUANTILES, QUANTILES)
def test_percentiles_rise_with_q(samples: list[float], one: float, other: float):
    low, high = sorted((one, other))
    assert percentile(samples, low) <= percentile(samples, high)


@given(st.integers(1, 3000), QUANTILES, st.sampled_from([0.9, 0.95, 0.99]))
def test_percentile_intervals_cover_exactly_enough_and_no_more(n: int, q: float, confidence: float):
    """With samples 1 … n the bounds are ranks, whose error is a binomial tail."""
    low, high = percentile_interval(list(range(1, n + 1)), q, confidence, in_order=False)
    tail = (1 - confidence) / 2
    below = stats.binom(n, q)
    if low is None:
        assert below.cdf(0) > tail
    else:
        assert below.cdf(low - 1) <= tail < below.cdf(low) or low == n
    if high is None:
        assert below.sf(n - 1) > tail
    else:
        assert below.sf(high - 1) <= tail
        assert high == 1 or below.sf(high - 2) > tail


def test_an_unbounded_side_is_none():
    low, high = percentile_interval(list(range(100)), 0.99, in_order=False)
    assert low is not None
    assert high is None
    assert percentile_interval([1.0], 0.5) == (None, None)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=300), QUANTILES)
def test_autocorrelation_only_ever_widens(samples: list[float], q: float):
    low, high = percentile_interval(samples, q, in_order=False)
    wide_low, wide_high = percentile_interval(samples, q)
    assert wide_low is None or wide_low <= low
    assert wide_high is None or high <= wide_high


def test_bursts_widen_the_percentile_interval():
    rng = np.random.default_rng(0)
    calm, bursts = rng.lognormal(2, 0.3, 1000), np.repeat(rng.lognormal(2, 0.3, 20), 50)
    independent, dependent = (percentile_interval(bursts, 0.5, in_order=x) for x in (False, True))
    assert np.ptp(dependent) > 2 * np.ptp(independent)
    widths = [np.ptp(percentile_interval(calm, 0.5, in_order=flag)) for flag in (True, False)]
    assert widths[0] < 1.3 * widths[1]


def test_an_outlier_is_never_clipped():
    samples = [1.0] * 99 + [1e9]
    assert percentile(samples, 0.99) == 1e9
    assert mean_interval(samples)[1] > 1e7


def test_the_mean_interval_is_students_t_over_batch_means():
    series = np.arange(200.0) % 7
    batches = series.reshape(20, 10).mean(axis=1)
    low, high = mean_interval(series)
    expected = stats.t.interval(0.95, 19, series.mean(), stats.sem(batches))
    assert (low, high) == pytest.approx(expected)


def test_few_samples_give_no_mean_interval():
    assert mean_interval(list(range(29))) is None
    assert mean_interval(list(range(30))) is not None


def test_slow_drift_widens_the_mean_interval():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 1000)
    drift = np.sort(noise)
    width = [high - low for low, high in (mean_interval(noise), mean_interval(drift))]
    assert width[1] > 4 * width[0]


SIDES = st.floats(0, 10)


@given(st.floats(-100, 100), SIDES, SIDES, st.floats(-100, 100), SIDES, SIDES)
def test_mover_holds_the_difference_and_mirrors(a, a_down, a_up, b, b_down, b_up):
    one = difference_interval(a, (a - a_down, a + a_up), b, (b - b_down, b + b_up))
    other = difference_interval(b, (b - b_down, b + b_up), a, (a - a_down, a + a_up))
    assert one[0] - 1e-9 <= a - b <= one[1] + 1e-9
    assert one == pytest.approx((-other[1], -other[0]), abs=1e-9)


def test_mover_of_symmetric_intervals_adds_in_quadrature():
    assert difference_interval(10, (7, 13), 4, (0, 8)) == pytest.approx((1, 11))
    assert difference_interval(10, (None, 13), 4, (0, 8)) == (None, 11)
    assert difference_interval(10, (7, None), 4, (0, 8)) == (1, None)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy_and_stays_in_range(case: tuple[int, int]):
    successes, n = case
    low, high = proportion_interval(successes, n)
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= high <= 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: percentile([], 0.5),
        lambda: percentile([1.0], 1.0),
        lambda: percentile([math.nan], 0.5),
        lambda: percentile_interval([1.0], 0.5, confidence=1.0),
        lambda: mean_interval([]),
        lambda: proportion_interval(2, 1),
        lambda: proportion_interval(0, 0),
    ],
)
def test_what_can_not_be_computed_is_refused(call):
    with pytest.raises(ValueError):
        call()
