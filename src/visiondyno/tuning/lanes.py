"""The one place that decides how many trials run, and where."""

import asyncio
import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from visiondyno.errors import OperationFailed, VisionDynoError
from visiondyno.executors.breaker import BreakerReading
from visiondyno.tuning.quarantine import WorkerWatch
from visiondyno.tuning.session import Session

Sleep = Callable[[float], Awaitable[None]]

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0
_LONGEST_ASKED_S = 3600.0
_LOOK_S = 0.25
"""How often those who wait look again for a lane whose pause or breaker has ended."""


class NoLanes(OperationFailed):
    """Every lane is closed for good."""

    code = "no_lanes"


@dataclass(frozen=True, slots=True)
class LaneReading:
    """How a lane stands.

    Attributes:
        name: the place's, or the endpoint's URL.
        capacity: how many trials it may ever have at once.
        width: how many it may have now.
        running: how many it has.
        completed: trials that ended on it, however.
        failures: attempts that it failed, by cause.
        failures_in_a_row: up to now.
        breaker: of an endpoint.
        closed: why it takes no trials any more, in a sentence; None while it does.
        quarantined: its workers that get no more trials, by name.
    """

    name: str
    capacity: int
    width: int
    running: int
    completed: int
    failures: dict[str, int]
    failures_in_a_row: int
    breaker: BreakerReading | None
    closed: str | None
    quarantined: tuple[str, ...] = ()


