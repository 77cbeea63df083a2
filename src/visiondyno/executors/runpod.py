"""The executor over a RunPod serverless endpoint, or any server with its job API."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from weakref import WeakValueDictionary

import httpx
from httpx import codes

from visiondyno.errors import Conflict, SpecError, TooLarge, Unavailable
from visiondyno.executors.base import Executor, ExecutorHealth, JobLost
from visiondyno.executors.breaker import Breaker
from visiondyno.executors.cost import Cost
from visiondyno.executors.http_api import REQUEST_TIMEOUT_S, Guards, HttpApi, Sleep
from visiondyno.executors.runpod_cost import CostMeter
from visiondyno.executors.runpod_looks import Looks
from visiondyno.executors.runpod_owner import OwnedJobs
from visiondyno.executors.runpod_submissions import Submissions
from visiondyno.executors.runpod_wire import JobStatus, refusal
from visiondyno.executors.server_wire import (
    checked_url,
    endpoint_health,
    idempotency_key,
    job_id_of,
    path_part,
    request_body,
)
from visiondyno.executors.throttle import Throttle
from visiondyno.job import JobAnswer, JobEvent, JobRequest, JobState

MAX_REQUEST_BYTES = 10_000_000
"""What RunPod's `/run` takes."""
MAX_SYNC_REQUEST_BYTES = 20_000_000
"""What its `/runsync` takes."""
DEFAULT_WAIT_S = 90.0
_LONGEST_SYNC_WAIT_S = 300.0
_ASKED_AT_ONCE = 8
_ENDPOINT = re.compile(r"(https?://[^?#]*/v2/[^/?#]+)(?:/(?:run|runsync))?/*")


def is_endpoint_url(url: str) -> bool:
    """Whether it is the URL of an endpoint: its path ends with `/v2/NAME`."""
    return _ENDPOINT.fullmatch(url) is not None


