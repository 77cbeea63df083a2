"""An executor whose transport fails in the ways that transports fail."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from contracts.executor_contract import run_test_operation
from visiondyno.errors import TransportDown
from visiondyno.executors.base import Executor, ExecutorHealth, JobLost
from visiondyno.executors.inline import InlineExecutor
from visiondyno.executors.workers import WorkerInfo
from visiondyno.job import JobEvent, JobRequest
from visiondyno.service import Service
from visiondyno.settings import Settings
from visiondyno.wiring import make_service


class FaultyExecutor(Executor):
    """Jobs run inline; the test turns faults on and off.

    Attributes:
        is_down: every method raises `TransportDown`.
        is_deaf: watchers of a forgotten job aren't told that it is lost.
        repeats: each event is delivered twice.
        cuts: so many watches end after their first event.
        is_shared: `close` does nothing: another service uses it too.
        holds: submits wait for this event before they are passed on.
        submitted: transport ids, in order.
        watched: transport ids of the watches that began, in order.
        asked_to_cancel: transport ids, in order, refused or not.
        requests: what was submitted, by transport id.
    """

    name = "faulty"

    def __init__(self, run: Any = run_test_operation) -> None:
        self._run = run
        self._inner = InlineExecutor(run)
        self._emptied = asyncio.Event()
        self.is_down = False
        self.is_deaf = False
        self.repeats = False
        self.cuts = 0
        self.is_shared = False
        self.holds: asyncio.Event | None = None
        self.submitted: list[str] = []
        self.watched: list[str] = []
        self.asked_to_cancel: list[str] = []
        self.requests: dict[str, JobRequest] = {}
        self.shown_workers: list[WorkerInfo] = []

    async def forget_all(self) -> None:
        """Lose every job, as a flushed Redis does."""
        gone, self._inner = self._inner, InlineExecutor(self._run)
        emptied, self._emptied = self._emptied, asyncio.Event()
        if not self.is_deaf:
            emptied.set()
        await gone.close()

    async def submit(
        self, request: JobRequest, job_id: str | None = None, queued_at: float | None = None
    ) -> str:
        self._check()
        if self.holds is not None:
            await self.holds.wait()
        accepted = await self._inner.submit(request, job_id, queued_at)
        self.submitted.append(accepted)
        self.requests[accepted] = request
        return accepted

    async def watch(self, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        self._check()
        self.watched.append(job_id)
        emptied, inner = self._emptied, self._inner
        lost = asyncio.create_task(emptied.wait())
        events = aiter(inner.watch(job_id, after))
        try:
            while True:
                coming = asyncio.ensure_future(anext(events))
                await asyncio.wait({coming, lost}, return_when=asyncio.FIRST_COMPLETED)
                if emptied is not self._emptied:  # what the old transport says is lost too
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)
                    await lost
                    raise JobLost(f"{job_id} is lost.")
                self._check()
                try:
                    event = await coming
                except StopAsyncIteration:
                    return
                for _ in range(2 if self.repeats else 1):
                    yield event
                if self.cuts:
                    self.cuts -= 1
                    return
        finally:
            lost.cancel()

    async def cancel(self, job_id: str) -> None:
        self.asked_to_cancel.append(job_id)
        self._check()
        await self._inner.cancel(job_id)

    async def known(self, job_ids: Collection[str]) -> set[str]:
        self._check()
        return await self._inner.known(job_ids)

    async def health(self) -> ExecutorHealth:
        self._check()
        return await self._inner.health()

    async def workers(self) -> list[WorkerInfo]:
        self._check()
        return self.shown_workers

    async def close(self) -> None:
        if not self.is_shared:
            await self._inner.close()

    def _check(self) -> None:
        if self.is_down:
            raise TransportDown("The queue can't be reached; look at Redis.")


@asynccontextmanager
async def running_service(
    folder: Path, executor: Executor | None = None, **settings: Any
) -> AsyncIterator[Service]:
    """A started service over a real SQLite store in `folder`; closed at the end."""
    chosen = Settings(home=folder, **settings)
    async with make_service(chosen, executor or InlineExecutor(run_test_operation)) as service:
        yield service
