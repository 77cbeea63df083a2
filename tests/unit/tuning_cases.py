"""A study without a place: bodies that do what a test says, and lanes with a clock of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from visiondyno.client.async_client import AsyncClient
from visiondyno.executors.breaker import Breaker, BreakerReading
from visiondyno.job import JobEvent
from visiondyno.tuning.body import Body, Result, Told
from visiondyno.tuning.book import Book, Pruner
from visiondyno.tuning.journal import Journal
from visiondyno.tuning.lanes import Lane
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.samplers import make_sampler
from visiondyno.tuning.session import Session
from visiondyno.tuning.trial import TrialRecord

Act = Callable[[TrialRecord, AsyncClient, Told], Awaitable[Result]]


class Clock:
    """Seconds that pass when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)


class OneNumber:
    """The space of one number from 0 to 1."""

    def suggest(self, trial: Any) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 0.0, 1.0)}


class ScriptedBody(Body):
    """Does what a function says; notes which trials ran where."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self.ran: list[tuple[int, str]] = []
        self.now: set[int] = set()
        self.most_at_once = 0

    async def run(self, record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        assert record.lane is not None
        self.ran.append((record.number, record.lane))
        self.now.add(record.number)
        self.most_at_once = max(self.most_at_once, len(self.now))
        try:
            told.started(f"job-{record.number}")
            return await self._act(record, client, told)
        finally:
            self.now.discard(record.number)


class Notes:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[TrialRecord] = []

    def on_trial(self, record: TrialRecord) -> None:
        self.told.append(record)

    def on_event(self, number: int, event: JobEvent) -> None:
        raise AssertionError("these bodies have no jobs")


async def score(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
    """The value is the parameter."""
    await asyncio.sleep(0)
    return Result(values=(float(record.params["x"]),))


class NoPlace(Session):
    """Trials have a client of no place: bodies that ask it for nothing."""

    def __init__(self, breaker: Breaker | None = None, *, is_here: bool = True) -> None:
        self._breaker = breaker
        self.is_here = is_here
        self.opened_now = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AsyncClient]:
        self.opened_now += 1
        try:
            yield cast("AsyncClient", self)
        finally:
            self.opened_now -= 1

    def breaker(self) -> BreakerReading | None:
        return None if self._breaker is None else self._breaker.reading()


def a_lane(name: str = "here", capacity: int = 2, clock: Clock | None = None, **more: Any) -> Lane:
    """A lane whose pauses are as long as they may be."""
    session = more.pop("session", None) or NoPlace()
    clock = clock or Clock()
    return Lane(name, session, capacity, clock=clock, draw=lambda _, high: high, **more)


def a_book(
    objectives: Sequence[str] = ("score:maximize",),
    *,
    seed: int = 0,
    sampler: str = "tpe",
    pruner: Pruner | None = None,
    journal: Journal | None = None,
) -> Book:
    """A study of one number."""
    made = make_sampler(sampler, {}, seed)
    return Book(parse_objectives(objectives), OneNumber(), made, pruner, seed, journal)
