"""The inline executor: jobs run in this process, one at a time, on one thread of their own.

Nothing outlives the process: for jobs that survive a crash, another executor is needed. A thread
can't be killed: a cancel and a time limit take effect at the operation's next `context.check()`;
operations with children of their own (`benchmark`) kill them there.
"""

import asyncio
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

from visiondyno.errors import Cancelled, SpecError, TimeLimitExceeded
from visiondyno.executors.base import Executor, ExecutorHealth, JobLost
from visiondyno.executors.ended_jobs import EndedJobs, size_bytes
from visiondyno.job import JobAnswer, JobError, JobEvent, JobRequest, JobState, new_job_id
from visiondyno.operations.context import OperationContext

Run = Callable[[dict[str, Any], OperationContext], dict[str, Any]]


class _Job:
    """One job's events, written by the job's thread and read by watchers on the event loop."""

    def __init__(
        self,
        job_id: str,
        request: JobRequest,
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[[str, int], None],
    ) -> None:
        self.id = job_id
        self.request = request
        self.events: list[JobEvent] = []
        self.cancelled = threading.Event()
        self.queued_at = time.time()
        self.submitted_s = time.monotonic()
        self.started_s: float | None = None
        self._loop = loop
        self._on_end = on_end
        self._lock = threading.Lock()
        self._changed = asyncio.Event()
        self._settled = False
        self.record(JobState.IN_QUEUE)

    def place(self) -> tuple[bool, float]:
        """Smaller runs earlier."""
        return self.request.policy.low_priority, self.queued_at

    @property
    def state(self) -> JobState:
        return self.events[-1].state

    def record(
        self,
        state: JobState,
        *,
        progress: dict[str, Any] | None = None,
        answer: JobAnswer | None = None,
    ) -> bool:
        """Append an event unless the job has ended or the move isn't legal."""
        with self._lock:
            if self.events and state != self.state and not self.state.may_become(state):
                return False
            if self.events and self.state.is_terminal:
                return False
            number = len(self.events) + 1
            self.events.append(
                JobEvent(
                    job_id=self.id, number=number, state=state, progress=progress, answer=answer
                )
            )
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)
        return True

    def say(self, progress: dict[str, Any]) -> None:
        self.record(JobState.IN_PROGRESS, progress=progress)

    def finish(
        self,
        state: JobState,
        *,
        output: dict[str, Any] | None = None,
        error: JobError | None = None,
    ) -> None:
        started_s = self.started_s
        now_s = time.monotonic()
        waited_s = (started_s if started_s is not None else now_s) - self.submitted_s
        answer = JobAnswer(
            id=self.id,
            status=state,
            delay_time_ms=round(waited_s * 1000),
            execution_time_ms=None if started_s is None else round((now_s - started_s) * 1000),
            worker_id="inline",
            output=output,
            error=error,
        )
        self.record(state, answer=answer)

    async def follow(self, after: int) -> AsyncGenerator[JobEvent, None]:
        seen = after
        while True:
            changed = self._changed
            while seen < len(self.events):
                event = self.events[seen]
                seen += 1
                if event.state.is_terminal:
                    self._settle()
                yield event
            if self.state.is_terminal and seen >= len(self.events):
                return
            await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        if self.state.is_terminal:
            self._settle()

    def _settle(self) -> None:
        """Let go of what an ended job no longer needs; a watcher may be here before `_wake`."""
        if self._settled:
            return
        self._settled = True
        self.request = self.request.model_copy(update={"input": {}})  # it may be large
        answer = self.events[-1].answer
        told = [event.progress for event in self.events]
        self._on_end(self.id, size_bytes([told, answer and answer.output]))


