"""The executor over a RunPod serverless endpoint, or any server with its job API."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Collection
from weakref import WeakValueDictionary

import httpx
from httpx import codes

from visiondyno.errors import SpecError, TooLarge, Unavailable
from visiondyno.executors.base import Executor, ExecutorHealth, JobLost
from visiondyno.executors.http_api import HttpApi, Sleep
from visiondyno.executors.runpod_job import SeenJob
from visiondyno.executors.runpod_wire import JobStatus, read_stream, refusal
from visiondyno.executors.server_wire import (
    Json,
    checked_url,
    endpoint_health,
    foreign_error,
    idempotency_key,
    job_id_of,
    path_part,
    request_body,
)
from visiondyno.job import JobEvent, JobRequest, JobState

MAX_REQUEST_BYTES = 10_000_000
"""What RunPod's `/run` takes."""
RETENTION_S = 30 * 60.0
"""How long RunPod keeps what became of a job after its end; so do we."""
_KEPT_BYTES = 64_000_000
"""Of ended jobs, for those who watch late."""
_ASKED_AT_ONCE = 8
_ENDPOINT = re.compile(r"(https?://[^?#]*/v2/[^/?#]+)(?:/(?:run|runsync))?/*")


def is_endpoint_url(url: str) -> bool:
    """Whether it is the URL of an endpoint: its path ends with `/v2/NAME`."""
    return _ENDPOINT.fullmatch(url) is not None


