"""Following jobs: each open one is sent to the executor, and its events go to the store."""

import asyncio
import contextlib
import dataclasses
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence

from visiondyno.errors import OperationFailed, TransportDown, Unavailable
from visiondyno.executors.base import Executor, JobLost
from visiondyno.job import JobAnswer, JobError, JobEvent, JobRequest, JobState
from visiondyno.service.feeds import Feed, Feeds
from visiondyno.service.recorder import Recorder, Stream
from visiondyno.store.base import JobStore
from visiondyno.store.records import JobRecord, Observed, RecordedEvent

OnEnded = Callable[[JobRecord, RecordedEvent], Awaitable[None]]

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_MOST_UNWRITTEN = 64
"""Events of one job on their way to the store before its follower waits."""
_SAY_AGAIN_S = 30.0
_KNOWN_AT_ONCE = 1000


class Follower:
    """One job's way through the executor, as this process knows it.

    Attributes:
        record: the job after the last event that this process recorded.
        is_sent: the executor may know it under `record.transport_id`.
        cancel_wanted: the user wants it cancelled.
        cancel_told: the executor was told so.
        refused: numbers of events of this dispatch that the store can't take, and why.
    """

    def __init__(self, record: JobRecord, feed: Feed, *, is_sent: bool) -> None:
        self.record = record
        self.feed = feed
        self.is_sent = is_sent
        self.is_lost = False
        self.cancel_wanted = record.cancel_requested
        self.cancel_told = False
        self.refused: dict[int, Exception] = {}
        self.ended: RecordedEvent | None = None
        self.task: asyncio.Task[None] | None = None
        self.pause_s = _FIRST_PAUSE_S
        self.poked = asyncio.Event()

    def take(self, recorded: RecordedEvent) -> None:
        """An event of this job was recorded by this process."""
        self.record = advanced(self.record, recorded)
        if recorded.event.state.is_terminal:
            self.ended = recorded

    def take_fresh(self, record: JobRecord) -> None:
        """The job was read again from the store."""
        if record.dispatch != self.record.dispatch:
            self.refused.clear()
            self.is_sent = True  # by whoever put it back; if not, its watch says so
        self.record = record
        self.cancel_wanted = self.cancel_wanted or record.cancel_requested


