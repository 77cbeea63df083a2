"""The pool: what waits, and which replica gets it in which batch.

One queue for all replicas, in order of arrival: a request never waits behind a slow one while
another replica is free. A batch is what waits when a replica can take it (up to `max_batch`), so
batches grow under load and cost nothing without; `batch_delay_s` makes them wait for more.

A replica that is busy is handed one more batch while full batches wait for all: then it never
stands still between two batches, nobody who could be answered sooner waits behind it, and no batch
is cut short for it.

An item whose replica dies goes to the head of the queue and gets one other try; if that dies too,
the item is the likely reason, and is answered with an error; it is alone in its second batch, so
that others don't share its fate. Predicting is free of effects, so trying again is safe. All
methods on the event loop.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from visiondyno.errors import (
    ChildDied,
    NotReady,
    RateLimited,
    TimeLimitExceeded,
    VisionDynoError,
)
from visiondyno.serving.accepted import Begun, PoolLimits, Predicted, Waiting
from visiondyno.serving.fleet import Fleet, Member
from visiondyno.serving.metrics import ServingMetrics
from visiondyno.serving.replicas import Launch, Readiness
from visiondyno.serving.wire import Answer, Item

__all__ = ["Begun", "Pool", "PoolLimits", "Predicted"]

_MOST_TRIES = 2
_HANG_GRACE_S = 10.0
"""A batch that still runs so long after the time limit of requests: its replica hangs."""


class Pool:
    """See the module's text."""

    def __init__(
        self,
        limits: PoolLimits,
        launch: Launch,
        metrics: ServingMetrics,
        clock: Callable[[], float] | None = None,
        on_batch: Callable[[Sequence[Item], Sequence[Answer]], None] = lambda *_: None,
    ) -> None:
        """`clock` gives seconds, monotonic; the event loop's if None.

        `on_batch` is told each batch that came back, with its answers.
        """
        self.limits = limits
        self._on_batch = on_batch
        self._clock = clock or asyncio.get_running_loop().time
        hang_s = limits.time_limit_s + _HANG_GRACE_S
        self.fleet = Fleet(limits.scale, launch, metrics, hang_s, self._clock)
        self._metrics = metrics
        self._max_batch = limits.max_batch or 1
        self._queue: deque[Waiting] = deque()
        self._batch_ids = 0
        self._delay: asyncio.TimerHandle | None = None
        self._draining = False
        self._stopping = False
        self._changed = asyncio.Event()
        self._started = asyncio.Event()
        self.model: dict[str, Any] | None = None
        """What the first replica that was ready told; see `replicas.Readiness.model`."""

    async def start(self) -> Readiness:
        """Start the least number of replicas, and at least one, and wait until one is ready.

        Raises:
            VisionDynoError: why the model can't be loaded.
        """
        try:
            readiness = await self.fleet.start(self)
            self.model = readiness.model
        finally:
            self._started.set()
        if self.limits.max_batch is None:
            fixed = readiness.model["batch_size"]
            self._max_batch = fixed or (1 if readiness.model["device"] == "cpu" else 8)
        return readiness

    async def predict(self, items: Sequence[Item]) -> list[Predicted]:
        """An answer for each item, in order. Cancelling gives up what isn't running yet.

        Raises:
            RateLimited: more would wait than may; says when to come again.
            NotReady: the server is stopping, or no replica can be started.
            TimeLimitExceeded: there was no answer in time.
            ChildDied: two replicas died of an item.
        """
        begun = self.begin(items)
        try:
            return [await done for done in begun.each]
        except BaseException:
            for done in begun.each:
                if not done.cancel() and not done.cancelled():
                    done.exception()  # looked at: asyncio would complain of what nobody saw
            self._forget_ended()
            raise
        finally:
            self.ended(begun)

    def begin(self, items: Sequence[Item]) -> "Begun":
        """As `predict` without waiting; whoever begins must tell `ended`.

        Raises:
            RateLimited, NotReady: as `predict`.
        """
        self._admit(len(items))
        now = self._clock()
        loop = asyncio.get_running_loop()
        found_none = not self.fleet.is_able
        waiting = [Waiting(item, loop.create_future(), now, found_none) for item in items]
        self._queue.extend(waiting)
        limit = loop.call_later(self.limits.time_limit_s, self._give_up, waiting)
        self._dispatch()
        return Begun([one.done for one in waiting], limit)

    def ended(self, begun: "Begun") -> None:
        """Whoever began this has its answers, or wants them no more."""
        begun.limit.cancel()
        if any(done.cancelled() for done in begun.each):
            self._forget_ended()
        self._changed.set()

    async def described(self) -> dict[str, Any]:
        """What the model is, as soon as that is known; see `replicas.Readiness.model`.

        Raises:
            NotReady: it isn't within the time limit of requests, or couldn't be loaded.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.time_limit_s):
                await self._started.wait()
        if self.model is None:
            raise NotReady("The model isn't loaded yet; come again.", 1.0)
        return self.model

    def announce_end(self) -> None:
        """Tell those who ask that it is stopping; what comes is still answered."""
        self._stopping = True

    async def drain(self, grace_s: float) -> bool:
        """Take no more, and finish what was accepted; whether all of it was within `grace_s`."""
        self._draining = True
        end_s = self._clock() + grace_s
        while (left_s := end_s - self._clock()) > 0 and self.depth + self.in_flight:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left_s)
            except TimeoutError:
                break
        return not self.depth + self.in_flight

    async def close(self) -> None:
        """End every replica; what still waits is answered with an error."""
        self._draining = True
        stopped = NotReady("The server was stopped before this was answered.", 1.0)
        self._refuse_waiting(stopped)
        await self.fleet.close()
        self._refuse_waiting(stopped)  # what replicas had came back to the queue

    @property
    def depth(self) -> int:
        """Items that wait."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Items that replicas have."""
        return sum(len(batch) for one in self.fleet.members for batch in one.batches.values())

    def states(self) -> dict[str, int]:
        """Replicas by state; see `Fleet.states`."""
        return self.fleet.states()

    def processes(self) -> dict[str, int]:
        """Process ids of the replicas, by name."""
        return {one.replica.name: one.replica.pid for one in self.fleet.members}

    @property
    def max_batch(self) -> int:
        """Most items in one batch."""
        return self._max_batch

    @property
    def draining(self) -> bool:
        """Whether it takes no more, or soon won't."""
        return self._draining or self._stopping

    @property
    def can_answer(self) -> bool:
        """Whether a request would be answered: a replica is ready, or one may be started for it."""
        fleet = self.fleet
        may_start = fleet.scales_to_zero and fleet.failure is None
        return not self.draining and (fleet.is_able or may_start)

    # What the fleet asks and tells.

    def demand(self) -> int:
        """See `fleet.Needs`: as many as would have a batch of their own."""
        return -(-self.depth // self._max_batch)

    def on_member_ready(self, member: Member) -> None:
        """See `fleet.Needs`."""
        for one in self._queue:
            if one.found_none and one.start is None:
                one.start = member.readiness
        self._dispatch()

    def on_member_answers(self, member: Member, batch_id: int, answers: list[Answer]) -> None:
        """See `fleet.Needs`."""
        batch: list[Waiting] = member.batches.pop(batch_id)
        now = self._clock()
        self._metrics.answered(member.replica.name, len(batch), now - member.busy_since_s)
        member.busy_since_s = member.idle_since_s = now
        self._on_batch([one.item for one in batch], answers)
        for one, answer in zip(batch, answers, strict=True):
            if not one.done.done():
                queue_ms = (one.given_s - one.accepted_s) * 1e3
                total_ms = (now - one.accepted_s) * 1e3
                one.done.set_result(Predicted(answer, queue_ms, total_ms, one.start))
        self._dispatch()
        self._changed.set()

    def on_member_gone(self, member: Member, how: str) -> None:
        """See `fleet.Needs`."""
        for place, batch in reversed(list(enumerate(member.batches.values()))):
            for one in reversed(batch):
                # Only the first was running: the others aren't the reason, and were not tried.
                one.tries -= place > 0
                self._try_again(one, how)
        self._dispatch()
        self._changed.set()

    def on_no_member(self, error: VisionDynoError) -> None:
        """See `fleet.Needs`."""
        self._refuse_waiting(self._cannot_start(error))

    # How it does it.

    def _admit(self, count: int) -> None:
        if self._draining:
            raise NotReady("The server is stopping; ask another, or come again.", 1.0)
        if self.fleet.failure is not None and not self.fleet.is_able:
            raise self._cannot_start(self.fleet.failure)
        depth = self.depth
        # More than the whole queue at once is let in alone: it could never be otherwise.
        if depth and depth + count > self.limits.queue:
            raise RateLimited(
                f"{depth} images wait already, of at most {self.limits.queue}; come again later.",
                retry_after_s=self._metrics.seconds_for(depth, len(self.fleet.able)),
            )

    def _cannot_start(self, error: VisionDynoError) -> NotReady:
        return NotReady(
            f"No replica can be started: {error.message}", max(1.0, self.fleet.next_start_in_s)
        )

    def _give_up(self, waiting: list[Waiting]) -> None:
        limit = TimeLimitExceeded(
            f"There was no answer within {self.limits.time_limit_s:g} s; the server is overloaded "
            "or the request is too large. Send less at once, or raise --time-limit."
        )
        for one in waiting:
            if not one.done.done():
                one.done.set_exception(limit)
        self._forget_ended()

    def _forget_ended(self) -> None:
        """What was given up leaves the queue: neither its place nor its image is kept."""
        self._queue = deque(one for one in self._queue if not one.done.done())
        self._dispatch()

    def _refuse_waiting(self, error: VisionDynoError) -> None:
        while self._queue:
            one = self._queue.popleft()
            if not one.done.done():
                one.done.set_exception(error)
        self._changed.set()

    def _try_again(self, one: Waiting, how: str) -> None:
        if one.done.done():
            return
        if one.tries < _MOST_TRIES:
            self._queue.appendleft(one)
            return
        one.done.set_exception(
            ChildDied(
                f"The model's process {how} while it had this image, twice. If other images are "
                "answered, something about this one is the reason; the server's log has more."
            )
        )

    def _dispatch(self) -> None:
        """Hand out what can be handed out now."""
        if not self._queue:
            return
        able = self.fleet.able
        while self._queue:
            member = self._next_member(able)
            if member is None:
                # While something waits, scaling starts replicas at most.
                if not self.fleet.is_full:
                    self.fleet.scale()
                return
            if not member.batches and self._waits_for_more():
                return
            free = sum(not one.batches for one in able)
            self._give(member, self._take_batch(free))

    def _next_member(self, able: list[Member]) -> Member | None:
        """The replica to have the next batch: a free one, or else one for its next batch."""
        if not able:
            return None
        best = min(able, key=lambda one: (len(one.batches), one.idle_since_s))
        if not best.batches:
            return best
        # A full batch for it and for each other: less would grow yet until somebody is free.
        enough = len(self._queue) >= len(able) * self._max_batch
        return best if len(best.batches) == 1 and enough else None

    def _waits_for_more(self) -> bool:
        """Whether the batch delay holds the head of the queue back; then a timer is set."""
        if self.limits.batch_delay_s <= 0 or len(self._queue) >= self._max_batch:
            return False
        left_s = self._queue[0].accepted_s + self.limits.batch_delay_s - self._clock()
        if left_s <= 0:
            return False
        if self._delay is None:
            self._delay = asyncio.get_running_loop().call_later(left_s, self._delay_over)
        return True

    def _delay_over(self) -> None:
        self._delay = None
        self._dispatch()

    def _take_batch(self, free: int) -> list[Waiting]:
        """Of one kind, at most a fair share of the free; what a replica died of goes alone."""
        queue = self._queue
        most = min(self._max_batch, -(-len(queue) // max(1, free)))
        batch = [queue.popleft()]
        while queue and len(batch) < most:
            if queue[0].item.kind is not batch[0].item.kind or queue[0].tries or batch[0].tries:
                break
            batch.append(queue.popleft())
        return batch

    def _give(self, member: Member, batch: list[Waiting]) -> None:
        now = self._clock()
        if not member.batches:
            member.busy_since_s = now
        self._batch_ids += 1
        member.batches[self._batch_ids] = batch
        for one in batch:
            one.given_s = now
            one.tries += 1
        self._metrics.given(len(batch))
        member.replica.send(self._batch_ids, [one.item for one in batch])
