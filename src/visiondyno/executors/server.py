"""The executor over a VisionDyno server (`dyno up`): its jobs run wherever that server's do."""

import asyncio
import re
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing

import httpx
from httpx import codes

from visiondyno.errors import NotFound, TransportDown, Unavailable, VisionDynoError
from visiondyno.executors.base import Executor, ExecutorHealth, JobLost
from visiondyno.executors.http_api import ATTEMPTS, HttpApi, Later, Sleep
from visiondyno.executors.server_wire import (
    EventReader,
    endpoint_health,
    idempotency_key,
    job_event,
    job_id_of,
    path_part,
    refusal,
    request_body,
)
from visiondyno.executors.workers import WorkerCommand, WorkerInfo
from visiondyno.job import JobEvent, JobRequest

_SILENCE_S = 60.0
"""An event stream that says nothing for so long, not even a ping, is opened anew."""
_ASKED_AT_ONCE = 8
_LARGEST_NUMBER = 2**31 - 1
# What the server takes for an id; anything else it can't know. Dots alone would change the path.
_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,128}")


class ServerExecutor(Executor):
    """Jobs of a VisionDyno server, over its HTTP API.

    The server accepts a job into its store, puts it back itself where workers die, and keeps its
    events. So `queued_at` is not sent: a job's place is that of its arrival there. Every job goes
    with an idempotency key, its `job_id` or a new one, so that a submission after a doubt makes no
    second job, even from another process (for a day; there another request under the same id is a
    `Conflict`). Which job has which id on the server is known to this executor alone, unless the
    server chose it.

    What fails for a reason that may pass (no connection, 429, 5xx but 507) is tried again, up to
    six times, and then is `TransportDown`, or `RateLimited`. Other refusals are the errors that
    they were on the server.

    Args:
        url: of the server; `http://` is added where no scheme is given.
        api_key: sent as bearer token; None sends none.
        endpoint: the name of the server's endpoint.
        transport: httpx's, for an application in this process.
        sleep: waits so many seconds between attempts.

    Raises:
        SpecError: `url` or `api_key` can't be one.
    """

    name = "server"
    durable = True

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        endpoint: str = "default",
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._api = HttpApi(
            url,
            api_key,
            refusal=refusal,
            if_silent="start one with 'dyno up', or name another",
            transport=transport,
            sleep=sleep,
        )
        self._endpoint = f"/v2/{path_part(endpoint)}"
        self._theirs: dict[str, str] = {}

    async def submit(
        self,
        request: JobRequest,
        job_id: str | None = None,
        queued_at: float | None = None,  # noqa: ARG002 - the server puts back its jobs itself
    ) -> str:
        self._api.check_open()
        if job_id is not None and job_id in self._theirs:
            return job_id
        found = await self._api.ask_json(
            "POST",
            f"{self._endpoint}/run",
            body=request_body(request),
            headers={"Idempotency-Key": idempotency_key(job_id)},
        )
        theirs = job_id_of(found, self._api.url)
        if job_id is None:
            return theirs
        self._theirs[job_id] = theirs
        return job_id

    async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        failures = 0
        while True:
            try:
                async with aclosing(self._stream(job_id, after)) as events:
                    async for event in events:
                        if event is None:
                            return
                        after, failures = event.number, 0
                        yield event
                        if event.state.is_terminal:
                            return
                later = Later(self._breaks_off(job_id))
            except Later as reason:
                later = reason
            failures += 1
            if failures == ATTEMPTS:
                raise later.error from later.__cause__
            await self._api.pause(failures, later)

    async def cancel(self, job_id: str) -> None:
        await self._ask_of(job_id, "POST", "/cancel")

    async def known(self, job_ids: Collection[str]) -> set[str]:
        gate = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def is_known(job_id: str) -> bool:
            async with gate:
                try:
                    await self._ask_of(job_id, "HEAD")
                except JobLost:
                    return False
                return True

        asked = list(job_ids)
        found = await asyncio.gather(*(is_known(job_id) for job_id in asked))
        return {job_id for job_id, is_there in zip(asked, found, strict=True) if is_there}

    async def health(self) -> ExecutorHealth:
        found = await self._api.ask_json("GET", f"{self._endpoint}/health")
        queue = await self._api.ask_json("GET", "/submit/queue/status")
        try:
            return endpoint_health(found, queue["oldest_age_s"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._not_ours("health") from error

    async def workers(self) -> Sequence[WorkerInfo]:
        found = await self._api.ask_json("GET", "/api/workers")
        try:
            return [WorkerInfo.from_json(values) for values in found["workers"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._not_ours("workers") from error

    async def command_worker(self, name: str, command: WorkerCommand) -> None:
        await self._api.ask_json(
            "POST",
            f"/api/workers/{path_part(name)}/{command}",
            is_repeatable=command != WorkerCommand.RESTART,
        )

    async def close(self) -> None:
        await self._api.close()

    async def _stream(self, job_id: str, after: int) -> AsyncGenerator[JobEvent | None, None]:
        """Events of one connection; None where there are no more, ever."""
        headers = {"Accept": "text/event-stream"}
        headers["Last-Event-ID"] = str(min(after, _LARGEST_NUMBER))
        path = f"{self._path(job_id)}/events"
        async with self._api.opened("GET", path, headers=headers, silence_s=_SILENCE_S) as response:
            if not response.is_success:
                await response.aread()
                raise self._refused(job_id, response)
            if response.status_code == codes.NO_CONTENT:
                yield None
            reader = EventReader()
            async for chunk in response.aiter_bytes():
                for data in reader.read(chunk):
                    yield job_event(job_id, data)

    async def _ask_of(self, job_id: str, method: str, path: str = "") -> None:
        address = self._path(job_id) + path
        response = await self._api.ask(method, address)
        if method == "HEAD" and response.is_error and response.status_code != codes.NOT_FOUND:
            response = await self._api.ask("GET", address)  # which says why
        if not response.is_success:
            raise self._refused(job_id, response)

    def _path(self, job_id: str) -> str:
        theirs = self._theirs.get(job_id, job_id)
        if _ID.fullmatch(theirs) is None:
            raise self._lost(job_id)
        return f"/api/jobs/{theirs}"

    def _refused(self, job_id: str, response: httpx.Response) -> VisionDynoError:
        error = refusal(response)
        is_bodiless = response.request.method == "HEAD"
        if isinstance(error, NotFound) or (is_bodiless and not response.has_redirect_location):
            return self._lost(job_id)
        return error

    def _lost(self, job_id: str) -> JobLost:
        return JobLost(
            f"The server at {self._api.url} has no job '{job_id:.100}'; ids are what submit "
            "returned. Submit the job again."
        )

    def _breaks_off(self, job_id: str) -> TransportDown:
        return TransportDown(
            f"The server at {self._api.url} ends the events of {job_id} again and again before "
            "the job's own end; look at the server's log."
        )

    def _not_ours(self, what: str) -> Unavailable:
        return Unavailable(
            f"The {what} of the server at {self._api.url} have another form than this client "
            "reads; check that both have the same version."
        )
