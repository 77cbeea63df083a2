"""The executor over a queue: `local` on SQLite, `redis` on Redis. Workers are other processes'.

The queue is used on one thread. Watchers are fed by one reader of all jobs' events, woken by the
queue's bell. A bell may miss and a transport may forget, so silent watchers also look once in a
while.
"""

import asyncio
import contextlib
import json
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from visiondyno.errors import SpecError, TransportDown, Unavailable
from visiondyno.executors.base import Executor, ExecutorHealth, JobLost
from visiondyno.executors.queue import DEFAULT_MAX_ATTEMPTS, Bell, JobQueue, QueuedJob
from visiondyno.executors.workers import WorkerCommand, WorkerInfo, WorkerState
from visiondyno.job import JobEvent, JobRequest, JobState, new_job_id

T = TypeVar("T")

_LOOK_S = 0.25
"""How often the feed is read while somebody watches, should the bell have missed."""
_CHECK_S = 2.0
"""How often silent watchers' jobs are looked up one by one."""
_SWEEP_S = 2.0
_SAY_AGAIN_S = 30.0
_CROWD = 64
_GATHER_S = 0.004
"""Where many jobs are watched a look waits so long for more events: one for each ring would take
as long as all the rest."""
_LONG_PART = 1000
_CHECKED_AT_ONCE = 50
"""Silent watchers looked up until the feed is read again: the others' events don't wait."""
_MOST_FRESH = 10_000
"""Jobs whose events are kept from their submission on for the watcher that comes at once."""


_log = logging.getLogger(__name__)


class _Watcher:
    """What one `watch` still has to give, in order of numbers."""

    def __init__(self, job_id: str, after: int) -> None:
        self.job_id = job_id
        self.next = after + 1
        self.events: deque[JobEvent] = deque()
        self.error: Exception | None = None
        self.silent = True  # nothing came since the last look
        self.has_gap = False
        self.is_over = False
        self._waiter: asyncio.Future[None] | None = None

    def offer(self, event: JobEvent) -> bool:
        """Take the event if it is the next one; True where events before it are missing."""
        if event.number == self.next:
            self.events.append(event)
            self.next += 1
            self.silent = False
            self.wake()
        elif event.number > self.next:
            self.has_gap = True
        elif event.answer is not None:  # of a transport that came back older than it was
            self.is_over = True
            self.wake()
        return self.has_gap

    def fail(self, error: Exception) -> None:
        self.error = error
        self.wake()

    def lose(self) -> None:
        self.fail(JobLost(f"The queue lost job '{self.job_id}'; submit it again."))

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        if self.is_over:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter


