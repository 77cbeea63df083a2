"""The client for asyncio: jobs on any executor, and the files that travel beside them."""

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from visiondyno.blobs.base import BlobStore
from visiondyno.blobs.references import references_in
from visiondyno.client.job_request import job_request
from visiondyno.client.patience import Patience
from visiondyno.client.shared_blobs import SharedBlobs
from visiondyno.errors import (
    OperationFailed,
    RateLimited,
    SpecError,
    TransportDown,
    VisionDynoError,
)
from visiondyno.executors.base import Executor, JobLost
from visiondyno.executors.cost import Cost
from visiondyno.executors.workers import WorkerInfo
from visiondyno.job import JobAnswer, JobEvent, JobRequest, Policy, new_job_id
from visiondyno.places import Place, PlaceOptions, make_executor_at, place_of
from visiondyno.settings import load_settings

Json = dict[str, Any]
OnEvent = Callable[[JobEvent], None]

_STOP_S = 30.0
"""How long a cancelled job may take to end before its caller goes on without it."""
_ACCEPT_S = 5.0
"""How long of that its submission may take, where it is cancelled in the midst of it."""
_MAY_PASS = (TransportDown, RateLimited)

_log = logging.getLogger("visiondyno")
AT_ONCE = 16


def ignore(_: JobEvent) -> None:
    """Nobody listens."""