class Followers:
    """Every job followed in this process: a task each."""

    def __init__(
        self,
        jobs: JobStore,
        executor: Executor,
        recorder: Recorder,
        feeds: Feeds,
        clock: Callable[[], float],
        on_ended: OnEnded,
    ) -> None:
        self._jobs = jobs
        self._executor = executor
        self._recorder = recorder
        self._feeds = feeds
        self._clock = clock
        self._on_ended = on_ended
        self._following: dict[str, Follower] = {}
        self._expected: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._said_at = float("-inf")
        self._closed = False

    @contextlib.contextmanager
    def expecting(self, job_id: str) -> Iterator[None]:
        """Within, the job is being added and will be followed by who adds it."""
        self._expected.add(job_id)
        try:
            yield
        finally:
            self._expected.discard(job_id)

    def follow(self, record: JobRecord, *, is_sent: bool) -> None:
        """Follow the job to its end, unless it is followed here already."""
        if record.id in self._following or self._closed:
            return
        follower = Follower(record, self._feeds.open(record), is_sent=is_sent)
        self._start(follower)

    def follows(self, job_id: str) -> bool:
        """Whether the job is followed in this process."""
        return job_id in self._following

    def take(self, recorded: Sequence[RecordedEvent]) -> None:
        """Events that this process recorded."""
        for one in recorded:
            follower = self._following.get(one.event.job_id)
            if follower is not None:
                follower.take(one)

    async def cancel(self, record: JobRecord) -> None:
        """Stop a job whose wish to be cancelled is in the store."""
        follower = self._following.get(record.id)
        if follower is not None:
            follower.cancel_wanted = True
            follower.poked.set()
        try:
            await self._executor.cancel(record.transport_id)
        except JobLost:
            await self._end_unsent(record, JobState.CANCELLED)
        except TransportDown:
            return  # the store has the wish: it is passed on when that is possible again
        if follower is not None:
            follower.cancel_told = True

    async def reconcile(self) -> None:
        """Follow what nobody follows here, pass on cancels, and put back what was lost."""
        open_count = sum(
            count
            for state, count in (await self._recorder.read(self._jobs.counts, None)).items()
            if not state.is_terminal
        )
        if open_count != len(self._following):
            await self.read_open()
        for follower in list(self._following.values()):
            if follower.cancel_wanted and not follower.cancel_told:
                await self.cancel(follower.record)
        await self._find_lost()

    async def read_open(self) -> None:
        """Follow every open job of the store."""
        for record in await self._recorder.read(self._jobs.open_jobs):
            follower = self._following.get(record.id)
            if follower is None:
                if record.id not in self._expected:
                    self.follow(record, is_sent=True)
            elif record.cancel_requested and not follower.cancel_wanted:
                await self.cancel(record)  # asked of another process

    async def close(self) -> None:
        """Stop following; the jobs go on where they are."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- one job ---------------------------------------------------------------------------------

    def _start(self, follower: Follower) -> None:
        self._following[follower.record.id] = follower
        task = follower.task = asyncio.create_task(self._follow(follower))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, follower: Follower) -> None:
        while not await self._try_once(follower):
            pass
        # Before the listeners: a retry may follow at once, and needs a follower of its own.
        job_id = follower.record.id
        if self._following.get(job_id) is follower:
            del self._following[job_id]
        self._feeds.drop(job_id, follower.feed)
        if follower.ended is not None:
            await self._on_ended(follower.record, follower.ended)

    async def _try_once(self, follower: Follower) -> bool:
        """Whether the job has ended; False: try again."""
        try:
            if follower.is_lost:
                await self._put_back(follower)
            return await self._step(follower)
        except JobLost:
            follower.is_lost = True
        except Unavailable as error:
            self._say(f"Jobs wait: {error.message}")
        except Exception:
            _LOG.exception("Following job %s failed; it is tried again", follower.record.id)
        follower.feed.is_live = False
        return await self._pause(follower)

    async def _step(self, follower: Follower) -> bool:
        if follower.cancel_wanted and follower.is_sent:
            try:
                await self._executor.cancel(follower.record.transport_id)
            except JobLost:
                follower.is_sent = False
        if not follower.is_sent:
            if follower.cancel_wanted:
                await self._end_unsent(follower.record, JobState.CANCELLED)
                return True
            request = await self._request(follower.record)
            if request is None:
                await self._end_unsent(follower.record, JobState.TIMED_OUT)
                return True
            await self._executor.submit(request, follower.record.transport_id)
            follower.is_sent = True
            if follower.poked.is_set():  # cancelled meanwhile
                await self._executor.cancel(follower.record.transport_id)
        return await self._pump(follower)

    async def _pump(self, follower: Follower) -> bool:
        """Take the dispatch's events to the store, to the terminal one."""
        stream = Stream()
        job_id, dispatch = follower.record.id, follower.record.dispatch
        follower.feed.is_live = True
        events = self._executor.watch(follower.record.transport_id, follower.record.seen)
        async for event in events:
            taken = _substitute(event, follower.refused.get(event.number))
            if taken is None:
                continue
            self._recorder.observe(Observed(job_id, dispatch, taken, self._clock()), stream)
            ends = taken.state.is_terminal
            try:
                await stream.written(0 if ends else _MOST_UNWRITTEN)
            except Unavailable:
                raise
            except Exception as error:
                assert stream.failed is not None, "an error is some event's"
                number = stream.failed.event.number
                _LOG.warning("The store refuses event %d of job %s: %s", number, job_id, error)
                follower.refused[number] = error
                raise TransportDown("The store refused an event; it is left out.") from error
            if ends:
                if follower.ended is not None:
                    return True
                raise TransportDown(f"Another process has seen to job {job_id}.")
            follower.pause_s = _FIRST_PAUSE_S
        raise OperationFailed(f"The executor ended its events of job {job_id} without an answer.")

    async def _request(self, record: JobRecord) -> JobRequest | None:
        """What the executor is asked, its ttl less what was waited; None if that is over."""
        request, policy = record.request, record.request.policy
        first = record.dispatch == 1 and record.seen == 0
        if policy.ttl_ms is not None and not (first and self._clock() - record.created_at < 1):
            since = record.created_at
            if record.first_number > 1:  # a retry waits anew
                after = record.first_number - 1
                events = await self._recorder.read(self._jobs.events, record.id, after)
                since = events[0].at if events else since
            until = record.started_at or self._clock()  # a job that ran waited until then only
            left_ms = policy.ttl_ms - max(0, round((until - since) * 1000))
            if left_ms <= 0:
                return None
            policy = policy.model_copy(update={"ttl_ms": left_ms})
        return JobRequest.model_construct(input=request.input, policy=policy, webhook=None)

    async def _put_back(self, follower: Follower) -> None:
        """Make a lost job ready to be sent; its watch goes on with other numbers."""
        record = follower.record
        if record.seen > 0:
            # Nothing of a new dispatch could be told from the old one's under the same id.
            put_back = await self._recorder.call(self._jobs.put_back, record.id, record.dispatch)
            self._feeds.look(record.id)
            if put_back is None:
                follower.is_lost = False
                raise TransportDown(f"Job {record.id} was put back by another process.")
            follower.take_fresh(put_back)
        follower.is_sent = follower.is_lost = False

    async def _pause(self, follower: Follower) -> bool:
        """Wait a little longer each time and read the job again; whether it has ended."""
        if not follower.is_lost or follower.pause_s > _FIRST_PAUSE_S:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(follower.pause_s * random.uniform(0.5, 1)):  # noqa: S311
                    await follower.poked.wait()
        follower.poked.clear()
        follower.pause_s = min(2 * follower.pause_s, _LONGEST_PAUSE_S)
        try:
            fresh = await self._recorder.read(self._jobs.get, follower.record.id)
        except Unavailable as error:
            self._say(f"Jobs wait: {error.message}")
            return False
        if fresh is None or fresh.state.is_terminal:
            return True
        follower.take_fresh(fresh)
        return False

    async def _end_unsent(self, record: JobRecord, state: JobState) -> None:
        """End a job that the executor doesn't have."""
        if record.state == JobState.IN_PROGRESS:
            await self._recorder.call(self._jobs.put_back, record.id, record.dispatch)
        code, message = _UNSENT[state]
        recorded = await self._recorder.call(
            self._jobs.end_unsent, record.id, state, code, message, self._clock()
        )
        self._feeds.look(record.id)
        ended = await self._recorder.read(self._jobs.get, record.id)
        if recorded is not None and ended is not None:
            await self._on_ended(ended, recorded)

    async def _find_lost(self) -> None:
        """Put back what the executor doesn't know, though nobody told its follower."""
        sent = [one for one in self._following.values() if one.feed.is_live and one.is_sent]
        for start in range(0, len(sent), _KNOWN_AT_ONCE):
            some = sent[start : start + _KNOWN_AT_ONCE]
            known = await self._executor.known([one.record.transport_id for one in some])
            for follower in some:
                is_same = self._following.get(follower.record.id) is follower
                if is_same and follower.feed.is_live and follower.record.transport_id not in known:
                    await self._begin_again(follower)

    async def _begin_again(self, follower: Follower) -> None:
        assert follower.task is not None, "a follower is started when it is made"
        follower.task.cancel()
        await asyncio.gather(follower.task, return_exceptions=True)
        if self._closed or self._following.get(follower.record.id) is not follower:
            return
        follower.is_lost = True
        follower.feed.is_live = False
        if await self._pause(follower):
            follower.is_lost = False  # it has ended: its watch, in the store, says how
            del self._following[follower.record.id]
            self._feeds.drop(follower.record.id, follower.feed)
            return
        self._start(follower)

    def _say(self, sentence: str) -> None:
        now = self._clock()
        if now - self._said_at >= _SAY_AGAIN_S:
            self._said_at = now
            _LOG.warning("%s", sentence)