class Lane:
    """Somewhere trials run: one place, with as many at once as it bears.

    After a failure that is the place's own (it can't be reached, its worker died, it refuses more
    requests) it takes half as many trials as before, and none for a pause that doubles with each
    failure in a row (drawn evenly from 0 on: full jitter); after as many successes as it takes
    trials it takes one more, up to its capacity.

    Args:
        name: for people, unique in the study.
        session: what trials have of the place.
        capacity: trials at once, at least 1.
        is_reserve: whether it takes trials only while every other lane is closed, or in a pause
            after failures.
        clock: seconds.
        draw: an even number from low to high.
    """

    def __init__(
        self,
        name: str,
        session: Session,
        capacity: int,
        *,
        is_reserve: bool = False,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.name = name
        self.session = session
        self.is_reserve = is_reserve
        self.capacity = capacity
        self.width = capacity
        self.closed: str | None = None
        self.workers = WorkerWatch()
        self._clock = clock
        self._draw = draw
        self._running = 0
        self._completed = 0
        self._failures = Counter[str]()
        self._in_a_row = 0
        self._successes = 0
        self._free_at_s = -float("inf")

    @property
    def load(self) -> float:
        """Which part of its width is taken."""
        return self._running / self.width

    def is_free(self, *, is_narrowed_to: int | None = None) -> bool:
        """Whether it takes another trial now."""
        width = self.width if is_narrowed_to is None else min(self.width, is_narrowed_to)
        return self._running < width and not self.is_out

    @property
    def is_out(self) -> bool:
        """Whether it takes nothing just now, however few it has."""
        if self.closed is not None or self._clock() < self._free_at_s:
            return True
        breaker = self.session.breaker()
        return breaker is not None and bool(breaker.tried_again_in_s)

    def took(self) -> None:
        """It has another trial."""
        self._running += 1

    def gave_back(self) -> None:
        """A trial has left it; `succeeded` or `failed` says how."""
        self._running -= 1

    def succeeded(self) -> None:
        """It did what it was asked, whatever became of the trial."""
        self._completed += 1
        self._in_a_row = 0
        self._successes += 1
        if self._successes >= self.width and self.width < self.capacity:
            self.width += 1
            self._successes = 0

    def failed(self, error: VisionDynoError) -> None:
        """It failed an attempt."""
        self._failures[error.code] += 1
        self._in_a_row += 1
        self._successes = 0
        self.width = max(1, self.width // 2)
        longest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**self._in_a_row)
        asked_s = getattr(error, "retry_after_s", None) or 0.0
        free_at_s = self._clock() + min(asked_s, _LONGEST_ASKED_S) + self._draw(0.0, longest_s)
        self._free_at_s = max(self._free_at_s, free_at_s)  # another one was asked to wait longer

    def close(self, why: str) -> None:
        """It takes no trials any more."""
        self.closed = why

    def reading(self) -> LaneReading:
        """How it stands now."""
        return LaneReading(
            self.name,
            self.capacity,
            self.width,
            self._running,
            self._completed,
            dict(self._failures),
            self._in_a_row,
            self.session.breaker(),
            self.closed,
            tuple(sorted(self.workers.quarantined)),
        )


class Lanes:
    """Gives trials to lanes: the least loaded one that is free, and to none beyond the total.

    Who waits is served by priority, lowest first, then in order of coming. For one event loop.

    Args:
        lanes: at least one.
        at_once: trials at once, over all lanes.
        memory_share: the share of this machine's memory that is free, from 0 to 1; None: not
            looked at. Below `low_memory` a lane of this machine takes one trial only.
        low_memory: that share.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        at_once: int,
        *,
        memory_share: Callable[[], float] | None = None,
        low_memory: float = 0.08,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.lanes = tuple(lanes)
        self.at_once = at_once
        self._memory_share = memory_share
        self._low_memory = low_memory
        self._sleep = sleep
        self._waiting: list[tuple[int, int, asyncio.Future[Lane], frozenset[str]]] = []
        self._numbers = itertools.count()
        self._running = 0
        self._waker: asyncio.Task[None] | None = None

    @property
    def width(self) -> int:
        """How many trials may run now."""
        open_lanes = [lane for lane in self.lanes if lane.closed is None]
        first = [lane for lane in open_lanes if not lane.is_reserve]
        if all(lane.is_out for lane in first):
            first = open_lanes
        open_width = sum(lane.width for lane in first)
        return min(self.at_once, open_width)

    async def take(self, priority: int, avoid: frozenset[str] = frozenset()) -> Lane:
        """A place on a lane, for one trial; `give_back` returns it.

        Args:
            priority: lowest first.
            avoid: names of lanes that are taken only where no other one is open.

        Raises:
            NoLanes: all are closed.
        """
        future: asyncio.Future[Lane] = asyncio.get_running_loop().create_future()
        entry = (priority, next(self._numbers), future, avoid)
        heapq.heappush(self._waiting, entry)
        self._serve()
        if not future.done() and (self._waker is None or self._waker.done()):
            self._waker = asyncio.create_task(self._look_again())
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give_back(future.result())
            raise

    def give_back(self, lane: Lane) -> None:
        """The trial that took it has left it."""
        lane.gave_back()
        self._running -= 1
        self._serve()

    def close_lane(self, lane: Lane, why: str) -> None:
        """The lane takes no trials any more; `why` is a sentence."""
        lane.close(why)
        self._serve()

    def readings(self) -> list[LaneReading]:
        """How each lane stands."""
        return [lane.reading() for lane in self.lanes]

    async def close(self) -> None:
        """Nobody waits any more."""
        if self._waker is not None:
            self._waker.cancel()
            await asyncio.gather(self._waker, return_exceptions=True)

    def _serve(self) -> None:
        """Give what is free to those who wait, in their order; skip whom no free lane suits."""
        if all(lane.closed is not None for lane in self.lanes):
            self._refuse_all()
            return
        skipped = []
        while self._waiting and self._running < self.at_once:
            entry = heapq.heappop(self._waiting)
            future = entry[2]
            if future.done():
                continue
            lane = self._free_lane(entry[3])
            if lane is None:
                skipped.append(entry)
                if not entry[3]:
                    break  # whom any lane suits: no one after it is better off
                continue
            lane.took()
            self._running += 1
            future.set_result(lane)
        for entry in skipped:
            heapq.heappush(self._waiting, entry)

    def _free_lane(self, avoid: frozenset[str]) -> Lane | None:
        narrowed = self._narrowed()
        open_lanes = [lane for lane in self.lanes if lane.closed is None]
        if not all(lane.is_out for lane in self.lanes if not lane.is_reserve):
            open_lanes = [lane for lane in open_lanes if not lane.is_reserve]
        # Who failed everywhere mustn't wait for the reserve for ever.
        wanted = [lane for lane in open_lanes if lane.name not in avoid] or open_lanes
        free = [
            lane
            for lane in wanted
            if lane.is_free(is_narrowed_to=1 if narrowed and lane.session.is_here else None)
        ]
        return min(free, key=lambda lane: lane.load, default=None)

    def _narrowed(self) -> bool:
        return self._memory_share is not None and self._memory_share() < self._low_memory

    def _refuse_all(self) -> None:
        reasons = " ".join(f"{lane.name}: {lane.closed}" for lane in self.lanes)
        for _, _, future, _ in self._waiting:
            if not future.done():
                future.set_exception(NoLanes(f"No place takes trials any more. {reasons}"))
        self._waiting.clear()

    async def _look_again(self) -> None:
        while any(not future.done() for _, _, future, _ in self._waiting):
            await self._sleep(_LOOK_S)
            self._serve()
