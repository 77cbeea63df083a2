"""Looks at the jobs of a RunPod endpoint, of which their events are made."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import httpx
from httpx import codes

from visiondyno.executors.base import JobLost
from visiondyno.executors.http_api import HttpApi, Sleep
from visiondyno.executors.runpod_job import SeenJob
from visiondyno.executors.runpod_owner import OwnedJobs
from visiondyno.executors.runpod_wire import JobStatus, read_stream, refusal
from visiondyno.executors.server_wire import Json, foreign_error, path_part
from visiondyno.job import JobEvent, JobState

KEPT_S = 24 * 3600.0
"""How long events of ended jobs are kept for those who watch late; RunPod forgets after 30 min."""
_KEPT_BYTES = 64_000_000
"""Of ended jobs, for the same."""


class Looks:
    """What was seen of an endpoint's jobs, and the next looks at them.

    Args:
        api: the endpoint's.
        owned: is told what looks at its jobs gave.
        sleep: waits so many seconds.
        clock: seconds.

    Attributes:
        theirs: what the endpoint calls jobs that have another name here.
    """

    def __init__(
        self, api: HttpApi, owned: OwnedJobs, *, sleep: Sleep, clock: Callable[[], float]
    ) -> None:
        self.theirs: dict[str, str] = {}
        self._api = api
        self._owned = owned
        self._sleep = sleep
        self._clock = clock
        self._seen: dict[str, SeenJob] = {}
        self._ended: dict[str, SeenJob] = {}
        self._followed = 0
        self._is_closed = False

    def of(self, job_id: str) -> SeenJob | None:
        """What was seen of a job; None where nothing was, or is kept no longer."""
        self._drop_old()
        return self._seen.get(job_id)

    def note_end(self, job_id: str, status: JobStatus) -> None:
        """A job that was never looked at has ended."""
        job = self._job(job_id)
        job.end(status)
        self._keep(job)

    def forget(self, job_id: str) -> None:
        """A job begins anew."""
        self._seen.pop(job_id, None)
        self._ended.pop(job_id, None)

    async def close(self) -> None:
        """End the looks that are under way; none follows."""
        self._is_closed = True
        looks = [job.looking for job in self._seen.values() if job.looking is not None]
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def once(self, job_id: str) -> bool:
        """Look at a job; whether it has ended. Errors as those of asking about it."""
        job = self._job(job_id)
        if not job.has_ended:
            await self._next_look(job)
        return job.has_ended

    async def events(self, job_id: str, after: int) -> AsyncGenerator[JobEvent, None]:
        """The job's events after number `after`, to its end."""
        job = self._job(job_id)
        while True:
            while after < len(job.events):
                event = job.events[after]
                after += 1
                yield event
            if job.has_ended:
                return
            await self._next_look(job)

    def _job(self, job_id: str) -> SeenJob:
        self._drop_old()
        job = self._seen.get(job_id)
        if job is None:
            theirs = self.theirs.get(job_id, job_id)
            job = self._seen[job_id] = SeenJob(job_id, theirs, self._clock())
        return job

    async def _next_look(self, job: SeenJob) -> None:
        """Wait for the next look, which serves all who watch and goes on without them.

        A look that ended with its watcher would lose what it took from the stream.
        """
        if job.looking is None or job.looking.done():
            job.looking = asyncio.create_task(self._look(job))
            job.looking.add_done_callback(_retrieve)
        look = job.looking
        await asyncio.wait([look])
        if look.cancelled():  # by `close` alone
            raise self._api.closed_error()
        look.result()

    async def _look(self, job: SeenJob) -> None:
        if self._is_closed:
            raise self._api.closed_error()
        self._followed += 1
        try:
            await self._look_after_pause(job)
        finally:
            self._followed -= 1

    async def _look_after_pause(self, job: SeenJob) -> None:
        if job.pause_s:
            await self._sleep(job.pause_s)
        seen = len(job.events)
        try:
            await self._read(job)
        except JobLost:
            self._seen.pop(job.id, None)
            self._owned.ended(job.id, [])
            raise
        age_s = self._clock() - job.began_s
        job.plan_next_look(seen, age_s=age_s, followed=self._followed)
        if job.has_ended:
            self._keep(job)

    async def _read(self, job: SeenJob) -> None:
        """Take what is new, in an order that loses nothing: progress comes before the end."""
        status = JobStatus.of(await self._ask_about(job, "status"))
        self._owned.saw(job.id, status)
        if status.state is JobState.IN_QUEUE:
            job.become(status.state)
            return
        is_over, items = await self._read_stream(job)
        if not status.state.is_terminal and not is_over and not job.pending:
            job.become(status.state)
            job.tell(items)
            return
        while items:
            job.pending.extend(items)
            _, items = await self._read_stream(job)
        if not status.state.is_terminal:
            status = JobStatus.of(await self._ask_about(job, "status"))
        if status.state.is_terminal:
            job.end(self._owned.reason_of(job.id, status))

    async def _read_stream(self, job: SeenJob) -> tuple[bool, list[Json]]:
        try:
            return read_stream(await self._ask_about(job, "stream"))
        except JobLost:  # perhaps it only has no stream; its status says
            return False, []

    def _keep(self, job: SeenJob) -> None:
        job.ended_s = self._clock()
        self._ended[job.id] = job
        self._owned.ended(job.id, job.events)
        self._drop_old()

    def _drop_old(self) -> None:
        kept_bytes = sum(job.received_bytes for job in self._ended.values())
        now_s = self._clock()
        for job in list(self._ended.values()):  # in the order of their ends
            is_too_much = kept_bytes > _KEPT_BYTES and len(self._ended) > 1
            if not is_too_much and now_s - job.ended_s < KEPT_S:
                return
            kept_bytes -= job.received_bytes
            del self._ended[job.id], self._seen[job.id]

    async def _ask_about(self, job: SeenJob, what: str) -> Json:
        response = await self.ask_of(job.id, "GET", what)
        job.received_bytes += len(response.content)
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise foreign_error(response)
        return found

    async def ask_of(self, job_id: str, method: str, what: str) -> httpx.Response:
        """The successful answer of a route about one job.

        Raises:
            JobLost: the endpoint doesn't know the job.
            VisionDynoError: it refuses, or can't be reached.
        """
        theirs = self.checked_id(job_id)
        response = await self._api.ask(method, f"/{what}/{path_part(theirs)}")
        if response.status_code == codes.NOT_FOUND:
            raise self.lost(job_id)
        if not response.is_success:
            raise refusal(response)
        return response

    def lost(self, job_id: str) -> JobLost:
        """The error of a job that the endpoint doesn't know."""
        return JobLost(
            f"The endpoint {self._api.url} has no job '{job_id:.100}': it never had one, or forgot "
            "it, 30 minutes after its end at the latest. Submit the job again."
        )

    def checked_id(self, job_id: str) -> str:
        """What the endpoint calls a job.

        Raises:
            JobLost: it can't be the name of one.
        """
        theirs = self.theirs.get(job_id, job_id)
        if not theirs.strip("."):
            raise self.lost(job_id)  # it would be another path
        return theirs


def _retrieve(look: "asyncio.Task[None]") -> None:
    """Take note of an error that nobody may be there for any more."""
    if not look.cancelled():
        look.exception()