class QueueExecutor(Executor):
    """Runs jobs on whatever supervisors claim from the queue. Durable: `close` leaves the jobs."""

    durable = True

    def __init__(
        self,
        name: str,
        open_queue: Callable[[], JobQueue],
        *,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    ) -> None:
        """`open_queue` is called on the executor's own thread, at the first use."""
        self.name = name
        self._open_queue = open_queue
        self._max_attempts = max_attempts
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{name}-queue")
        self._queue: JobQueue | None = None
        self._watchers: dict[str, list[_Watcher]] = {}
        self._fresh: OrderedDict[str, list[JobEvent]] = OrderedDict()
        self._waiting: list[tuple[QueuedJob, asyncio.Future[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._feeding: asyncio.Task[None] | None = None
        self._putting = False
        self._rung = asyncio.Event()
        self._cursor: str | None = None
        self._has_gaps = False
        self._closed = False

    # -- submitting ------------------------------------------------------------------------------

    async def submit(
        self, request: JobRequest, job_id: str | None = None, queued_at: float | None = None
    ) -> str:
        if self._closed:
            raise SpecError("This executor is closed; make a new one to submit jobs.")
        if not self._is_started:
            await self.start()
        job = QueuedJob(
            job_id if job_id is not None else new_job_id(),
            json.dumps(request.input),
            request.policy,
            self._max_attempts,
            queued_at,
        )
        self._keep_fresh(job.id)
        accepted = asyncio.get_running_loop().create_future()
        self._waiting.append((job, accepted))
        if not self._putting:
            self._putting = True
            self._spawn(self._put_all())
        await accepted
        return job.id

    async def _put_all(self) -> None:
        """Put what is waiting, and what came while that was put, until nothing is left."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._put(batch)
        finally:
            self._putting = False

    async def _put(self, batch: list[tuple[QueuedJob, "asyncio.Future[None]"]]) -> None:
        jobs = [job for job, _ in batch]
        error: Exception | None = None
        try:
            await self._call(lambda queue: queue.put(jobs))
        except asyncio.CancelledError:
            error = _closed_before()
            raise
        except Exception as refused:
            error = refused
        finally:
            for _, accepted in batch:
                if accepted.done():
                    continue  # its submitter went away
                if error is None:
                    accepted.set_result(None)
                else:
                    accepted.set_exception(error)

    def _keep_fresh(self, job_id: str) -> None:
        if self._cursor is None or job_id in self._watchers:
            return
        self._fresh[job_id] = []
        if len(self._fresh) > _MOST_FRESH:
            self._fresh.popitem(last=False)

    # -- watching --------------------------------------------------------------------------------

    async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        await self.start()
        watcher = _Watcher(job_id, after)
        self._watchers.setdefault(job_id, []).append(watcher)
        try:
            early = self._fresh.pop(job_id, None)
            if early is None:
                early = await self._call(lambda queue: queue.events(job_id, after))
                if not early and after and await self._has_ended(job_id):
                    return  # nothing follows the terminal event
            if any(event.answer is not None and event.number <= after for event in early):
                return
            for event in early:
                self._has_gaps |= watcher.offer(event)
            while watcher.events or not watcher.is_over:
                while watcher.events:
                    event = watcher.events.popleft()
                    yield event
                    if event.answer is not None:
                        return
                if watcher.error is not None:
                    raise watcher.error
                await watcher.wait()
        finally:
            left = self._watchers[job_id]
            left.remove(watcher)
            if not left:
                del self._watchers[job_id]

    async def _has_ended(self, job_id: str) -> bool:
        events = await self._call(lambda queue: queue.events(job_id))
        return events[-1].answer is not None

    def _deliver(self, events: Sequence[JobEvent]) -> None:
        for event in events:
            watchers = self._watchers.get(event.job_id)
            if watchers is not None:
                for watcher in watchers:
                    self._has_gaps |= watcher.offer(event)
            elif event.job_id in self._fresh:
                self._fresh[event.job_id].append(event)

    async def _feed(self) -> None:
        """Read all jobs' events as they come; look after silent watchers; sweep."""
        loop = asyncio.get_running_loop()
        bell: Bell | None = None
        next_check_s = next_sweep_s = say_again_s = loop.time()
        try:
            while not self._closed:
                try:
                    if bell is None:
                        bell = await self._call(lambda queue: queue.bell("events"))
                        loop.add_reader(bell.fileno(), self._hear, bell)
                    await self._read_feed()
                    if loop.time() >= next_check_s or self._has_gaps:
                        took_s = await self._check_silent()
                        next_check_s = loop.time() + max(_CHECK_S, 20 * took_s)
                    if loop.time() >= next_sweep_s:
                        await self._call(lambda queue: queue.sweep())
                        next_sweep_s = loop.time() + _SWEEP_S
                except (Unavailable, SpecError) as error:  # away, or set up wrong until mended
                    if loop.time() >= say_again_s:  # an outage of hours fills no disk
                        _log.warning("%s", error)
                        say_again_s = loop.time() + _SAY_AGAIN_S
                    await asyncio.sleep(_LOOK_S)
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._rung.wait()
                if len(self._watchers) > _CROWD:
                    await asyncio.sleep(_GATHER_S)
                self._rung.clear()
        finally:
            if bell is not None:
                loop.remove_reader(bell.fileno())
                bell.close()

    def _hear(self, bell: Bell) -> None:
        bell.drain()  # now: a bell left readable would keep the loop spinning
        self._rung.set()

    async def _read_feed(self) -> None:
        while True:
            events, self._cursor = await self._call(lambda queue: queue.feed(self._cursor))
            self._deliver(events)
            # A short part is the whole: asking again would double the reads of each ring. (Should
            # large answers have cut it, the rest comes with the next ring or look.)
            if len(events) < _LONG_PART:
                return

    async def _check_silent(self) -> float:
        """Look up the jobs of watchers that heard nothing or missed something; seconds taken."""
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        self._has_gaps = False
        silent = [
            watcher
            for watchers in self._watchers.values()
            for watcher in watchers
            if watcher.silent or watcher.has_gap
        ]
        known = await self.known({watcher.job_id for watcher in silent})
        for place, watcher in enumerate(silent, start=1):
            if place % _CHECKED_AT_ONCE == 0:
                await self._read_feed()
            if watcher.job_id not in known:
                watcher.lose()
                continue
            watcher.has_gap = False
            await self._catch_up(watcher)
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.silent = True
        return loop.time() - start_s

    async def _catch_up(self, watcher: _Watcher) -> None:
        after = watcher.next - 1
        try:
            missed = await self._call(lambda queue: queue.events(watcher.job_id, after))
        except JobLost:  # since it was last known
            watcher.lose()
            return
        for event in missed:
            watcher.offer(event)

    def _feed_ended(self, task: "asyncio.Task[None]") -> None:
        """A reader that stops on a defect must not leave its watchers waiting for ever."""
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        _log.error("the reader of the queue's events stopped", exc_info=error)
        self._feeding = None
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.fail(TransportDown(f"The queue's events can't be read ({error})."))

    # -- the rest --------------------------------------------------------------------------------

    async def cancel(self, job_id: str) -> None:
        await self._call(lambda queue: queue.cancel(job_id))

    async def known(self, job_ids: Collection[str]) -> set[str]:
        if not job_ids:
            return set()
        return await self._call(lambda queue: queue.known(job_ids))

    async def health(self) -> ExecutorHealth:
        counts = await self._call(lambda queue: queue.counts())
        # What a worker last told may be a moment old; what runs is known for certain.
        busy = counts.jobs[JobState.IN_PROGRESS]
        able = (WorkerState.IDLE, WorkerState.BUSY)
        alive = sum(worker.state in able for worker in await self.workers())
        return ExecutorHealth(
            jobs={str(state): count for state, count in counts.jobs.items()},
            workers_ready=max(0, alive - busy),
            workers_busy=busy,
            oldest_waiting_s=counts.oldest_waiting_s,
        )

    async def workers(self) -> Sequence[WorkerInfo]:
        return await self._call(lambda queue: queue.workers())

    async def command_worker(self, name: str, command: WorkerCommand) -> None:
        await self._call(lambda queue: queue.command(name, command))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        tasks = [*self._tasks, *([self._feeding] if self._feeding else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, accepted in self._waiting:
            if not accepted.done():
                accepted.set_exception(_closed_before())
        closed = SpecError("The executor was closed; its jobs go on without this watcher.")
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.fail(closed)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close_queue)
        self._thread.shutdown()

    def _close_queue(self) -> None:
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    @property
    def _is_started(self) -> bool:
        """Asked for each job: awaiting `start` would cost as much as the rest of a submission."""
        return self._feeding is not None

    async def start(self) -> None:
        """Begin to read events (and to serve the queue, where workers are ours)."""
        if self._feeding is None and not self._closed:
            self._feeding = asyncio.create_task(self._feed())
            self._feeding.add_done_callback(self._feed_ended)

    async def _call(self, ask: Callable[[JobQueue], T]) -> T:
        if self._closed:
            raise SpecError("This executor is closed; make a new one.")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, ask)

    def _ask(self, ask: Callable[[JobQueue], T]) -> T:
        if self._queue is None:
            self._queue = self._open_queue()
        return ask(self._queue)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _closed_before() -> SpecError:
    return SpecError("The executor was closed before the job was accepted.")
