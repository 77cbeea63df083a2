"""The search for the highest rate: what holds, what is recorded, where it ends."""

import numpy as np
import pytest
from coroutines import run
from hypothesis import given, settings
from hypothesis import strategies as st

from recording_factory import a_recording
from visiondyno.loadtest.recording import Outcome
from visiondyno.loadtest.search import find_rate, judge_try, load_at, search_notes
from visiondyno.measurements.rate_search import RateBisection
from visiondyno.specs.load_test import ConstantLoad, PoissonLoad

LOAD = ConstantLoad(rate_per_s=10, duration_s=5)


def judged(recording, limit_ms=50.0):
    return judge_try(10.0, recording, limit_ms, processes=1, connections=None)


@settings(max_examples=200, deadline=None)
@given(st.floats(0.5, 5000), st.floats(1, 100), st.sampled_from([0.02, 0.05]))
def test_bisection_ends_close_under_any_capacity(capacity, first, finest):
    search = RateBisection(first_per_s=first, finest=finest, most_tries=40)
    held, broke = [0.0], []
    while (rate := search.next_rate()) is not None:
        search.tell(rate, held=rate <= capacity)
        (held if rate <= capacity else broke).append(rate)
    if capacity < first / 64:
        assert search.best_per_s is None
    elif search.best_per_s is not None:
        assert search.best_per_s == max(held)
        assert min(broke) - max(held) <= finest * min(broke)
    else:
        assert min(broke) / 2 <= first / 64


def test_a_search_needs_somewhere_to_begin():
    with pytest.raises(ValueError, match="capacity"):
        RateBisection()


def test_a_try_is_long_enough_for_the_bound_on_p99():
    slow = load_at(LOAD, 2.0, 50.0)
    assert slow.rate_per_s == 2
    assert slow.rate_per_s * slow.duration_s >= 662
    assert load_at(LOAD, 1000.0, 50.0).duration_s == 5
    poisson = load_at(PoissonLoad(rate_per_s=1, duration_s=5), 10.0, 50.0)
    assert poisson.rate_per_s * poisson.duration_s > 740


def test_why_a_rate_did_not_hold():
    assert judged(a_recording([20.0] * 700)).held
    one_failed = judged(a_recording([20.0] * 700, outcomes={3: Outcome.CUT}))
    assert one_failed.why_not == "1 request of 700 had no good answer"
    assert one_failed.error_fraction == 1 / 700
    few = judged(a_recording([20.0] * 600))
    assert "it needs 662" in few.why_not
    assert few.p99_ms is None
    slow = judged(a_recording([20.0] * 650 + [90.0] * 60))
    assert slow.why_not == "p99 is up to 90 ms, over the limit of 50 ms"
    busy = judged(a_recording([20.0] * 700, cpu_s=69.0))
    assert "--generators" in busy.why_not


class Target:
    """A single server of 10 ms a request: waits grow without end over 100 requests/s."""

    def __init__(self) -> None:
        self.loads = []

    async def run_at(self, load):
        self.loads.append(load)
        n = round(load.rate_per_s * load.duration_s)
        gap_ms = 1000 / load.rate_per_s
        waits = np.maximum(0, np.arange(n) * (10 - gap_ms))
        return a_recording(10 + waits, rate_per_s=load.rate_per_s, lag_ms=0.01, cpu_s=0.0)


def test_the_search_finds_the_capacity_and_records_each_try():
    target, told = Target(), []
    found = run(
        find_rate(LOAD, 50.0, target.run_at, processes=1, connections=None, on_try=told.append)
    )
    assert 95 <= found.best_rate_per_s <= 101
    assert found.tries == tuple(told)
    assert [one.rate_per_s for one in told][:5] == [10, 20, 40, 80, 160]
    assert all(one.held == (one.rate_per_s <= found.best_rate_per_s) for one in found.tries)
    assert len(target.loads) == len(found.tries)


@pytest.mark.parametrize("limit_ms", [30.0, 300.0, 3_000.0, 30_000.0])
def test_no_generous_limit_lets_a_rate_hold_that_cannot_last(limit_ms):
    found = run(find_rate(LOAD, limit_ms, Target().run_at, processes=1, connections=None))
    assert 95 <= found.best_rate_per_s <= 106


def test_a_search_says_what_ended_it():
    async def without_end(load):
        return a_recording([1.0] * 700, lag_ms=0.01, cpu_s=0.0)

    async def busy_generator(load):
        cpu_s = 69.9 if load.rate_per_s > 50 else 0.0
        return a_recording([1.0] * 700, lag_ms=0.01, cpu_s=cpu_s)

    def notes(run_at, limit_ms=50.0):
        found = run(find_rate(LOAD, limit_ms, run_at, processes=1, connections=None))
        return " ".join(search_notes(found))

    assert "a higher one" in notes(without_end)
    assert notes(busy_generator).startswith("The generator ended the search")
    assert notes(Target().run_at, 5.0).startswith("No rate held")
    assert notes(Target().run_at) == ""


def test_a_limit_that_nothing_keeps_finds_no_rate():
    target = Target()
    found = run(find_rate(LOAD, 5.0, target.run_at, processes=1, connections=None))
    assert found.best_rate_per_s is None
    assert found.tries
    assert not any(one.held for one in found.tries)


def test_a_stopped_try_is_not_recorded():
    target, stopped = Target(), []

    async def run_at(load):
        stopped.extend([True] if load.rate_per_s >= 40 else [])
        return await target.run_at(load)

    found = run(
        find_rate(
            LOAD, 50.0, run_at, processes=1, connections=None, is_stopped=lambda: bool(stopped)
        )
    )
    assert [one.rate_per_s for one in found.tries] == [10, 20]
    assert found.best_rate_per_s == 20
