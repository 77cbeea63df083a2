"""The jobs that one executor submitted to an endpoint: followed, paid for, and not left behind."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

from visiondyno.errors import RateLimited, Unavailable, VisionDynoError
from visiondyno.executors.base import JobLost
from visiondyno.executors.runpod_cost import CostMeter
from visiondyno.executors.runpod_wire import JobStatus
from visiondyno.job import JobEvent, JobState

_PAUSE_S = 2.0
_BUDGET_CHECK_S = 0.5
_FETCH_S = 300.0
"""Between looks at jobs that nobody watches; RunPod keeps results for 30 minutes."""
_CLOSING_S = 30.0
"""How long an end waits for the endpoint to take its cancels."""
_log = logging.getLogger(__name__)


class OwnedJobs:
    """Jobs that were submitted here and aren't known to have ended.

    Each is followed to its end, whoever else watches: with a meter closely, so that its cost is
    known, and all are cancelled once the meter's limit may have been passed; without one with a
    look every few minutes, so that its result is here before the endpoint forgets it.

    Args:
        watch: a job's events, to its end.
        look: looks at a job once; whether it has ended.
        cancel: stops a job.
        meter: accounts for them; None: nobody does.
        sleep: waits so many seconds.
        clock: seconds.
    """

    def __init__(
        self,
        watch: Callable[[str], AsyncGenerator[JobEvent, None]],
        look: Callable[[str], Awaitable[bool]],
        cancel: Callable[[str], Awaitable[None]],
        meter: CostMeter | None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch = watch
        self._look = look
        self._cancel = cancel
        self._meter = meter
        self._sleep = sleep
        self._clock = clock
        self._open: set[str] = set()
        self._stopped: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping: asyncio.Task[None] | None = None
        self._checked_s = -math.inf

    def took(self, job_id: str) -> None:
        """The endpoint has the job."""
        self._open.add(job_id)
        self._stopped.discard(job_id)
        self._begin(self._follow(job_id) if self._meter is not None else self._fetch(job_id))

    def saw(self, job_id: str, status: JobStatus) -> None:
        """What a look at a job that hasn't ended gave."""
        if self._meter is not None and status.state is JobState.IN_PROGRESS:
            self._meter.saw(job_id, status.worker_id, status.delay_ms)
        self.check_budget()

    def reason_of(self, job_id: str, status: JobStatus) -> JobStatus:
        """`status` of a job that ended, which tells why where it was stopped from here."""
        is_ours = status.state is JobState.CANCELLED and job_id in self._stopped
        if self._meter is None or not is_ours:
            return status
        return status.because(self._meter.limit_error())

    def ended(self, job_id: str, events: list[JobEvent]) -> None:
        """The job has ended; `events` are all of its own, none where the endpoint forgot it."""
        self._open.discard(job_id)
        if self._meter is None:
            return
        if not events:
            self._meter.ended(job_id, was_put_back=True, was_stopped=True)
            return
        states = [event.state for event in events]
        answer = events[-1].answer
        assert answer is not None, "the last event of an ended job has its answer"
        had_it = states.count(JobState.IN_PROGRESS) > 0
        first = states.index(JobState.IN_PROGRESS) if had_it else len(states)
        self._meter.ended(
            job_id,
            worker_id=answer.worker_id,
            delay_ms=answer.delay_time_ms,
            execution_ms=answer.execution_time_ms,
            has_run=had_it,
            was_put_back=JobState.IN_QUEUE in states[first:],
            was_stopped=states[-1] in (JobState.CANCELLED, JobState.TIMED_OUT),
        )

    def check_budget(self) -> None:
        """Cancel what is open, in a task of its own, if the limit may have been passed."""
        is_stopping = self._stopping is not None and not self._stopping.done()
        now_s = self._clock()
        if self._meter is None or is_stopping or now_s - self._checked_s < _BUDGET_CHECK_S:
            return
        self._checked_s = now_s
        if self._meter.has_passed():
            self._stopping = self._begin(self._stop_all())

    def abandon(self, job_id: str) -> None:
        """Cancel a job, in a task of its own, that whoever submitted it will never ask for."""
        self._begin(self._stop(job_id))

    async def close(self, url: str, *, leave_running: bool) -> None:
        """Follow nothing any more, and cancel what is open unless it is to be left running.

        What couldn't be cancelled in half a minute is named in a warning.
        """
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if leave_running or not self._open:
            return
        stopping = [asyncio.create_task(self._stop_at_last(job_id)) for job_id in self._open]
        _, late = await asyncio.wait(stopping, timeout=_CLOSING_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*stopping, return_exceptions=True)
        if self._open:
            _log.warning(
                "%d jobs at %s couldn't be cancelled and may go on running; cancel them there: %s",
                len(self._open),
                url,
                ", ".join(sorted(self._open)),
            )

    def _begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _follow(self, job_id: str) -> None:
        while True:
            try:
                async with aclosing(self._watch(job_id)) as events:
                    async for _ in events:
                        pass
            except (Unavailable, RateLimited):
                self.check_budget()
                await self._sleep(_PAUSE_S)
            except VisionDynoError:
                return  # it is lost, or this is closed
            else:
                return

    async def _fetch(self, job_id: str) -> None:
        has_ended = False
        while not has_ended:
            await self._sleep(_FETCH_S)
            if job_id not in self._open:
                return  # somebody watched
            try:
                has_ended = await self._look(job_id)
            except (Unavailable, RateLimited):
                continue
            except VisionDynoError:
                return  # it is lost, or this is closed

    async def _stop_all(self) -> None:
        stopping = sorted(self._open)
        self._stopped.update(stopping)
        await asyncio.gather(*(self._stop(job_id) for job_id in stopping))

    async def _stop(self, job_id: str) -> None:
        """Cancel one job; where that fails, the next check or `close` tries again."""
        try:
            await self._cancel(job_id)
        except JobLost:
            self.ended(job_id, [])
        except VisionDynoError as error:
            _log.warning("Job %s couldn't be cancelled: %s", job_id, error.message)

    async def _stop_at_last(self, job_id: str) -> None:
        with suppress(JobLost):
            await self._cancel(job_id)
        self.ended(job_id, [])
