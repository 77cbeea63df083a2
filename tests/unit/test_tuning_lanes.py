"""How many trials run, and where: one place decides."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuning_cases import Clock, NoPlace, a_lane

from visiondyno.errors import RateLimited, TransportDown
from visiondyno.executors.breaker import Breaker
from visiondyno.tuning.lanes import Lane, Lanes, NoLanes

DOWN = TransportDown("It is down.")


def on(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(main(), 30)

    return asyncio.run(bounded())


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_lane_takes_half_as_many_after_a_failure_and_more_again_after_successes() -> None:
    clock = Clock()
    lane = a_lane(capacity=8, clock=clock)
    lane.failed(DOWN)
    assert lane.width == 4
    lane.failed(DOWN)
    lane.failed(DOWN)
    lane.failed(DOWN)
    assert lane.width == 1, "never none: it is tried again"
    needed = 0
    while lane.width < 8:
        lane.succeeded()
        needed += 1
    assert needed == 1 + 2 + 3 + 4 + 5 + 6 + 7
    for _ in range(20):
        lane.succeeded()
    assert lane.width == 8, "never more than its capacity"


def test_pauses_double_with_failures_in_a_row_and_end_with_a_success() -> None:
    clock = Clock()
    lane = a_lane(clock=clock)
    pauses = []
    for _ in range(8):
        lane.failed(DOWN)
        since_s = clock.now_s
        while not lane.is_free():
            clock.now_s += 0.25
        pauses.append(clock.now_s - since_s)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    lane.succeeded()
    lane.failed(DOWN)
    clock.now_s += 1.0
    assert lane.is_free()


def test_a_lane_waits_as_long_as_it_was_asked_to() -> None:
    clock = Clock()
    lane = a_lane(clock=clock)
    lane.failed(RateLimited("Too many.", retry_after_s=30.0))
    clock.now_s = 30.0
    assert not lane.is_free()
    clock.now_s = 31.0
    assert lane.is_free()


def test_a_lane_whose_breaker_is_open_takes_nothing() -> None:
    clock = Clock()
    breaker = Breaker("there", failures_to_open=1, clock=clock, draw=lambda _, high: high)
    lane = a_lane(clock=clock, session=NoPlace(breaker))
    assert lane.is_free()
    breaker.failed("It is down.")
    assert not lane.is_free()
    reading = lane.reading()
    assert reading.breaker is not None
    assert reading.breaker.state == "open"
    clock.now_s += 5.0
    assert lane.is_free(), "so that one trial tries again"


def test_trials_go_to_the_least_loaded_lane() -> None:
    async def main() -> list[str]:
        lanes = Lanes([a_lane("a", 4), a_lane("b", 2)], at_once=6)
        return [(await lanes.take(1)).name for _ in range(6)]

    taken = on(main)
    assert taken == ["a", "b", "a", "a", "b", "a"]


def test_no_more_run_at_once_than_are_wanted_and_who_waits_is_served_in_order() -> None:
    async def main() -> None:
        lanes = Lanes([a_lane("a", 4), a_lane("b", 4)], at_once=3)
        taken = [await lanes.take(1) for _ in range(3)]
        order: list[str] = []

        async def one(name: str, priority: int) -> None:
            lane = await lanes.take(priority)
            order.append(name)
            lanes.give_back(lane)

        waiting = [
            asyncio.create_task(one(name, priority))
            for name, priority in (("new", 1), ("newer", 1), ("again", 0))
        ]
        await turns()
        assert not order
        lanes.give_back(taken[0])
        await asyncio.gather(*waiting)
        assert order == ["again", "new", "newer"]
        await lanes.close()

    on(main)


def test_a_lane_that_failed_a_trial_is_avoided_while_another_one_is_open() -> None:
    async def main() -> None:
        lanes = Lanes([a_lane("a", 1), a_lane("b", 1)], at_once=2)
        a = await lanes.take(1, frozenset({"b"}))
        assert a.name == "a"
        waiting = asyncio.create_task(lanes.take(0, frozenset({"b"})))
        other = await lanes.take(1)
        assert other.name == "b", "who may go there doesn't wait for who may not"
        lanes.give_back(other)
        await turns()
        assert not waiting.done()
        lanes.close_lane(a, "It lets nobody in.")
        assert (await waiting).name == "b", "there is no other one left"
        await lanes.close()

    on(main)


def test_when_every_lane_is_closed_nobody_waits_for_ever() -> None:
    async def main() -> None:
        lane = a_lane("a", 1)
        lanes = Lanes([lane], at_once=1)
        await lanes.take(1)
        waiting = asyncio.create_task(lanes.take(1))
        await turns()
        lanes.close_lane(lane, "The key isn't taken.")
        with pytest.raises(NoLanes, match="a: The key isn't taken"):
            await waiting
        with pytest.raises(NoLanes):
            await lanes.take(1)
        assert lanes.width == 0

    on(main)


def test_who_waits_for_a_pause_is_served_after_it() -> None:
    async def main() -> None:
        clock = Clock()
        lane = a_lane("a", 1, clock)
        lanes = Lanes([lane], at_once=1, sleep=clock.sleep)
        lane.failed(DOWN)
        taken = await lanes.take(1)
        assert taken is lane
        assert clock.now_s >= 1.0
        await lanes.close()

    on(main)


def test_one_who_stops_waiting_takes_no_place() -> None:
    async def main() -> None:
        lanes = Lanes([a_lane("a", 1)], at_once=1)
        lane = await lanes.take(1)
        leaving = asyncio.create_task(lanes.take(1))
        staying = asyncio.create_task(lanes.take(1))
        await turns()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        lanes.give_back(lane)
        assert (await staying) is lane
        # One that is cancelled in the moment it is served gives its place back.
        late = asyncio.create_task(lanes.take(1))
        await turns()
        lanes.give_back(lane)
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        assert (await lanes.take(1)) is lane
        await lanes.close()

    on(main)


def test_little_memory_narrows_the_lanes_of_this_machine() -> None:
    async def main() -> None:
        free = 0.05
        clock = Clock()
        here = a_lane("here", 4)
        there = a_lane("there", 2, session=NoPlace(is_here=False))
        lanes = Lanes([here, there], 6, memory_share=lambda: free, sleep=clock.sleep)
        taken = [(await lanes.take(1)).name for _ in range(3)]
        assert sorted(taken) == ["here", "there", "there"]
        waiting = asyncio.create_task(lanes.take(1))
        await turns()
        assert not waiting.done()
        free = 0.5
        assert (await waiting).name == "here"
        await lanes.close()

    on(main)


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "end", "fail", "again"]), st.integers(0, 7)),
        max_size=60,
    )
)
def test_whatever_happens_no_lane_has_more_than_it_bears(acts: list[tuple[str, int]]) -> None:
    async def main() -> None:
        clock = Clock()
        made = [a_lane(name, capacity, clock) for name, capacity in (("a", 1), ("b", 3))]
        lanes = Lanes(made, at_once=3, sleep=clock.sleep)
        held: list[Lane] = []
        waiting: list[asyncio.Task[Lane]] = []
        for act, number in acts:
            if act == "take":
                waiting.append(asyncio.create_task(lanes.take(number)))
            elif held:
                lane = held.pop(number % len(held))
                {"end": lane.succeeded, "again": lane.succeeded}.get(
                    act, lambda lane=lane: lane.failed(DOWN)
                )()
                lanes.give_back(lane)
            await turns(3)
            held += [task.result() for task in waiting if task.done()]
            waiting = [task for task in waiting if not task.done()]
            running = [lane.reading().running for lane in made]
            assert sum(running) <= 3
            for one, count in zip(made, running, strict=True):
                assert held.count(one) <= count <= one.capacity
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await lanes.close()

    on(main)


def test_the_reserve_takes_trials_only_while_every_other_lane_is_out() -> None:
    async def main() -> None:
        clock = Clock()
        endpoint = a_lane("endpoint", 1, clock)
        reserve = a_lane("local", 2, clock, is_reserve=True)
        lanes = Lanes([endpoint, reserve], at_once=3, sleep=clock.sleep)
        assert lanes.width == 1
        first = await lanes.take(1)
        assert first is endpoint
        waiting = asyncio.create_task(lanes.take(1))
        await turns()
        assert not waiting.done(), "it is busy, not out"
        endpoint.failed(DOWN)
        lanes.give_back(endpoint)
        assert (await waiting) is reserve
        clock.now_s += 60.0
        assert (await lanes.take(1)) is endpoint, "it is tried again"
        lanes.close_lane(endpoint, "It lets nobody in.")
        assert (await lanes.take(1)) is reserve
        assert lanes.width == 2
        await lanes.close()

    on(main)


def test_who_failed_on_every_lane_is_not_kept_for_a_reserve_that_takes_nothing_now() -> None:
    async def main() -> None:
        clock = Clock()
        endpoint = a_lane("endpoint", 1, clock)
        reserve = a_lane("local", 1, clock, is_reserve=True)
        lanes = Lanes([endpoint, reserve], at_once=2, sleep=clock.sleep)
        assert await lanes.take(0, frozenset({"endpoint"})) is endpoint
        await lanes.close()

    on(main)
