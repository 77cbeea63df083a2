"""The service's jobs: accepted into the store, sent to the executor, watched, cancelled."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from visiondyno.errors import Conflict, NotFound, TransportDown, Unavailable
from visiondyno.executors.base import Executor
from visiondyno.executors.workers import WorkerCommand, WorkerInfo
from visiondyno.job import JobEvent, JobRequest, JobState, Policy, new_job_id
from visiondyno.service.feeds import Feed, Feeds
from visiondyno.service.follow import Followers
from visiondyno.service.job_events import new_record
from visiondyno.service.recorder import Recorder
from visiondyno.service.requests import Requests, check_webhook, digest_of
from visiondyno.settings import Settings
from visiondyno.store.base import JobStore
from visiondyno.store.records import JobFilter, JobKind, JobRecord, NewJob, RecordedEvent
from visiondyno.telemetry.ids import bind

Listener = Callable[[JobRecord, RecordedEvent], Awaitable[None]]

_LOG = logging.getLogger(__name__)
_RECONCILE_S = 5.0
_FORGET_S = 3600.0
_TELL_AGAIN_S = 1.0
_CANCEL_WAIT_S = 2.0
_RETRYABLE = (JobState.FAILED, JobState.TIMED_OUT)


class JobService:
    """Jobs: the only writer of their records.

    Accepted means committed to the store: from then on a job reaches a terminal state, whatever
    dies in between. Safe for use from one event loop.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        executor: Executor,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._store = store
        self._executor = executor
        self._clock = clock
        self._feeds = Feeds()
        self.recorder = Recorder(store, self._recorded, self._feeds.look)
        self.requests = Requests(store, self.recorder, clock)
        self._followers = Followers(store, executor, self.recorder, self._feeds, clock, self._ended)
        self._listeners: list[Listener] = []
        self._telling: set[asyncio.Task[None]] = set()
        self._reconciling: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Follow every open job, and go on looking for such.

        Raises:
            TransportDown: the store can't be read.
        """
        await self._followers.read_open()
        self._reconciling = asyncio.create_task(self._reconcile_always())

    async def close(self) -> None:
        """Stop following and watching, and write what was seen. Jobs of durable executors go on."""
        self._closed = True
        looping = [*self._telling, *([self._reconciling] if self._reconciling else [])]
        for task in looping:
            task.cancel()
        await asyncio.gather(*looping, return_exceptions=True)
        await self._followers.close()
        await self._feeds.close()
        await self.recorder.close()

    def let_go(self) -> None:
        """Take no more jobs, and end all watches with `TransportDown`: the service stops soon."""
        self._closed = True
        self._feeds.wake()

    def on_recorded(self, listener: Listener) -> None:
        """Call `listener` after each recorded terminal event of any job.

        One that raises `Unavailable` is called again until it doesn't. An event may be told twice,
        or not at all when the process ends just then: a listener can be called again with what it
        knows, and looks for what it missed when it starts.
        """
        self._listeners.append(listener)

    async def reconcile(self) -> None:
        """Look now: follow what nobody follows here, put back what the transport lost.

        Raises:
            TransportDown: the store or the transport can't be asked.
        """
        await self._followers.reconcile()

    # -- asking ----------------------------------------------------------------------------------

    async def submit(
        self,
        request: JobRequest,
        *,
        kind: JobKind = JobKind.RUN,
        endpoint: str | None = None,
        owner: str | None = None,
        idempotency_key: str | None = None,
        job_id: str | None = None,
    ) -> JobRecord:
        """Accept a job; it is in the store when this returns.

        Args:
            request: its policy's gaps are filled from the settings.
            kind: decides where the job is listed.
            endpoint: the settings' own if None.
            owner: id of the API key that asks.
            idempotency_key: with one, the same request again gives the earlier job.
            job_id: a new one if None. A job of this id that is there already is given back.

        Raises:
            SpecError: the webhook's URL or the key is wrong.
            Conflict: the idempotency key came with another request.
            TransportDown, StorageFull: the store can't take the job; it was not accepted.
        """
        if self._closed:
            raise TransportDown("The service is stopping; send the job again in a moment.")
        check_webhook(request.webhook)
        where = endpoint or self._settings.endpoint
        job = NewJob(
            id=job_id or new_job_id(),
            endpoint=where,
            kind=kind,
            request=self._with_defaults(request),
            created_at=self._clock(),
            owner=owner,
        )
        if idempotency_key is None:
            given = job_id is not None
            return await self._accept(job, may_exist=given, may_be_added=given)
        scope = f"{kind}:{where}:{owner or ''}"
        digest = digest_of(request.model_dump(mode="json"))
        async with self.requests.once(scope, idempotency_key, digest, job.id) as bound_id:
            bound = NewJob(bound_id, where, kind, job.request, job.created_at, owner)
            # Another server with the same key may add it first, whoever bound the key.
            return await self._accept(bound, may_exist=bound_id != job.id, may_be_added=True)

    async def cancel(self, job_id: str) -> JobRecord:
        """Cancel the job; one that has ended is left as it is.

        The record given back may still be IN_PROGRESS where the operation takes its time to stop.

        Raises:
            NotFound: no such job.
        """
        record = await self.get(job_id)
        if record.state.is_terminal:
            return record
        wanted = await self.recorder.call(self._store.request_cancel, job_id)
        if wanted is None:
            raise _not_found(job_id)
        if wanted.state.is_terminal:
            return wanted
        await self._followers.cancel(wanted)
        return await self.wait(job_id, _CANCEL_WAIT_S)

    async def retry(self, job_id: str) -> JobRecord:
        """Run a FAILED or TIMED_OUT job anew.

        Raises:
            NotFound: no such job.
            Conflict: its state is another.
        """
        record = await self.recorder.call(self._store.retry, job_id, self._clock())
        if record is None:
            found = await self.get(job_id)
            raise Conflict(
                f"Job {job_id} is {found.state}; only a {' or '.join(_RETRYABLE)} one is retried."
            )
        self._followers.follow(record, is_sent=False)
        return record

    async def purge(self, endpoint: str | None = None) -> int:
        """Cancel every job that waits at the endpoint; how many were."""
        records = await self.recorder.read(self._store.open_jobs)
        where = endpoint or self._settings.endpoint
        waiting = [r for r in records if r.endpoint == where and r.state == JobState.IN_QUEUE]
        ended = await asyncio.gather(*(self.cancel(record.id) for record in waiting))
        return sum(record.state == JobState.CANCELLED for record in ended)

    async def command_worker(self, name: str, command: WorkerCommand) -> None:
        """Tell one worker to drain, resume or restart.

        Raises:
            NotFound: no such worker.
            SpecError: the executor's workers take no commands.
        """
        await self._executor.command_worker(name, command)

    # -- looking ---------------------------------------------------------------------------------

    async def get(self, job_id: str) -> JobRecord:
        """The job as the store has it.

        Raises:
            NotFound: no such job.
        """
        record = await self.recorder.read(self._store.get, job_id)
        if record is None:
            raise _not_found(job_id)
        return record

    async def find(self, wanted: JobFilter) -> list[JobRecord]:
        """Jobs, newest first."""
        return await self.recorder.read(self._store.find, wanted)

    async def counts(self, endpoint: str | None = None) -> dict[JobState, int]:
        """How many jobs are in each state; of all endpoints if None."""
        return await self.recorder.read(self._store.counts, endpoint)

    async def oldest_waiting_s(self) -> float | None:
        """How long the oldest waiting job has waited; None where none waits."""
        created_at = await self.recorder.read(self._store.oldest_waiting)
        return None if created_at is None else max(0.0, self._clock() - created_at)

    async def workers(self) -> Sequence[WorkerInfo]:
        """The workers, by name."""
        return await self._executor.workers()

    async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[RecordedEvent, None]:
        """The job's events after number `after`, since its last retry, to the terminal one.

        Raises:
            NotFound: no such job.
            TransportDown: the service is closed meanwhile, or the store can't be read.
        """
        feed = self._feeds.get(job_id)
        if feed is None:
            record = await self.get(job_id)
            after = max(after, record.first_number - 1)
            for recorded in await self.recorder.read(self._store.events, job_id, after):
                yield recorded
                after = recorded.event.number
                if recorded.event.state.is_terminal:
                    return
            if record.state.is_terminal:
                return
            feed = self._feeds.open(record, after + 1)
        feed.watchers += 1
        try:
            async for recorded in self._watch_feed(job_id, feed, max(after, feed.first_number - 1)):
                yield recorded
        finally:
            feed.watchers -= 1
            if not feed.watchers and not self._followers.follows(job_id):
                self._feeds.drop(job_id, feed)

    async def wait(self, job_id: str, timeout_s: float) -> JobRecord:
        """The job as it is when it has ended or `timeout_s` is over.

        Raises:
            NotFound: no such job.
        """
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(timeout_s),
                contextlib.aclosing(self.watch(job_id)) as events,
            ):
                async for _ in events:
                    pass
        return await self.get(job_id)

    # -- within ----------------------------------------------------------------------------------

    async def _accept(self, job: NewJob, *, may_exist: bool, may_be_added: bool) -> JobRecord:
        bind(job_id=job.id)
        if may_exist and (found := await self.recorder.read(self._store.get, job.id)):
            return found
        with self._followers.expecting(job.id):
            try:
                await self.recorder.add(job)
            except Unavailable:
                raise
            except Exception:
                # Another process may have added it under the same idempotency key just now.
                found = await self.recorder.read(self._store.get, job.id) if may_be_added else None
                if found is None:
                    raise
                return found
            record = new_record(job)
            first = JobEvent(job_id=job.id, number=1, state=JobState.IN_QUEUE)
            self._feeds.open(record, 1).publish(RecordedEvent(first, job.created_at))
            self._followers.follow(record, is_sent=False)
        return record

    def _with_defaults(self, request: JobRequest) -> JobRequest:
        policy, settings = request.policy, self._settings
        filled = Policy.model_construct(
            execution_timeout_ms=policy.execution_timeout_ms or settings.execution_timeout_ms,
            ttl_ms=policy.ttl_ms or settings.ttl_ms,
            low_priority=policy.low_priority,
        )
        return JobRequest.model_construct(
            input=request.input, policy=filled, webhook=request.webhook
        )

    async def _watch_feed(
        self, job_id: str, feed: Feed, after: int
    ) -> AsyncGenerator[RecordedEvent, None]:
        looks = 0
        while True:
            is_over = feed.is_over
            found = feed.after(after)
            if not found and (found is None or is_over or looks != feed.looks):
                looks = feed.looks
                found = await self.recorder.read(self._store.events, job_id, after)
            assert found is not None, "None asks for a look"
            for recorded in found:
                yield recorded
                after = recorded.event.number
                if recorded.event.state.is_terminal:
                    return
            if found or feed.after(after):  # which came while the store was read
                continue
            if self._closed:
                raise TransportDown("The service is stopping; watch the job again in a moment.")
            if is_over:
                record = await self.get(job_id)
                if record.state.is_terminal:
                    return
                feed, looks = self._feeds.open(record, after + 1), 0  # retried meanwhile
                continue
            self._feeds.tick()
            await feed.changed()

    def _recorded(self, recorded: Sequence[RecordedEvent]) -> None:
        self._feeds.publish(recorded)
        self._followers.take(recorded)

    async def _ended(self, record: JobRecord, last: RecordedEvent) -> None:
        for listener in self._listeners:
            try:
                await listener(record, last)
            except Unavailable:
                task = asyncio.create_task(self._tell_again(listener, record, last))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)
            except Exception:
                _LOG.exception("A listener failed for job %s", record.id)

    async def _tell_again(self, listener: Listener, record: JobRecord, last: RecordedEvent) -> None:
        pause_s = _TELL_AGAIN_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _FORGET_S)
            try:
                return await listener(record, last)
            except Unavailable as error:
                _LOG.warning("What follows from job %s waits: %s", record.id, error.message)
            except Exception:
                return _LOG.exception("A listener failed for job %s", record.id)

    async def _reconcile_always(self) -> None:
        next_forget = self._clock()
        while True:
            await asyncio.sleep(_RECONCILE_S)
            try:
                await self.reconcile()
                if self._clock() >= next_forget:
                    await self.requests.forget_old()
                    next_forget = self._clock() + _FORGET_S
            except Unavailable as error:
                _LOG.warning("Jobs are not reconciled: %s", error.message)
            except Exception:
                _LOG.exception("Jobs are not reconciled")


def _not_found(job_id: str) -> NotFound:
    return NotFound(f"There is no job '{job_id:.100}'; ids are what submitting a job returned.")
