"""Following jobs: each open one is sent to the executor, and its events go to the store."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence

from visiondyno.errors import TransportDown, Unavailable
from visiondyno.executors.base import Executor, JobLost
from visiondyno.job import JobEvent, JobRequest, JobState
from visiondyno.service.feeds import Feed, Feeds
from visiondyno.service.job_events import advanced, to_record
from visiondyno.service.recorder import Recorder, Stream
from visiondyno.store.base import JobStore
from visiondyno.store.records import JobRecord, Observed, RecordedEvent
from visiondyno.telemetry.ids import bind

OnEnded = Callable[[JobRecord, RecordedEvent], Awaitable[None]]

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_MOST_UNWRITTEN = 64
"""Events of one job on their way to the store before its follower waits."""
_SAY_AGAIN_S = 30.0
_KNOWN_AT_ONCE = 1000
_WAIT_THAT_COUNTS = 0.01
"""Share of its ttl below which a job's wait isn't taken off it."""
_READ_ALL_EVERY = 12
"""Looks until all open jobs are read, though their number says that all are followed."""


class _AgainError(Exception):
    """The job must be read again before anything else is done for it."""


class Follower:
    """One job's way through the executor, as this process knows it.

    Attributes:
        record: the job after the last event that this process recorded.
        is_sent: the executor may know it under `record.transport_id`.
        cancel_wanted: the user wants it cancelled.
        cancel_told: the executor was told so.
        stream: this dispatch's events on their way to the store.
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
        self.stream = Stream()
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
        if (record.dispatch, record.seen) > (self.record.dispatch, self.record.seen):
            # Whoever put it back or heard of it since knows more; what is lost all the same, or
            # was never sent, its watch says.
            self.is_sent, self.is_lost = True, False
        if record.first_number != self.record.first_number:
            self.cancel_wanted = False  # that was before the retry
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
        self._looks = 0
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
        open_count = await self._recorder.read(self._jobs.count_open)
        self._looks += 1
        if open_count != len(self._following) or self._looks % _READ_ALL_EVERY == 0:
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
        bind(job_id=follower.record.id)
        has_ended = follower.is_lost and await self._pause(follower)
        while not has_ended:
            has_ended = await self._try_once(follower)
        # Before the listeners: a retry may follow at once, and needs a follower of its own.
        job_id = follower.record.id
        if self._following.get(job_id) is follower:
            del self._following[job_id]
        self._feeds.drop(job_id, follower.feed)
        if follower.ended is not None:
            await self._on_ended(follower.record, follower.ended)

    async def _try_once(self, follower: Follower) -> bool:
        """Whether the job has ended; False: try again."""
        follower.feed.is_live = True
        try:
            if follower.is_lost:
                await self._put_back(follower)
            return await self._step(follower)
        except JobLost:
            follower.is_lost = True
        except _AgainError:
            follower.is_lost = False
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
                follower.cancel_told = True
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
            record = follower.record
            # Put back, it is as old as it was; retried, it begins anew.
            queued_at = record.created_at if record.first_number == 1 else None
            await self._executor.submit(request, record.transport_id, queued_at)
            follower.is_sent = True
            if follower.poked.is_set():  # cancelled meanwhile
                await self._executor.cancel(follower.record.transport_id)
        return await self._pump(follower)

    async def _pump(self, follower: Follower) -> bool:
        """Take the dispatch's events to the store, to the terminal one."""
        stream = follower.stream = Stream()
        watch = self._executor.watch(follower.record.transport_id, follower.record.seen)
        # Closed here: left to the garbage collector, each would cost a task and a wake-up.
        async with contextlib.aclosing(watch) as events:
            async for event in events:
                if await self._take(event, follower, stream):
                    return True
        # Ended, and its end isn't above what was seen: the transport came back as it was before.
        raise JobLost(f"The executor ended its events of job {follower.record.id} unanswered.")

    async def _take(self, event: JobEvent, follower: Follower, stream: Stream) -> bool:
        """Take one event to the store; whether it was the job's end."""
        job_id = follower.record.id
        taken = to_record(event, follower.refused.get(event.number))
        if taken is None:
            return False
        observed = Observed(job_id, follower.record.dispatch, taken, self._clock())
        self._recorder.observe(observed, stream)
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
            raise _AgainError from error
        if ends and follower.ended is None:
            raise _AgainError  # another process has seen to the job
        follower.pause_s = _FIRST_PAUSE_S
        return ends

    async def _request(self, record: JobRecord) -> JobRequest | None:
        """What the executor is asked, its ttl less what was waited; None if that is over."""
        request, policy = record.request, record.request.policy
        if policy.ttl_ms is not None:
            waited_ms = await self._waited_ms(record)
            if waited_ms >= policy.ttl_ms:
                return None
            if waited_ms > _WAIT_THAT_COUNTS * policy.ttl_ms:
                policy = policy.model_copy(update={"ttl_ms": policy.ttl_ms - waited_ms})
        if policy is request.policy and request.webhook is None:
            return request
        return JobRequest.model_construct(input=request.input, policy=policy, webhook=None)

    async def _waited_ms(self, record: JobRecord) -> int:
        """How long the job has waited; one that ran waited until then only."""
        since, until = record.created_at, self._clock()
        if record.attempts or record.first_number > 1:  # a retry waits anew
            after = record.first_number - 1
            events = await self._recorder.read(self._jobs.events, record.id, after)
            since = events[0].at if events else since
            started = (one.at for one in events if one.event.state == JobState.IN_PROGRESS)
            until = next(started, until)
        return max(0, round((until - since) * 1000))

    async def _put_back(self, follower: Follower) -> None:
        """Make a lost job ready to be sent; its watch goes on with other numbers."""
        record = follower.record
        if record.seen > 0:
            # Nothing of a new dispatch could be told from the old one's under the same id.
            put_back = await self._recorder.call(self._jobs.put_back, record.id, record.dispatch)
            self._feeds.look(record.id)
            if put_back is None:
                raise _AgainError  # another process has put it back
            follower.take_fresh(put_back)
        follower.is_sent = follower.is_lost = False

    async def _pause(self, follower: Follower) -> bool:
        """Wait a little longer each time, until the job can be read; whether it has ended."""
        waits = not follower.is_lost or follower.pause_s > _FIRST_PAUSE_S
        with contextlib.suppress(Exception):
            await follower.stream.written()  # what is read must know of all that was seen
        while True:
            if waits:
                with contextlib.suppress(TimeoutError):
                    share = random.uniform(0.5, 1)  # noqa: S311  # spreads load, hides nothing
                    async with asyncio.timeout(follower.pause_s * share):
                        await follower.poked.wait()
            follower.poked.clear()
            follower.pause_s = min(2 * follower.pause_s, _LONGEST_PAUSE_S)
            try:
                fresh = await self._recorder.read(self._jobs.get, follower.record.id)
            except Unavailable as error:
                self._say(f"Jobs wait: {error.message}")
                waits = True
                continue
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
        sent = [
            (one, one.record.transport_id)
            for one in self._following.values()
            if one.feed.is_live and one.is_sent
        ]
        for start in range(0, len(sent), _KNOWN_AT_ONCE):
            some = sent[start : start + _KNOWN_AT_ONCE]
            known = await self._executor.known([transport_id for _, transport_id in some])
            for follower, transport_id in some:
                if transport_id not in known and follower.record.transport_id == transport_id:
                    await self._begin_again(follower)

    async def _begin_again(self, follower: Follower) -> None:
        if self._following.get(follower.record.id) is not follower or not follower.feed.is_live:
            return  # it has ended, or its follower has noticed
        assert follower.task is not None, "a follower is started when it is made"
        follower.task.cancel()
        await asyncio.gather(follower.task, return_exceptions=True)
        if not self._closed and self._following.get(follower.record.id) is follower:
            follower.is_lost = True
            follower.feed.is_live = False
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