class RunPodExecutor(Executor):
    """Jobs of a RunPod serverless endpoint, by its job API alone.

    That API gives less than the contract of `Executor` asks for, so some of it is made here:

    - It has no events. They are made of `/status` and `/stream`, asked for in turn with pauses of
      0.1 s to 2 s, and numbered here; a change of state is seen late, and one that came and went
      between two looks isn't seen. Reading a stream takes what it gives: the events are those of
      this executor alone, and what another process read, or a broken connection lost, is missing.
    - It forgets a job 30 minutes after its end; then the job is a `JobLost`. Events of ended jobs
      are kept here for so long, the last 64 MB of them; later watchers of one that was dropped
      before get its states and its answer.
    - It has no place for `queued_at`, nor for a job's own id: a job's place is that of its arrival,
      and which job has which id there is known to this executor alone.
    - It can't be asked twice for one job. So a submission is made again only where it was certainly
      refused (no connection, 429); after a doubt it is `TransportDown`, and the job may run. The
      idempotency key that goes with it helps where the endpoint is a VisionDyno server's.
    - Jobs that were cancelled aren't counted in its health, and those that ran out of time are
      counted as FAILED.

    Args:
        endpoint_url: `https://api.runpod.ai/v2/ENDPOINT_ID`, or `http(s)://server/v2/NAME`.
        api_key: sent as bearer token; None sends none.
        transport: httpx's, for an application in this process.
        sleep: waits so many seconds between looks and attempts.
        clock: seconds, for how long events are kept.

    Raises:
        SpecError: `endpoint_url` or `api_key` can't be one.
    """

    name = "runpod"
    durable = True

    def __init__(
        self,
        endpoint_url: str,
        api_key: str | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        url = checked_url(endpoint_url)
        found = _ENDPOINT.fullmatch(url)
        if found is None:
            raise SpecError(
                f"'{url}' isn't an endpoint's URL; give one such as "
                "https://api.runpod.ai/v2/ENDPOINT_ID."
            )
        self._api = HttpApi(
            found[1],
            api_key,
            refusal=refusal,
            if_silent="check the endpoint's URL and the network",
            transport=transport,
            sleep=sleep,
        )
        self._sleep = sleep
        self._clock = clock
        self._theirs: dict[str, str] = {}
        self._seen: dict[str, SeenJob] = {}
        self._ended: dict[str, SeenJob] = {}
        self._submitting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def submit(
        self,
        request: JobRequest,
        job_id: str | None = None,
        queued_at: float | None = None,  # noqa: ARG002 - see the class
    ) -> str:
        self._api.check_open()
        body = request_body(request)
        if len(body) > MAX_REQUEST_BYTES:
            raise TooLarge(
                f"The job has {len(body) / 1e6:.1f} MB and RunPod's /run takes "
                f"{MAX_REQUEST_BYTES / 1e6:g} MB; put large data into the blob store "
                "(VISIONDYNO_BLOBS_URL) and refer to it."
            )
        if job_id is None:
            return await self._run(body, None)
        lock = self._submitting.setdefault(job_id, asyncio.Lock())
        async with lock:
            if job_id not in self._theirs:
                self._theirs[job_id] = await self._run(body, job_id)
        return job_id

    async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        self._drop_old()
        job = self._seen.get(job_id)
        if job is None:
            job = self._seen[job_id] = SeenJob(job_id, self._theirs.get(job_id, job_id))
        while True:
            while after < len(job.events):
                event = job.events[after]
                after += 1
                yield event
            if job.has_ended:
                return
            await self._next_look(job)

    async def cancel(self, job_id: str) -> None:
        job = self._seen.get(job_id)
        if job is not None and job.has_ended:
            return
        await self._ask_of(job_id, "POST", "cancel")

    async def known(self, job_ids: Collection[str]) -> set[str]:
        self._drop_old()
        gate = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def is_known(job_id: str) -> bool:
            async with gate:
                try:
                    if job_id not in self._ended:
                        await self._ask_of(job_id, "GET", "status")
                except JobLost:
                    return False
                return True

        asked = list(job_ids)
        found = await asyncio.gather(*(is_known(job_id) for job_id in asked))
        return {job_id for job_id, is_there in zip(asked, found, strict=True) if is_there}

    async def health(self) -> ExecutorHealth:
        found = await self._api.ask_json("GET", "/health")
        try:
            return endpoint_health(found)
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable(
                f"{self._api.url} tells of its health in another form than RunPod's; check the "
                "endpoint's URL."
            ) from error

    async def close(self) -> None:
        looks = [job.looking for job in self._seen.values() if job.looking is not None]
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        await self._api.close()

    # ---- looking

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
        self._api.check_open()
        if job.pause_s:
            await self._sleep(job.pause_s)
        seen = len(job.events)
        try:
            await self._read(job)
        except JobLost:
            self._seen.pop(job.id, None)
            raise
        job.plan_next_look(seen)
        if job.has_ended:
            self._keep(job)

    async def _read(self, job: SeenJob) -> None:
        """Take what is new, in an order that loses nothing: progress comes before the end."""
        status = JobStatus.of(await self._ask_about(job, "status"))
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
            job.end(status)

    async def _read_stream(self, job: SeenJob) -> tuple[bool, list[Json]]:
        try:
            return read_stream(await self._ask_about(job, "stream"))
        except JobLost:  # perhaps it only has no stream; its status says
            return False, []

    def _keep(self, job: SeenJob) -> None:
        job.ended_s = self._clock()
        self._ended[job.id] = job
        self._drop_old()

    def _drop_old(self) -> None:
        kept_bytes = sum(job.received_bytes for job in self._ended.values())
        now_s = self._clock()
        for job in list(self._ended.values()):  # in the order of their ends
            is_too_much = kept_bytes > _KEPT_BYTES and len(self._ended) > 1
            if not is_too_much and now_s - job.ended_s < RETENTION_S:
                return
            kept_bytes -= job.received_bytes
            del self._ended[job.id], self._seen[job.id]

    # ---- asking

    async def _run(self, body: bytes, job_id: str | None) -> str:
        headers = {"Idempotency-Key": idempotency_key(job_id)}
        found = await self._api.ask_json(
            "POST", "/run", body=body, headers=headers, is_repeatable=False
        )
        return job_id_of(found, self._api.url)

    async def _ask_about(self, job: SeenJob, what: str) -> Json:
        response = await self._ask_of(job.id, "GET", what)
        job.received_bytes += len(response.content)
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise foreign_error(response)
        return found

    async def _ask_of(self, job_id: str, method: str, what: str) -> httpx.Response:
        theirs = self._theirs.get(job_id, job_id)
        if not theirs.strip("."):
            raise self._lost(job_id)  # it would be another path
        response = await self._api.ask(method, f"/{what}/{path_part(theirs)}")
        if response.status_code == codes.NOT_FOUND:
            raise self._lost(job_id)
        if not response.is_success:
            raise refusal(response)
        return response

    def _lost(self, job_id: str) -> JobLost:
        return JobLost(
            f"The endpoint {self._api.url} has no job '{job_id:.100}': it never had one, or forgot "
            "it, 30 minutes after its end at the latest. Submit the job again."
        )


def _retrieve(look: "asyncio.Task[None]") -> None:
    """Take note of an error that nobody may be there for any more."""
    if not look.cancelled():
        look.exception()
