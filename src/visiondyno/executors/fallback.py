"""An executor that runs jobs elsewhere where the one that was asked for can't be reached."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing, suppress
from weakref import WeakValueDictionary

from visiondyno.errors import TransportDown, Unavailable
from visiondyno.executors.base import Executor, ExecutorHealth
from visiondyno.executors.breaker import Unreachable
from visiondyno.executors.cost import Cost
from visiondyno.executors.workers import WorkerCommand, WorkerInfo
from visiondyno.job import JobEvent, JobRequest


class FallbackExecutor(Executor):
    """Runs a job on a fallback where the primary certainly didn't get it, and says so.

    A job goes to the fallback when its submission to the primary is `Unreachable`: nothing listens
    there, or its breaker is open. Never after a doubt (any other `TransportDown`, now or in an
    earlier try under the same id), for then it may run there, and a job runs once. What the primary
    has accepted stays there, even if it can't be reached any more.

    A job that fell back says so in its first event, whose progress is
    `{"stage": "fallback", "executor": "inline", "fallback_reason": …}`, and in the `notes` of its
    output. `fallback_reason` gives the same.

    Health is that of both; of the fallback alone while the primary can't be reached.

    Args:
        primary: asked first.
        make_fallback: called when the first job falls back. Both are closed with this.
    """

    name = "fallback"

    def __init__(self, primary: Executor, make_fallback: Callable[[], Executor]) -> None:
        self._primary = primary
        self._make_fallback = make_fallback
        self._fallback: Executor | None = None
        self._reasons: dict[str, str] = {}
        self._perhaps_there: set[str] = set()
        self._submitting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.durable = primary.durable
        self.submits_once = primary.submits_once

    async def start(self) -> None:
        with suppress(Unreachable):  # each job asks again
            await self._primary.start()

    async def submit(
        self, request: JobRequest, job_id: str | None = None, queued_at: float | None = None
    ) -> str:
        if job_id is None:
            return await self._submit(request, None, queued_at)
        async with self._submitting.setdefault(job_id, asyncio.Lock()):
            return await self._submit(request, job_id, queued_at)

    async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        async with aclosing(self._of(job_id).watch(job_id, after)) as events:
            async for event in events:
                yield self._told(event)

    async def cancel(self, job_id: str) -> None:
        await self._of(job_id).cancel(job_id)

    async def known(self, job_ids: Collection[str]) -> set[str]:
        here = [job_id for job_id in job_ids if job_id in self._reasons]
        there = [job_id for job_id in job_ids if job_id not in self._reasons]
        found = set[str]()
        if here and self._fallback is not None:
            found |= await self._fallback.known(here)
        if there:
            found |= await self._primary.known(there)
        return found

    async def health(self) -> ExecutorHealth:
        if self._fallback is None:
            return await self._primary.health()
        here = await self._fallback.health()
        try:
            there = await self._primary.health()
        except TransportDown:
            return here
        return _together(there, here)

    async def workers(self) -> Sequence[WorkerInfo]:
        here = [] if self._fallback is None else await self._fallback.workers()
        try:
            there = await self._primary.workers()
        except TransportDown:
            if self._fallback is None:
                raise
            return here
        return [*there, *here]

    async def command_worker(self, name: str, command: WorkerCommand) -> None:
        if self._fallback is not None:
            names = {worker.name for worker in await self._fallback.workers()}
            if name in names:
                return await self._fallback.command_worker(name, command)
        return await self._primary.command_worker(name, command)

    def cost_of(self, job_id: str) -> Cost | None:
        return self._of(job_id).cost_of(job_id)

    def total_cost(self) -> Cost | None:
        return self._primary.total_cost()

    def affordable_s(self) -> float | None:
        return self._primary.affordable_s()

    async def close(self) -> None:
        try:
            await self._primary.close()
        finally:
            if self._fallback is not None:
                await self._fallback.close()

    def fallback_reason(self, job_id: str) -> str | None:
        """Why a job runs on the fallback, in a sentence; None where it doesn't."""
        return self._reasons.get(job_id)

    async def _submit(
        self, request: JobRequest, job_id: str | None, queued_at: float | None
    ) -> str:
        reason = self._reasons.get(job_id) if job_id is not None else None
        if reason is None:
            try:
                return await self._ask_primary(request, job_id, queued_at)
            except Unreachable as error:
                if job_id in self._perhaps_there:
                    raise TransportDown(
                        f"{error.message} The job may run there, so it doesn't run here."
                    ) from error
                reason = error.message
        if self._fallback is None:
            self._fallback = self._make_fallback()
        job_id = await self._fallback.submit(request, job_id, queued_at)
        self._reasons[job_id] = reason
        return job_id

    async def _ask_primary(
        self, request: JobRequest, job_id: str | None, queued_at: float | None
    ) -> str:
        try:
            found = await self._primary.submit(request, job_id, queued_at)
        except Unreachable:
            raise
        except (Unavailable, asyncio.CancelledError):
            if job_id is not None:
                self._perhaps_there.add(job_id)
            raise
        self._perhaps_there.add(found)
        return found

    def _of(self, job_id: str) -> Executor:
        is_here = self._fallback is not None and job_id in self._reasons
        return self._fallback if is_here and self._fallback is not None else self._primary

    def _told(self, event: JobEvent) -> JobEvent:
        """The event, and on the fallback that it is one of a job there."""
        reason = self._reasons.get(event.job_id)
        if reason is None or self._fallback is None:
            return event
        where = self._fallback.name
        if event.number == 1 and event.progress is None:
            told = {"stage": "fallback", "executor": where, "fallback_reason": reason}
            return event.model_copy(update={"progress": told})
        answer = event.answer
        if answer is None or answer.output is None:
            return event
        notes = answer.output.get("notes", [])
        if not isinstance(notes, list | tuple):
            return event  # an operation's own field of that name
        note = f"Ran on the '{where}' executor instead of '{self._primary.name}': {reason}"
        output = {**answer.output, "notes": [*notes, note]}
        return event.model_copy(update={"answer": answer.model_copy(update={"output": output})})


def _together(there: ExecutorHealth, here: ExecutorHealth) -> ExecutorHealth:
    jobs = dict(there.jobs)
    for state, count in here.jobs.items():
        jobs[state] = jobs.get(state, 0) + count
    waits_s = [one.oldest_waiting_s for one in (there, here) if one.oldest_waiting_s is not None]
    return ExecutorHealth(
        jobs=jobs,
        workers_ready=there.workers_ready + here.workers_ready,
        workers_busy=there.workers_busy + here.workers_busy,
        oldest_waiting_s=max(waits_s, default=None),
    )