class AsyncClient:
    """Submits jobs and follows them. For one event loop; use it as a context manager.

    Errors of a job come as the class that its worker raised. Where queue or server can't be
    reached for a moment, or asks for fewer requests, `run`, `submit` and `watch` try again for a
    quarter of a minute, and then raise `TransportDown` or `RateLimited`; what was accepted goes on
    meanwhile. A submission is made again only where that can't make a second job.
    """

    def __init__(
        self,
        where: str | Place | Executor = "inline",
        *,
        blobs: BlobStore | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        **options: Unpack[PlaceOptions],
    ) -> None:
        """Say where; nothing is started or asked before the first job.

        Args:
            where: `inline` (this process), `local` (worker processes of this machine), `redis`
                (the fleet on the settings' Redis), `runpod` (a serverless endpoint), the URL of a
                server (`http://host:8000`) or of a RunPod endpoint
                (`https://api.runpod.ai/v2/ID`); a `Place`, which says all of it; or an executor,
                which `close` closes.
            blobs: the store that client and workers share; None: that of the place.
            sleep: waits between attempts; seconds.
            **options: beside the name of a place: `api_key`, `workers`, `endpoint`, `gpu`,
                `max_cost_usd`, `fallback`; see `visiondyno.places.Place`.
        """
        self.place = place_of(where, options)
        self._executor = where if isinstance(where, Executor) else None
        self._wanted: dict[str, set[str]] = {}
        self._runs = 0
        self._files = SharedBlobs(
            self.place,
            blobs,
            wanted=lambda: set().union(*self._wanted.values()),
            runs=lambda: self._runs,
        )
        self._sleep = sleep
        self._closed = False
        self.id = secrets.token_hex(8)
        """Names these workers in what a `ModelState` knows of who holds it."""

    @property
    def executor(self) -> Executor:
        """Where jobs run.

        Raises:
            SpecError: there is no such place, or the client is closed.
        """
        self._check_open()
        self._executor = self._executor or make_executor_at(self.place, load_settings())
        return self._executor

    @property
    def blobs(self) -> BlobStore:
        """The files that client and workers share.

        Raises:
            SpecError: there is no such place, or the client is closed.
        """
        self._check_open()
        return self._files.store

    async def run(
        self,
        job_input: Mapping[str, Any],
        *,
        policy: Policy | Mapping[str, Any] | None = None,
        on_event: OnEvent = ignore,
    ) -> Json:
        """Submit a job, follow it to its end, and return its output.

        If the call is cancelled, or `on_event` raises, the job is cancelled too, and has ended
        when this does (or half a minute has passed, or it can't be reached, with a warning).

        Args:
            job_input: `{"operation": …, …}`, as JSON has it.
            policy: limits of the job: `{"executionTimeout": ms, "ttl": ms, "lowPriority": bool}`.
            on_event: called with each event.

        Raises:
            VisionDynoError: the job's own error.
            SpecError: input or policy isn't one.
            TransportDown, RateLimited: queue or server can't be reached, or asks for fewer
                requests; the message names the job, and `result` takes it up again.
            JobLost: queue or server has forgotten it.
        """
        request = job_request(job_input, policy)
        job_id = new_job_id()
        submission = asyncio.create_task(self._submit(request, job_id))
        self._runs += 1
        try:
            await asyncio.shield(submission)  # one that was half made couldn't be cancelled
            answer = await self._answer(job_id, on_event)
        except (*_MAY_PASS, JobLost):
            raise  # nobody to tell
        except BaseException:
            await self._stop(job_id, submission)
            raise
        finally:
            self._runs -= 1
        return answer.result()

    async def run_many(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        at_once: int = AT_ONCE,
        policy: Policy | Mapping[str, Any] | None = None,
        on_event: OnEvent = ignore,
    ) -> list[Json | VisionDynoError]:
        """Run several jobs, so many at once; output or error of each, in order of the inputs."""
        if at_once < 1:
            raise SpecError(f"'at_once' is {at_once}; at least one job must run.")
        room = asyncio.Semaphore(at_once)

        async def one(job_input: Mapping[str, Any]) -> Json | VisionDynoError:
            async with room:
                try:
                    return await self.run(job_input, policy=policy, on_event=on_event)
                except VisionDynoError as error:
                    return error

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(job_input)) for job_input in inputs]
        return [task.result() for task in tasks]

    async def submit(
        self,
        job_input: Mapping[str, Any],
        *,
        policy: Policy | Mapping[str, Any] | None = None,
    ) -> str:
        """Submit a job and return its id at once.

        Raises:
            SpecError: input or policy isn't one.
            TransportDown: queue or server can't be reached.
        """
        job_id = new_job_id()
        return await self._submit(job_request(job_input, policy), job_id)

    async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        """The job's events after number `after`, to the terminal one.

        Raises:
            JobLost: nobody knows the job.
            TransportDown: queue or server can't be reached.
        """
        patience = Patience(self._sleep)
        patience.renew()  # it may be long before anything happens
        while True:
            try:
                async with contextlib.aclosing(self.executor.watch(job_id, after)) as events:
                    async for event in events:
                        after = event.number
                        patience.renew()
                        if event.state.is_terminal:
                            self._wanted.pop(job_id, None)
                        yield event
            except _MAY_PASS as error:
                await patience.pause(error)
            else:
                return

    async def result(self, job_id: str, on_event: OnEvent = ignore) -> Json:
        """Wait for a job's end and return its output. Cancelling the wait leaves the job alone.

        Raises:
            VisionDynoError: the job's own error, or as `watch`.
        """
        return (await self._answer(job_id, on_event)).result()

    async def cancel(self, job_id: str) -> None:
        """Stop a job; one that has ended stays as it is.

        Raises:
            JobLost: nobody knows the job.
        """
        await self.executor.cancel(job_id)

    async def health(self) -> Json:
        """`executor`, `jobs` by state, `workers` ready and busy, and `oldest_waiting_s`."""
        found = await self.executor.health()
        return {
            "executor": self.executor.name,
            "jobs": dict(found.jobs),
            "workers": {"ready": found.workers_ready, "busy": found.workers_busy},
            "oldest_waiting_s": found.oldest_waiting_s,
        }

    async def workers(self) -> list[WorkerInfo]:
        """The workers, by name; none where the executor doesn't know them."""
        return list(await self.executor.workers())

    def cost_of(self, job_id: str) -> Cost | None:
        """What a job cost, or for an open one could cost; None where nothing is paid by the second.

        Raises:
            SpecError: it costs, and by which price isn't known.
            NotFound: this client didn't submit it.
        """
        return self.executor.cost_of(job_id)

    def total_cost(self) -> Cost | None:
        """What all jobs of this client cost up to now; None and errors as `cost_of`."""
        return self.executor.total_cost()

    def affordable_s(self) -> float | None:
        """How long the next job may run within the limit of cost; None where there is no limit."""
        return self.executor.affordable_s()

    async def put_blob(self, data: bytes) -> str:
        """Store bytes where the workers find them; their name, `sha256:…`.

        Raises:
            StorageFull: there is no room.
            SpecError: client and workers share no store.
        """
        return await self._open_files().put(data)

    async def put_file(self, path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
        """Store a file's bytes, as `put_blob`; they needn't fit into memory.

        Args:
            path: of the file.
            on_bytes: told, again and again, how many bytes were read.

        Raises:
            StorageFull, SpecError: as `put_blob`.
        """
        return await self._open_files().put_file(path, on_bytes)

    async def has_blob(self, reference: str) -> bool:
        """Whether it is stored; who is told yes may refer to it."""
        return await self._open_files().has(reference)

    async def get_blob(self, reference: str) -> bytes:
        """The bytes that a name `sha256:…` stands for, verified.

        Raises:
            NotFound: they aren't there.
            SpecError: it isn't such a name.
        """
        return await self._open_files().get(reference)

    async def get_file(self, reference: str, path: Path, what: str) -> None:
        """As `get_blob`, into a file that needn't fit into memory; `what` names it in messages.

        Raises:
            StorageFull: it can't be written there.
        """
        await self._open_files().get_file(reference, path, what)

    async def close(self) -> None:
        """Free what is held; calling it again does nothing.

        Jobs of a queue or a server go on; those of a RunPod endpoint, which cost, are cancelled.
        """
        if self._closed:
            return
        self._closed = True
        if self._executor is not None:
            await self._executor.close()
        await self._files.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _open_files(self) -> SharedBlobs:
        self._check_open()
        return self._files

    def _check_open(self) -> None:
        if self._closed:
            raise SpecError("This client is closed; make a new one.")

    async def _submit(self, request: JobRequest, job_id: str) -> str:
        wanted = references_in(json.dumps(request.input))
        if wanted:
            self._wanted[job_id] = wanted
        patience = Patience(self._sleep)
        while True:
            try:
                return await self.executor.submit(request, job_id)
            except TransportDown as error:
                if not self.executor.submits_once:
                    raise
                await patience.pause(error)  # again under the same id: it can't become two jobs

    async def _answer(self, job_id: str, on_event: OnEvent) -> JobAnswer:
        try:
            async with contextlib.aclosing(self.watch(job_id)) as events:
                async for event in events:
                    on_event(event)
                    if event.answer is not None:
                        return event.answer
        except _MAY_PASS as error:
            raise type(error)(f"{error} The job {job_id} may go on meanwhile.") from error
        raise OperationFailed(
            f"The job {job_id} ended without an answer: its queue was set back. Run it again."
        )

    async def _stop(self, job_id: str, submission: "asyncio.Task[str]") -> None:
        # What is raised here would hide why the job was to stop.
        self._wanted.pop(job_id, None)
        try:
            async with asyncio.timeout(_STOP_S):
                if not await _succeeded(submission, _ACCEPT_S):
                    return  # there is no job
                await self.executor.cancel(job_id)
                async for _ in self.executor.watch(job_id):
                    pass
        except JobLost:
            return
        except (VisionDynoError, TimeoutError) as error:
            _log.warning("The job %s may go on: it couldn't be stopped. %s", job_id, error)


async def _succeeded(task: "asyncio.Task[str]", patience_s: float) -> bool:
    """Wait for the task's end, whatever that is, and cancel it after so long."""
    try:
        await asyncio.wait([task], timeout=patience_s)
    finally:
        task.cancel()
    await asyncio.wait([task])
    return not task.cancelled() and task.exception() is None
