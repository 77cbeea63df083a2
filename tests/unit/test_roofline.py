"""The roofline's arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.measurements.roofline import Attained, Roofline, attained

RATES = st.floats(1e3, 1e15)
WORK = st.integers(1, 10**15)
SECONDS = st.floats(1e-9, 1e4)


@given(RATES, RATES, st.floats(1e-6, 1e6))
def test_the_attainable_is_the_lower_of_the_two_limits(flop_per_s, bytes_per_s, intensity):
    roof = Roofline(flop_per_s, bytes_per_s)
    found = roof.attainable_flop_per_s(intensity)
    assert found <= flop_per_s
    assert found <= intensity * bytes_per_s
    assert found in (flop_per_s, intensity * bytes_per_s)
    assert roof.limit(intensity) == ("compute" if intensity >= roof.ridge else "memory")


@given(RATES, RATES)
def test_the_limits_meet_at_the_ridge(flop_per_s, bytes_per_s):
    roof = Roofline(flop_per_s, bytes_per_s)
    assert roof.ridge * bytes_per_s == pytest.approx(flop_per_s)


@given(WORK, WORK, SECONDS, RATES, RATES)
def test_a_share_is_the_reached_over_the_attainable(flop, moved, seconds, flop_per_s, bytes_per_s):
    roof = Roofline(flop_per_s, bytes_per_s)
    found = attained(flop, moved, seconds, roof)
    assert found.share == pytest.approx(
        found.flop_per_s / roof.attainable_flop_per_s(flop / moved), rel=1e-6
    )
    assert found.limit == roof.limit(flop / moved)


@given(WORK, WORK, SECONDS, RATES, RATES, st.floats(1.1, 100))
def test_who_takes_longer_reached_less(flop, moved, seconds, flop_per_s, bytes_per_s, factor):
    roof = Roofline(flop_per_s, bytes_per_s)
    quick, slow = (attained(flop, moved, took, roof) for took in (seconds, seconds * factor))
    assert quick.share == pytest.approx(factor * slow.share)
    assert quick.limit == slow.limit


def test_what_moves_data_alone_is_bound_by_memory():
    found = attained(0, 500, 1e-6, Roofline(1e12, 1e9))
    assert (found.limit, found.share, found.intensity) == ("memory", pytest.approx(0.5), 0)


@pytest.mark.parametrize(("flop", "moved"), [(None, 10), (10, None), (None, None), (10, 0)])
def test_what_is_unknown_has_no_limit(flop, moved):
    found = attained(flop, moved, 1.0, Roofline(1.0, 1.0))
    assert (found.limit, found.share, found.intensity) == (None, None, None)
    assert found.flop_per_s == flop


def test_without_time_or_limits_nothing_is_judged():
    assert attained(1, 1, 0.0, Roofline(1.0, 1.0)) == Attained()
    assert attained(6, 3, 1.0, None) == Attained(2.0, 6.0, 3.0)
