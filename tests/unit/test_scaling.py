"""How many processes there should be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.executors.scaling import ScaleLimits, processes_to_start, processes_to_stop

LIMITS = st.tuples(st.integers(0, 8), st.integers(1, 8)).map(
    lambda two: ScaleLimits(min(two), max(two), 5.0)
)


@given(LIMITS, st.integers(0, 8), st.integers(0, 8), st.integers(0, 100))
def test_starts_keep_within_the_limits_and_serve_what_waits(
    limits: ScaleLimits, alive: int, free: int, claimable: int
) -> None:
    alive = min(alive, limits.most)
    free = min(free, alive)
    more = processes_to_start(limits, alive=alive, idle_or_starting=free, claimable=claimable)
    assert limits.least <= alive + more <= limits.most
    unserved = claimable - free - more
    assert unserved <= 0 or alive + more == limits.most
    assert more == 0 or claimable > free or alive < limits.least


@given(LIMITS, st.lists(st.floats(0, 100), max_size=8), st.integers(0, 8))
def test_stops_take_the_longest_idle_and_never_go_below_the_least(
    limits: ScaleLimits, idle_s: list[float], busy: int
) -> None:
    alive = len(idle_s) + busy
    places = processes_to_stop(limits, alive=alive, idle_s=idle_s)
    assert len(set(places)) == len(places) <= max(0, alive - limits.least)
    assert all(idle_s[place] >= limits.idle_timeout_s for place in places)
    stopped = {idle_s[place] for place in places}
    left = [idle for place, idle in enumerate(idle_s) if place not in places]
    assert not stopped or not left or max(left) <= min(stopped)


def test_one_job_starts_one_process_and_a_minute_later_it_goes() -> None:
    limits = ScaleLimits(0, 3, 5.0)
    assert processes_to_start(limits, alive=0, idle_or_starting=0, claimable=1) == 1
    assert processes_to_start(limits, alive=1, idle_or_starting=1, claimable=1) == 0
    assert processes_to_start(limits, alive=1, idle_or_starting=0, claimable=9) == 2
    assert processes_to_stop(limits, alive=1, idle_s=[4.9]) == []
    assert processes_to_stop(limits, alive=1, idle_s=[5.0]) == [0]


@pytest.mark.parametrize(("least", "most"), [(2, 1), (-1, 3), (0, 0)])
def test_impossible_limits_are_refused(least: int, most: int) -> None:
    with pytest.raises(ValueError, match="least"):
        ScaleLimits(least, most, 5.0)
