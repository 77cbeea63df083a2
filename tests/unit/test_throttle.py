"""Quotas hold in any ten seconds of the endpoint's own time; requests keep their order."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.executors.throttle import RUNPOD_QUOTAS, WINDOW_S, Quota, Throttle


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only where all wait, and then at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        wait = self._selector.select  # type: ignore[attr-defined]

        def select(timeout_s: float | None) -> Any:
            assert timeout_s is not None, "all wait for ever"
            self.now_s += timeout_s
            return wait(0)

        self._selector.select = select  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now_s


def simulate(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(main)


@dataclass
class Seen:
    order: int
    begun_s: float
    ended_s: float


async def requests(quota: Quota, planned: list[tuple[float, float]]) -> list[Seen]:
    """What becomes of requests that come and take so many seconds, in the order they began."""
    now = asyncio.get_running_loop().time
    throttle = Throttle({"run": quota}, clock=now)
    seen: list[Seen] = []

    async def one(order: int, takes_s: float) -> None:
        async with throttle.turn("run"):
            mine = Seen(order, now(), 0.0)
            seen.append(mine)
            await asyncio.sleep(takes_s)
            mine.ended_s = now()

    async with asyncio.TaskGroup() as group:
        for order, (gap_s, takes_s) in enumerate(planned):
            await asyncio.sleep(gap_s)
            group.create_task(one(order, takes_s))
    return seen


QUOTAS = st.integers(1, 6).flatmap(
    lambda most: st.builds(Quota, st.just(most), st.none() | st.integers(1, most))
)
SECONDS = st.sampled_from([0.0, 0.3, 1.0, 2.5, 9.9, 12.0])


@given(QUOTAS, st.lists(st.tuples(SECONDS, SECONDS), max_size=30))
def test_no_ten_seconds_hold_more_than_the_quota_wherever_requests_are_seen(
    quota: Quota, planned: list[tuple[float, float]]
) -> None:
    seen = simulate(requests(quota, planned))
    assert [one.order for one in seen] == list(range(len(planned)))  # first come, first served
    for window in seen:
        begin_s, end_s = window.ended_s, window.ended_s + WINDOW_S - 0.0011
        inside = [one for one in seen if one.ended_s >= begin_s and one.begun_s < end_s]
        assert len(inside) <= quota.requests
        at_once = [one for one in seen if one.begun_s <= window.begun_s < one.ended_s]
        assert len(at_once) <= (quota.at_once or quota.requests)


def test_a_quota_is_used_to_the_last_request() -> None:
    seen = simulate(requests(Quota(3), [(0.0, 0.0)] * 7))
    assert [one.begun_s for one in seen] == pytest.approx([0, 0, 0, 10, 10, 10, 20])


def test_one_too_many_at_once_waits_for_an_end() -> None:
    seen = simulate(requests(Quota(9, at_once=2), [(0.0, 4.0), (0.0, 1.0), (0.0, 1.0)]))
    assert [one.begun_s for one in seen] == pytest.approx([0, 0, 1])


def test_who_leaves_the_queue_or_fails_takes_no_place() -> None:
    async def main() -> None:
        now = asyncio.get_running_loop().time
        throttle = Throttle({"run": Quota(2, at_once=1)}, clock=now)

        async def turn(takes_s: float) -> float:
            async with throttle.turn("run"):
                begun_s = now()
                await asyncio.sleep(takes_s)
                return begun_s

        first = asyncio.create_task(turn(1.0))
        leaving = [asyncio.create_task(turn(1.0)) for _ in range(3)]
        last = asyncio.create_task(turn(0.0))
        await asyncio.sleep(0.5)
        for task in leaving:
            task.cancel()
        assert (await first, await last) == pytest.approx((0.0, 1.0))
        waiting = asyncio.create_task(turn(0.0))  # has a place and waits for a token
        await asyncio.sleep(1.0)
        waiting.cancel()
        with pytest.raises(ZeroDivisionError):
            async with throttle.turn("run"):
                raise ZeroDivisionError
        assert now() == pytest.approx(11.0)
        assert await turn(0.0) == pytest.approx(11.0)

    simulate(main())


def test_routes_are_held_apart_and_unknown_ones_not_at_all() -> None:
    async def main() -> float:
        now = asyncio.get_running_loop().time
        throttle = Throttle({"run": Quota(1), "cancel": Quota(1)}, clock=now)
        for route in ("run", "cancel", "health", "health", "health"):
            async with throttle.turn(route):
                pass
        return now()

    assert simulate(main()) == 0.0


def test_runpods_quotas_are_those_of_its_documentation() -> None:
    often = Quota(2000, 400)
    assert dict(RUNPOD_QUOTAS) == {
        "run": Quota(1000, 200),
        "runsync": often,
        "status": often,
        "stream": often,
        "cancel": Quota(100, 20),
        "purge-queue": Quota(2),
    }
