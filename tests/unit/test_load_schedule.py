"""Schedules of loads: as many requests as the rate gives, when it gives them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import SpecError
from visiondyno.loadtest.schedule import MOST_REQUESTS, arrivals_s
from visiondyno.specs.load_test import (
    ClosedLoad,
    ConstantLoad,
    PoissonLoad,
    RampLoad,
    SpikeLoad,
)

rates = st.floats(0.1, 500)
durations = st.floats(0.5, 60)


@st.composite
def spikes(draw: st.DrawFn) -> SpikeLoad:
    start, length, rest = draw(st.tuples(st.floats(0, 10), st.floats(0.1, 10), st.floats(0, 10)))
    return SpikeLoad(
        rate_per_s=draw(rates),
        spike_rate_per_s=draw(rates),
        spike_start_s=start,
        spike_duration_s=length,
        duration_s=start + length + rest,
    )


constants = st.builds(ConstantLoad, rate_per_s=rates, duration_s=durations)
ramps = st.builds(
    RampLoad,
    from_rate_per_s=st.just(0.0) | rates,
    to_rate_per_s=rates,
    duration_s=durations,
) | st.builds(
    RampLoad, from_rate_per_s=rates, to_rate_per_s=st.just(0.0) | rates, duration_s=durations
)
Fixed = ConstantLoad | RampLoad | SpikeLoad
fixed: st.SearchStrategy[Fixed] = constants | ramps | spikes()


def rate_at(load: Fixed, at_s: np.ndarray) -> np.ndarray:
    """Requests a second at these moments, by the words of the specification."""
    if isinstance(load, ConstantLoad):
        return np.full(len(at_s), load.rate_per_s)
    if isinstance(load, RampLoad):
        share = at_s / load.duration_s
        return (1 - share) * load.from_rate_per_s + share * load.to_rate_per_s
    inside = (at_s >= load.spike_start_s) & (at_s < load.spike_start_s + load.spike_duration_s)
    return np.where(inside, load.spike_rate_per_s, load.rate_per_s)


@given(fixed)
def test_the_requests_due_by_a_moment_are_the_integral_of_the_rate(load: Fixed) -> None:
    steps = 20_000
    edges = np.linspace(0, load.duration_s, steps + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    step_s = load.duration_s / steps
    integral = np.concatenate([[0], np.cumsum(rate_at(load, middles) * step_s)])
    due = np.searchsorted(arrivals_s(load), edges, side="right")
    # One step of the sum may be off by a whole step where the rate jumps; counts are whole.
    assert (np.abs(due - integral) <= 1.0 + 2 * 500 * step_s).all()


@given(fixed | st.builds(PoissonLoad, rate_per_s=rates, duration_s=durations), st.integers(0, 99))
def test_moments_ascend_within_the_duration(load: Fixed | PoissonLoad, seed: int) -> None:
    moments = arrivals_s(load, seed)
    assert moments.dtype == np.float64
    assert (np.diff(moments) >= 0).all()
    assert (moments >= 0).all()
    assert (moments < load.duration_s).all()


@given(st.integers(1, 2000), st.integers(1, 600))
def test_a_constant_load_is_evenly_spaced_and_complete(tenths: int, length: int) -> None:
    load = ConstantLoad(rate_per_s=tenths / 10, duration_s=length / 10)
    moments = arrivals_s(load)
    assert len(moments) == -(-tenths * length // 100)
    assert moments == pytest.approx(np.arange(len(moments)) * 10 / tenths)


def test_ten_a_second_for_thirty_seconds_are_three_hundred() -> None:
    moments = arrivals_s(ConstantLoad())
    assert len(moments) == 300
    assert moments[0] == 0
    assert moments[-1] == pytest.approx(29.9)


def test_a_ramp_down_to_nothing_mirrors_the_ramp_up() -> None:
    up = arrivals_s(RampLoad(from_rate_per_s=0, to_rate_per_s=50, duration_s=60))
    down = arrivals_s(RampLoad(from_rate_per_s=50, to_rate_per_s=0, duration_s=60))
    assert len(up) == len(down) == 1500
    assert up[1:] == pytest.approx(60 - down[:0:-1])


def test_poisson_arrivals_are_a_poisson_process() -> None:
    load = PoissonLoad(rate_per_s=50, duration_s=20)
    each = [arrivals_s(load, seed) for seed in range(300)]
    counts = np.array([len(moments) for moments in each])
    # 300 counts of mean and variance 1000: standard errors 1.8 and 82.
    assert abs(counts.mean() - 1000) < 9
    assert abs(counts.var() - 1000) < 410
    gaps = np.concatenate([np.diff(moments) for moments in each]) * 50
    assert gaps.mean() == pytest.approx(1, abs=0.01)
    assert (gaps > 1).mean() == pytest.approx(np.exp(-1), abs=0.005)


def test_the_seed_decides_and_nothing_else_does() -> None:
    load = PoissonLoad(rate_per_s=50, duration_s=20)
    assert (arrivals_s(load, 7) == arrivals_s(load, 7)).all()
    assert len(arrivals_s(load, 7)) != len(arrivals_s(load, 8))
    assert (arrivals_s(ConstantLoad(), 1) == arrivals_s(ConstantLoad(), 2)).all()


def test_so_low_a_rate_may_send_nothing_by_chance_only() -> None:
    load = PoissonLoad(rate_per_s=0.01, duration_s=10)
    assert 0 in {len(arrivals_s(load, seed)) for seed in range(20)}
    assert len(arrivals_s(ConstantLoad(rate_per_s=0.01, duration_s=10))) == 1


def test_a_load_too_large_for_memory_is_refused() -> None:
    load = ConstantLoad(rate_per_s=1_000_000, duration_s=86_400)
    with pytest.raises(SpecError, match=r"86,400,000,000 requests .* shorten"):
        arrivals_s(load)
    assert len(arrivals_s(ConstantLoad(rate_per_s=MOST_REQUESTS / 20, duration_s=20))) <= (
        MOST_REQUESTS
    )


def test_a_closed_loop_has_no_schedule() -> None:
    with pytest.raises(ValueError, match="no schedule"):
        arrivals_s(ClosedLoad())
