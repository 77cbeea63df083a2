"""Group commit: what comes while one transaction is written goes into the next, all together."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, TypeVarTuple

from visiondyno.errors import TransportDown
from visiondyno.store.base import JobStore
from visiondyno.store.records import NewJob, Observed, RecordedEvent

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MOST_IN_ONE = 500
"""Items in one transaction: a bound on how long the first of them waits for the last."""

OnRecorded = Callable[[Sequence[RecordedEvent]], None]
OnDropped = Callable[[str], None]


class Stream:
    """One follower's events of one dispatch on their way to the store, in order.

    Once one of them can't be written, none after it is: the follower starts again with a new
    stream after what the store has seen, so no event is skipped.

    Attributes:
        failed: the first one that could not be written.
        error: why.
    """

    def __init__(self) -> None:
        self.failed: Observed | None = None
        self.error: Exception | None = None
        self.unwritten = 0
        self._waiter: asyncio.Future[None] | None = None

    async def written(self, at_most: int = 0) -> None:
        """Wait until no more than `at_most` events are on their way.

        Raises:
            Exception: one could not be written.
        """
        while self.error is None and self.unwritten > at_most:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.error is not None:
            raise self.error

    def done(self, observed: Observed, error: Exception | None) -> None:
        """One more is written, or can't be."""
        self.unwritten -= 1
        if error is not None and self.error is None:
            self.failed, self.error = observed, error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(slots=True)
class _Add:
    job: NewJob
    accepted: asyncio.Future[None]
    error: Exception | None = None


@dataclass(slots=True)
class _Event:
    observed: Observed
    stream: Stream
    error: Exception | None = None


class Recorder:
    """Writes jobs and their events to the store, on one thread; reads on others.

    An idle recorder writes at once: there is no delay to collect. One item that the store refuses
    fails alone: the others of its transaction are written singly.
    """

    def __init__(self, jobs: JobStore, on_recorded: OnRecorded, on_dropped: OnDropped) -> None:
        """`on_recorded` gets what was appended; `on_dropped` ids of jobs whose event wasn't."""
        self._jobs = jobs
        self._on_recorded = on_recorded
        self._on_dropped = on_dropped
        self._adds: list[_Add] = []
        self._events: list[_Event] = []
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-write")
        self._readers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="store-read")
        self._writing: asyncio.Task[None] | None = None

    async def add(self, job: NewJob) -> None:
        """Add a job; returns when it is committed.

        Raises:
            TransportDown, StorageFull: it was not accepted.
        """
        add = _Add(job, asyncio.get_running_loop().create_future())
        self._adds.append(add)
        self._wake()
        await add.accepted

    def observe(self, observed: Observed, stream: Stream) -> None:
        """Take an event on its way to the store; `stream.written` tells when it is there."""
        stream.unwritten += 1
        self._events.append(_Event(observed, stream))
        self._wake()

    async def call(self, write: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Another write, on the writing thread: the store has one writer in this process."""
        return await self._on(self._writer, write, *arguments)

    async def read(self, read: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Something that only reads, on a thread beside the writing one."""
        return await self._on(self._readers, read, *arguments)

    async def close(self) -> None:
        """Write what is on its way, and end the threads."""
        while self._writing is not None:
            await asyncio.shield(self._writing)
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._readers.shutdown)

    @staticmethod
    async def _on(threads: ThreadPoolExecutor, call: Callable[[*Ts], T], *arguments: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, call, *arguments)

    def _wake(self) -> None:
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._adds or self._events:
                adds, self._adds = self._adds[:_MOST_IN_ONE], self._adds[_MOST_IN_ONE:]
                events, self._events = self._events[:_MOST_IN_ONE], self._events[_MOST_IN_ONE:]
                recorded = await self._on(self._writer, self._write, adds, events)
                self._tell(adds, events, recorded)
        finally:
            self._writing = None

    def _write(self, adds: list[_Add], events: list[_Event]) -> list[RecordedEvent]:
        self._write_together(adds, lambda some: self._jobs.add([add.job for add in some]))
        recorded: list[RecordedEvent] = []
        going = []
        for event in events:
            event.error = event.stream.error  # nothing after one that could not be written
            if event.error is None:
                going.append(event)
        broken: dict[Stream, Exception] = {}

        def record(some: Sequence[_Event]) -> None:
            first = some[0]
            if len(some) == 1 and first.stream in broken:
                raise broken[first.stream]
            try:
                recorded.extend(self._jobs.record([event.observed for event in some]))
            except Exception as error:
                if len(some) == 1:
                    broken[first.stream] = error
                raise

        self._write_together(going, record)
        return recorded

    @staticmethod
    def _write_together(items: Sequence[Any], write: Callable[[Sequence[Any]], None]) -> None:
        """Write all in one transaction; if it is refused, each in one of its own."""
        if not items:
            return
        try:
            write(items)
        except TransportDown as error:  # it would take each of them as long to fail
            for item in items:
                item.error = error
        except Exception as error:
            if len(items) == 1:
                items[0].error = error
                return
            for item in items:
                Recorder._write_together([item], write)

    def _tell(self, adds: list[_Add], events: list[_Event], recorded: list[RecordedEvent]) -> None:
        for add in adds:
            if add.accepted.done():
                continue  # who asked was cancelled
            if add.error is None:
                add.accepted.set_result(None)
            else:
                add.accepted.set_exception(add.error)
        try:
            self._pass_on(events, recorded)
        except Exception:
            # The events are committed; who follows them must hear so whatever happens here.
            logging.getLogger(__name__).exception("What was recorded could not be passed on")
        for event in events:
            event.stream.done(event.observed, event.error)

    def _pass_on(self, events: list[_Event], recorded: list[RecordedEvent]) -> None:
        self._on_recorded(recorded)
        written = Counter(event.observed.job_id for event in events if event.error is None)
        written.subtract(one.event.job_id for one in recorded)
        for job_id, dropped in written.items():
            if dropped:
                self._on_dropped(job_id)