class RunPodExecutor(Executor):
    """Jobs of a RunPod serverless endpoint, by its job API alone.

    That API gives less than the contract of `Executor` asks for, so some of it is made here:

    - It has no events. They are made of `/status` and `/stream`, asked for in turn with pauses of
      0.02 s to 2 s, and numbered here; a change of state is seen late, and one that came and went
      between two looks isn't seen. Reading a stream takes what it gives: the events are those of
      this executor alone, and what another process read, or a broken connection lost, is missing.
    - It forgets a job 30 minutes after its end; then the job is a `JobLost`. What was submitted
      here is fetched before, though nobody watches. Events of ended jobs are kept here for a day,
      the last 64 MB of them; later watchers of one that was dropped get what the endpoint has.
    - It has no place for `queued_at`, nor for a job's own id: a job's place is that of its arrival,
      and which job has which id there is known to this executor alone.
    - It can't be asked twice for one job. So a submission is made again only where it was certainly
      refused (no connection, 429); after a doubt it is `TransportDown`, and the job may run. The
      idempotency key that goes with it helps where the endpoint is a VisionDyno server's.
      `Unreachable` is the `TransportDown` of a job that certainly isn't there.
    - Jobs that were cancelled aren't counted in its health, and those that ran out of time are
      counted as FAILED.

    New jobs wait for the endpoint's quotas, and are refused (`BreakerOpen`) while it fails again
    and again; jobs that are there are asked about and cancelled even then.

    A job whose owner goes away is cancelled: `close` cancels what this executor submitted and
    didn't see end. A process that is killed can't: the job's `executionTimeout` is what ends it.

    Args:
        endpoint_url: `https://api.runpod.ai/v2/ENDPOINT_ID`, or `http(s)://server/v2/NAME`.
        api_key: sent as bearer token; None sends none.
        meter: accounts for the cost of jobs, and may refuse them with `BudgetSpent`. Where its
            limit is passed all the same, open jobs are cancelled, and their error says so.
        leave_running: whether `close` leaves what runs to whoever asks for it next.
        guards: quotas and breaker, to be shared by executors of one endpoint; None: RunPod's.
        transport: httpx's, for an application in this process.
        sleep: waits so many seconds between looks and attempts.
        clock: seconds, for how long events are kept.

    Raises:
        SpecError: `endpoint_url` or `api_key` can't be one.
    """

    name = "runpod"
    submits_once = False

    def __init__(  # noqa: PLR0913 - the last three replace the world in tests
        self,
        endpoint_url: str,
        api_key: str | None = None,
        *,
        meter: CostMeter | None = None,
        leave_running: bool = False,
        guards: Guards | None = None,
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
        if guards is None:
            throttle = Throttle(clock=clock, sleep=sleep)
            guards = Guards(throttle, Breaker(found[1], clock=clock))
        self.breaker = guards.breaker
        self.durable = leave_running
        self._api = HttpApi(
            found[1],
            api_key,
            refusal=refusal,
            if_silent="check the endpoint's URL and the network",
            transport=transport,
            sleep=sleep,
            guards=guards,
        )
        self._submitting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._meter = meter
        self._owned = OwnedJobs(
            self.watch, self._look_once, self.cancel, meter, sleep=sleep, clock=clock
        )
        self._looks = Looks(self._api, self._owned, sleep=sleep, clock=clock)
        self._submissions = Submissions(self._api, guards.breaker, meter)
        self._closing = False

    async def submit(
        self,
        request: JobRequest,
        job_id: str | None = None,
        queued_at: float | None = None,  # noqa: ARG002 - see the class
    ) -> str:
        self._check_open()
        body = _checked_body(request, "/run", MAX_REQUEST_BYTES)
        limit_ms = request.policy.execution_timeout_ms
        return await self._submissions.whole(
            self._submit(body, limit_ms, job_id), self._owned.abandon if job_id is None else None
        )

    async def runsync(self, request: JobRequest, wait_s: float = DEFAULT_WAIT_S) -> JobAnswer:
        """Submit a job and return its answer, in one request where it ends within `wait_s`.

        A job that takes longer is followed to its end. One that ends in time is quicker than by
        `submit` and `watch`, but its progress isn't asked for. RunPod keeps the answer for 1
        minute. Until the request is answered the job has no id here, and can't be cancelled.

        Args:
            request: at most 20 MB.
            wait_s: from 1 to 300.

        Raises:
            SpecError: `wait_s` is something else.
            VisionDynoError: as `submit` and `watch`.
        """
        self._check_open()
        if not 1 <= wait_s <= _LONGEST_SYNC_WAIT_S:
            raise SpecError(f"'wait_s' is {wait_s}; give seconds from 1 to 300.")
        body = _checked_body(request, "/runsync", MAX_SYNC_REQUEST_BYTES)
        limit_ms = request.policy.execution_timeout_ms
        job_id = await self._submissions.whole(
            self._run_sync(body, limit_ms, wait_s), self._owned.abandon
        )
        async with aclosing(self.watch(job_id)) as events:
            answers = [event.answer async for event in events]
        answer = answers[-1]
        assert answer is not None, "the last event of a job has its answer"
        return answer

    async def retry(self, job_id: str) -> None:
        """Run a FAILED or TIMED_OUT job again under the same id; its events begin anew.

        Raises:
            Conflict: it hasn't been seen to end.
            JobLost: the endpoint doesn't know it.
            VisionDynoError: the endpoint refuses it, for one that ended otherwise; or as `submit`.
        """
        self._check_open()
        job = self._looks.of(job_id)
        if job is not None and not job.has_ended:
            raise Conflict(
                f"Job '{job_id:.100}' hasn't been seen to end; watch it to its end before it is "
                "run again."
            )
        await self._submissions.whole(self._retry(job_id))

    async def purge_queue(self) -> int:
        """Cancel every job that waits at the endpoint, whoever submitted it; how many did.

        Raises:
            VisionDynoError: the endpoint refuses, or can't be reached.
        """
        found = await self._api.ask_json("POST", "/purge-queue", is_repeatable=False)
        removed = found.get("removed")
        if not isinstance(removed, int) or isinstance(removed, bool):
            raise Unavailable(
                f"{self._api.url} doesn't say how many jobs it removed; check the endpoint's URL."
            )
        return removed

    def cost_of(self, job_id: str) -> Cost:
        """What a job that was submitted here cost, in bounds; for an open one, what it could cost.

        Raises:
            SpecError: there is no meter.
            NotFound: it wasn't submitted here.
        """
        return self._metered().of(job_id)

    def total_cost(self) -> Cost:
        """What all jobs that were submitted here cost up to now, in bounds.

        Raises:
            SpecError: there is no meter.
        """
        return self._metered().total()

    def affordable_s(self) -> float | None:
        return None if self._meter is None else self._meter.affordable_s()

    async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        async with aclosing(self._looks.events(job_id, after)) as events:
            async for event in events:
                yield event

    async def _look_once(self, job_id: str) -> bool:
        return await self._looks.once(job_id)

    async def cancel(self, job_id: str) -> None:
        job = self._looks.of(job_id)
        if job is not None and job.has_ended:
            return
        lock = self._submitting.get(job_id)
        if lock is not None:
            async with lock:
                pass  # until it is submitted, nobody knows it under its id there
        await self._looks.ask_of(job_id, "POST", "cancel")

    async def known(self, job_ids: Collection[str]) -> set[str]:
        gate = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def is_known(job_id: str) -> bool:
            job = self._looks.of(job_id)
            if job is not None and job.has_ended:
                return True
            async with gate:
                try:
                    await self._looks.ask_of(job_id, "GET", "status")
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
        """End what is under way, and cancel the jobs of the class's promise."""
        if self._closing:
            return
        self._closing = True
        try:
            await self._submissions.close()
            await self._looks.close()
            await self._owned.close(self._api.url, leave_running=self.durable)
        finally:
            await self._api.close()

    # ---- asking

    async def _submit(self, body: bytes, limit_ms: int | None, job_id: str | None) -> str:
        if job_id is None:
            return await self._run(body, limit_ms, None)
        lock = self._submitting.setdefault(job_id, asyncio.Lock())
        async with lock:
            if job_id not in self._looks.theirs:
                await self._run(body, limit_ms, job_id)
        return job_id

    async def _run(self, body: bytes, limit_ms: int | None, job_id: str | None) -> str:
        headers = {"Idempotency-Key": idempotency_key(job_id)}
        with self._submissions.charged(lambda meter: meter.admit(limit_ms)) as accepted:
            response = await self._submissions.post("/run", body=body, headers=headers)
            theirs = job_id_of(self._api.json_of(response), self._api.url)
            ours = job_id or theirs
            accepted(ours)
        if job_id is not None:
            self._looks.theirs[ours] = theirs
        self._owned.took(ours)
        return ours

    async def _run_sync(self, body: bytes, limit_ms: int | None, wait_s: float) -> str:
        path = f"/runsync?wait={round(wait_s * 1000)}"
        silence_s = wait_s + REQUEST_TIMEOUT_S
        with self._submissions.charged(lambda meter: meter.admit(limit_ms)) as accepted:
            response = await self._submissions.post(path, body=body, silence_s=silence_s)
            found = self._api.json_of(response)
            job_id = job_id_of(found, self._api.url)
            accepted(job_id)
        self._owned.took(job_id)
        status = JobStatus.of(found)
        # Of a handler that yields, the stream has the output; that is read by looking.
        is_whole = status.state is not JobState.COMPLETED or isinstance(found.get("output"), dict)
        if status.state.is_terminal and is_whole:
            self._looks.note_end(job_id, status)
        return job_id

    async def _retry(self, job_id: str) -> None:
        theirs = self._looks.checked_id(job_id)
        with self._submissions.charged(lambda meter: meter.admit_again(job_id)) as accepted:
            response = await self._submissions.post(f"/retry/{path_part(theirs)}")
            if response.status_code == codes.NOT_FOUND:
                raise self._looks.lost(job_id)
            if not response.is_success:
                raise refusal(response)
            accepted(job_id)
        self._looks.forget(job_id)
        self._owned.took(job_id)

    def _metered(self) -> CostMeter:
        if self._meter is None:
            raise SpecError(
                "No price is known of the endpoint's workers; name their GPU with --gpu, such as "
                "A4000, or give USD an hour."
            )
        return self._meter

    def _check_open(self) -> None:
        if self._closing:
            raise self._api.closed_error()


def _checked_body(request: JobRequest, route: str, most_bytes: int) -> bytes:
    body = request_body(request)
    if len(body) > most_bytes:
        raise TooLarge(
            f"The job has {len(body) / 1e6:.1f} MB and RunPod's {route} takes "
            f"{most_bytes / 1e6:g} MB; put large data into the blob store "
            "(VISIONDYNO_BLOBS_URL) and refer to it."
        )
    return body