class InlineExecutor(Executor):
    """Runs jobs in this process, in order of submission (low priority last).

    Ended jobs are remembered as `EndedJobs` says; one that was forgotten is a `JobLost`.
    """

    name = "inline"

    def __init__(self, run: Run, clock: Callable[[], float] = time.monotonic) -> None:
        """Start a thread for the jobs.

        Args:
            run: `run(job_input, context) -> output` is `worker.run`, or another with its contract.
            clock: seconds, for how long ended jobs are remembered.
        """
        self._run = run
        self._jobs: dict[str, _Job] = {}
        self._ended = EndedJobs(self._jobs.pop, clock)
        self._waiting: list[_Job] = []
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inline-job")
        self._closed = False

    async def submit(
        self, request: JobRequest, job_id: str | None = None, queued_at: float | None = None
    ) -> str:
        if self._closed:
            raise SpecError("This executor is closed; make a new one to submit jobs.")
        if job_id is not None and job_id in self._jobs:
            return job_id
        loop = asyncio.get_running_loop()
        job = _Job(job_id or new_job_id(), request, loop, self._ended.keep)
        if queued_at is not None:
            job.queued_at = queued_at
        self._jobs[job.id] = job
        with self._lock:
            self._waiting.append(job)
        self._thread.submit(self._run_next)
        return job.id

    async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        async with aclosing(self._find(job_id).follow(after)) as events:
            async for event in events:
                if event.state.is_terminal:
                    self._ended.note_told(job_id)
                yield event

    async def cancel(self, job_id: str) -> None:
        job = self._find(job_id)
        job.cancelled.set()
        with self._lock:
            if job not in self._waiting:
                return  # running: its operation ends it; or it has ended
            self._waiting.remove(job)
        job.finish(JobState.CANCELLED, error=_error(Cancelled("The job was cancelled.")))

    async def known(self, job_ids: Collection[str]) -> set[str]:
        return self._jobs.keys() & set(job_ids)

    async def health(self) -> ExecutorHealth:
        states = [job.state for job in self._jobs.values()]
        busy = states.count(JobState.IN_PROGRESS)
        jobs = {str(state): states.count(state) for state in JobState}
        with self._lock:
            oldest_s = min((job.submitted_s for job in self._waiting), default=None)
        return ExecutorHealth(
            jobs=jobs,
            workers_ready=1 - busy,
            workers_busy=busy,
            oldest_waiting_s=None if oldest_s is None else time.monotonic() - oldest_s,
        )

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for job_id in list(self._jobs):
            await self.cancel(job_id)
        await asyncio.to_thread(self._thread.shutdown, wait=True)

    def _find(self, job_id: str) -> _Job:
        if job_id not in self._jobs:
            raise JobLost(f"No job has the id '{job_id}' here; ids are what submit returned.")
        return self._jobs[job_id]

    def _run_next(self) -> None:
        with self._lock:
            if not self._waiting:
                return  # cancelled while it waited
            job = min(self._waiting, key=_Job.place)
            self._waiting.remove(job)
        self._run_job(job)

    def _run_job(self, job: _Job) -> None:
        policy = job.request.policy
        now_s = time.monotonic()
        if policy.ttl_ms is not None and now_s - job.submitted_s > policy.ttl_ms / 1000:
            late = TimeLimitExceeded("The job waited past its policy's ttl and did not run.")
            job.finish(JobState.TIMED_OUT, error=_error(late))
            return
        job.started_s = now_s
        job.record(JobState.IN_PROGRESS)
        limit_ms = policy.execution_timeout_ms
        context = OperationContext(
            on_progress=job.say,
            is_cancelled=job.cancelled.is_set,
            deadline_s=None if limit_ms is None else now_s + limit_ms / 1000,
        )
        try:
            output = self._run(job.request.input, context)
            context.check()  # one that never looked must not end as COMPLETED
        except Cancelled as error:
            job.finish(JobState.CANCELLED, error=_error(error))
        except TimeLimitExceeded as error:
            job.finish(JobState.TIMED_OUT, error=_error(error))
        except Exception as error:
            job.finish(JobState.FAILED, error=_error(error))
        else:
            job.finish(JobState.COMPLETED, output=output)


def _error(error: BaseException) -> JobError:
    trace = "".join(traceback.format_exception(error)) if error.__traceback__ else None
    return JobError.from_exception(error, trace)
