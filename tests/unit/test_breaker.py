"""The circuit breaker opens after failures in a row, tries one at a time, and closes on success."""

import pytest

from visiondyno.executors.breaker import Breaker, BreakerOpen, BreakerState

URL = "https://api.runpod.ai/v2/abc123"
DOWN = "No server answers; check the network."


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def opened(clock: Clock, draws: list[tuple[float, float]] | None = None) -> Breaker:
    """A breaker that has just opened; each pause is the longest of its range."""

    def longest(low: float, high: float) -> float:
        if draws is not None:
            draws.append((low, high))
        return high

    breaker = Breaker(URL, clock=clock, draw=longest, first_pause_s=4.0, longest_pause_s=20.0)
    for _ in range(3):
        with breaker.admitted() as is_trial:
            assert not is_trial
            breaker.failed(DOWN)
    return breaker


def test_it_opens_after_three_failures_in_a_row_and_says_why() -> None:
    breaker = opened(Clock())
    reading = breaker.reading()
    assert (reading.state, reading.failures) == (BreakerState.OPEN, 3)
    assert (reading.reason, reading.tried_again_in_s) == (DOWN, 4.0)
    with pytest.raises(BreakerOpen) as caught, breaker.admitted():
        pytest.fail("it lets new work through")
    for told in (URL, "3 times", "in 4 s", DOWN):
        assert told in caught.value.message


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker(URL, clock=Clock())
    for _ in range(4):
        breaker.failed(DOWN)
        breaker.failed(DOWN)
        breaker.succeeded()
    reading = breaker.reading()
    assert (reading.state, reading.failures) == (BreakerState.CLOSED, 0)
    assert (reading.reason, reading.tried_again_in_s) == (None, None)


def test_one_at_a_time_tries_again_and_a_success_closes_it() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s += 4.0
    assert breaker.reading().tried_again_in_s == 0.0
    with breaker.admitted() as is_trial:
        assert is_trial
        assert breaker.reading().state == "half-open"
        with pytest.raises(BreakerOpen, match="tried again now"), breaker.admitted():
            pytest.fail("it lets a second one through")
        breaker.succeeded()
    assert breaker.reading().state == "closed"
    with breaker.admitted() as is_trial:
        assert not is_trial


def test_each_try_in_vain_doubles_the_pause_drawn_from_its_second_half() -> None:
    clock = Clock()
    draws: list[tuple[float, float]] = []
    breaker = opened(clock, draws)
    for _ in range(3):
        clock.now_s += 20.0
        with breaker.admitted() as is_trial:
            assert is_trial
            breaker.failed(DOWN)
    assert draws == [(2.0, 4.0), (4.0, 8.0), (8.0, 16.0), (10.0, 20.0)]
    clock.now_s += 20.0
    with breaker.admitted():
        breaker.succeeded()
    for _ in range(3):
        breaker.failed(DOWN)
    assert draws[-1] == (2.0, 4.0)


def test_a_late_failure_changes_no_pause_and_a_late_success_closes_it() -> None:
    clock = Clock()
    draws: list[tuple[float, float]] = []
    breaker = opened(clock, draws)
    breaker.failed("late")
    assert (len(draws), breaker.reading().reason) == (1, "late")
    breaker.succeeded()
    assert breaker.reading().state == "closed"


def test_a_try_without_outcome_leaves_the_next_one_to_try() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s += 4.0
    with pytest.raises(KeyError), breaker.admitted():
        raise KeyError
    with breaker.admitted() as is_trial:
        assert is_trial


def test_an_old_try_that_ends_leaves_a_newer_one_alone() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s += 4.0
    with breaker.admitted():
        breaker.failed(DOWN)
        clock.now_s += 8.0
        newer = breaker.admitted()
        assert newer.__enter__()
    assert breaker.reading().state == "half-open"
    newer.__exit__(None, None, None)
    assert breaker.reading().state == "open"