_UNSENT = {
    JobState.CANCELLED: ("cancelled", "The job was cancelled."),
    JobState.TIMED_OUT: (
        "time_limit",
        "The job waited past its policy's ttl and did not run; give it a longer one.",
    ),
}


def advanced(record: JobRecord, recorded: RecordedEvent) -> JobRecord:
    """The record after one more event, as the store's row follows its events."""
    event = recorded.event
    changes: dict[str, object] = {"last_number": event.number}
    if event.state != record.state:
        changes["state"] = event.state
        if event.state == JobState.IN_QUEUE:
            changes["started_at"] = None
        elif event.state == JobState.IN_PROGRESS:
            changes |= {"attempts": record.attempts + 1, "started_at": recorded.at}
    if event.progress is not None:
        changes["progress"] = event.progress
    if event.answer is not None:
        changes |= {"answer": event.answer, "ended_at": recorded.at}
        changes["worker_id"] = event.answer.worker_id or record.worker_id
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]


def _substitute(event: JobEvent, refused: Exception | None) -> JobEvent | None:
    """What is recorded for an executor's event; None: nothing."""
    if event.number == 1 and event.state == JobState.IN_QUEUE:
        return None  # the store made its own when the job was added or put back
    if refused is None:
        return event
    if event.answer is None:
        return None
    error = JobError(
        code="internal",
        message="The job ended and its answer could not be stored: "
        f"{type(refused).__name__}. Retry it, and report this if it comes again.",
    )
    answer = JobAnswer(
        id=event.answer.id,
        status=JobState.FAILED,
        delay_time_ms=event.answer.delay_time_ms,
        execution_time_ms=event.answer.execution_time_ms,
        worker_id=event.answer.worker_id,
        error=error,
    )
    return event.model_copy(update={"state": JobState.FAILED, "answer": answer})
