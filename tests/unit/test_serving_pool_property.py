"""Whatever happens in whatever order: every image gets exactly its own answer, or an error."""

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from serving_stand_ins import FakeReplica, Launcher, ask, new_pool, settle, told
from virtual_time import VirtualTimeLoop
from visiondyno.errors import ChildDied, NotReady, RateLimited, TimeLimitExceeded
from visiondyno.serving.pool import Pool
from visiondyno.serving.wire import Kind

REFUSALS = (RateLimited, NotReady, TimeLimitExceeded, ChildDied)
QUEUE = 6
MOST_AT_ONCE = 3


class PoolMachine(RuleBasedStateMachine):
    """Requests, hang-ups, answers, deaths and the clock, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.launcher = Launcher()
        self.asked: list[tuple[list[str], asyncio.Task[Any]]] = []
        self.deaths_while_running: dict[bytes, int] = {}
        self.pool: Pool

    @initialize(
        least=st.integers(0, 2),
        more=st.integers(0, 2),
        max_batch=st.integers(1, 3),
        delay_s=st.sampled_from([0.0, 0.02]),
    )
    def begin(self, least: int, more: int, max_batch: int, delay_s: float) -> None:
        async def begin() -> None:
            self.pool = new_pool(
                self.launcher,
                least,
                max(1, least + more),
                max_batch=max_batch,
                batch_delay_s=delay_s,
                queue=QUEUE,
                time_limit_s=30.0,
                idle_timeout_s=5.0,
            )
            starting = asyncio.create_task(self.pool.start())
            await settle()
            self.launcher.all[0].ready()
            await starting

        self.runner.run(begin())
        self.max_batch = max_batch

    @rule(count=st.integers(1, MOST_AT_ONCE), kind=st.sampled_from([Kind.IMAGE, Kind.TENSORS]))
    def request(self, count: int, kind: Kind) -> None:
        names = [f"i{len(self.asked)}-{number}" for number in range(count)]

        async def begin() -> None:
            self.asked.append((names, ask(self.pool, *names, kind=kind)))
            await settle()

        self.runner.run(begin())

    @rule(which=st.integers(0, 50))
    def hang_up(self, which: int) -> None:
        waiting = [task for _, task in self.asked if not task.done()]
        if waiting:
            waiting[which % len(waiting)].cancel()
            self.runner.run(settle())

    @rule(which=st.integers(0, 5))
    def become_ready(self, which: int) -> None:
        starting = [one for one in self._members if one.readiness is None]
        if starting:
            replica: Any = starting[which % len(starting)].replica
            self._on_loop(replica.ready)

    @rule(which=st.integers(0, 5))
    def answer(self, which: int) -> None:
        busy = [one for one in self.launcher.alive if one.given]
        if busy:
            self._on_loop(busy[which % len(busy)].answer)

    @rule(which=st.integers(0, 5))
    def die(self, which: int) -> None:
        alive = self.launcher.alive
        if alive:
            self._die(alive[which % len(alive)])

    @rule(seconds=st.sampled_from([0.01, 0.3, 3.0, 12.0]))
    def wait(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))
        self.runner.run(settle())

    @invariant()
    def no_batch_is_too_large_and_no_queue_too_long(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert all(len(batch) <= self.max_batch for one in self.launcher.all for batch in one.seen)
        # Those of replicas that died come back to the queue beyond its limit.
        held = 2 * self.max_batch * len(self.launcher.all)
        assert self.pool.depth <= QUEUE + held + MOST_AT_ONCE
        assert all(len(one.given) <= 2 for one in self.launcher.alive)

    @invariant()
    def nothing_waits_while_a_replica_is_free(self) -> None:
        if not hasattr(self, "pool") or self.pool.limits.batch_delay_s:
            return
        free = [one for one in self.pool.fleet.able if not one.batches]
        assert not (free and self.pool.depth)

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.runner.run(self._finish())
        self.runner.close()

    async def _finish(self) -> None:
        """Let the replicas work again: everything ends, and ends right."""
        draining = asyncio.create_task(self.pool.drain(60.0))
        for _ in range(2000):
            if draining.done():
                break
            for one in self._members:
                replica: Any = one.replica
                if one.readiness is None:
                    replica.ready()
            for alive in self.launcher.alive:
                while alive.given:
                    alive.answer()
            await asyncio.sleep(0.1)
        assert await draining
        assert not self.pool.depth + self.pool.in_flight
        self._check_ends()
        await self.pool.close()
        assert not self.launcher.alive

    def _check_ends(self) -> None:
        for names, task in self.asked:
            assert task.done()
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                assert told(task.result()) == [name.upper() for name in names]
            else:
                assert isinstance(error, REFUSALS)
                if isinstance(error, ChildDied):
                    assert max(self.deaths_while_running.get(n.encode(), 0) for n in names) == 2

    @property
    def _members(self) -> list[Any]:
        return self.pool.fleet.members

    def _die(self, replica: FakeReplica) -> None:
        for name in next(iter(replica.given.values()), []):
            self.deaths_while_running[name] = self.deaths_while_running.get(name, 0) + 1
        self._on_loop(replica.die)

    def _on_loop(self, act: Any) -> None:
        async def scenario() -> None:
            act()
            await settle()

        self.runner.run(scenario())


def test_pool_keeps_its_promises_in_any_order_of_events() -> None:
    examples = settings(max_examples=60, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(PoolMachine, settings=examples)
