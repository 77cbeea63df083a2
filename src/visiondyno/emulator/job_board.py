"""The jobs of an emulated endpoint: queue, states, deadlines. No clock, no network, no process."""

import heapq
import itertools
from collections import Counter
from typing import Any

from visiondyno.emulator.config import (
    RETENTION_S,
    STREAM_ITEM_BYTES,
    EndpointConfig,
    Kind,
)
from visiondyno.emulator.records import ABSENT, Job, Json
from visiondyno.emulator.submission import new_job
from visiondyno.errors import Conflict, NotFound, TooLarge
from visiondyno.job import JobState

_RETRIABLE = frozenset({JobState.FAILED, JobState.TIMED_OUT})


class JobBoard:
    """All jobs, and which of them wait, in what order.

    Attributes:
        ended: jobs that ended since this was last emptied by whoever tells of it.
        retried: how often a job was put back or tried again.
        to_deliver_again: jobs that the next worker that asks gets once more if they still run.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self._config = config
        self._jobs: dict[str, Job] = {}
        self._waiting: tuple[dict[str, None], dict[str, None]] = ({}, {})
        self._deadlines: list[tuple[float, int, str, int]] = []
        self._ticket = itertools.count()
        self._counts: Counter[JobState] = Counter()
        self._ends: Counter[JobState] = Counter()
        self.ended: list[Job] = []
        self.retried = 0
        self.to_deliver_again: list[str] = []

    # ---- asked by clients

    def submit(self, body: Any, kind: Kind, now_s: float) -> Job:
        """Queue the job that `body` asks for.

        Raises:
            SpecError: it asks for none.
        """
        job = new_job(body, kind, self._config, now_s)
        self._jobs[job.id] = job
        self._counts[job.state] += 1
        self._enqueue(job)
        self._watch(job, job.expires_s)
        return job

    def find(self, job_id: str) -> Job:
        """The job.

        Raises:
            NotFound: there never was one, or it is forgotten.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(
                f"No job has the id '{job_id:.100}' here; results are kept for 30 minutes after a "
                "run and 1 minute after a runsync."
            )
        return job

    def read_stream(self, job: Job) -> list[Any]:
        """What it yielded since this was last asked: reading takes it."""
        items = list(job.stream)
        job.stream.clear()
        return items

    def cancel(self, job: Job, now_s: float) -> None:
        """End it, unless it has ended."""
        self._end(job, JobState.CANCELLED, now_s)

    def retry(self, job: Job, now_s: float) -> None:
        """Queue it again under its id; what became of it goes.

        Raises:
            Conflict: it neither failed nor ran out of time.
        """
        if job.state not in _RETRIABLE:
            raise Conflict(
                f"The job '{job.id}' is {job.state}; only FAILED and TIMED_OUT jobs can be retried."
            )
        self._move(job, JobState.IN_QUEUE)
        job.submitted_s, job.expires_s = now_s, now_s + (job.expires_s - job.submitted_s)
        job.started_s = job.ended_s = job.worker_id = None
        job.output = job.error = ABSENT
        job.forget_s, job.retries = float("inf"), 0
        job.stream.clear()
        job.holders.clear()
        self.retried += 1
        self._enqueue(job)
        self._watch(job, job.expires_s)

    def purge(self, now_s: float) -> int:
        """Cancel every job that waits; how many."""
        waiting = self.waiting()
        for job in waiting:
            self.cancel(job, now_s)
        return len(waiting)

    # ---- asked by workers

    def take(self, worker_id: str, most: int, now_s: float) -> list[Job]:
        """Up to so many jobs, which are the worker's from now on."""
        again, self.to_deliver_again = self.to_deliver_again[:most], self.to_deliver_again[most:]
        known = [self._jobs[job_id] for job_id in again if job_id in self._jobs]
        jobs = [job for job in known if job.state is JobState.IN_PROGRESS]
        for job in jobs:
            job.holders.add(worker_id)
        for job in self.waiting()[: most - len(jobs)]:
            self._dequeue(job)
            self._move(job, JobState.IN_PROGRESS)
            job.started_s, job.worker_id = now_s, worker_id
            job.holders = {worker_id}
            job.starts += 1
            self._watch(job, now_s + job.execution_timeout_s)
            jobs.append(job)
        return jobs

    def is_held(self, job_id: str, worker_id: str) -> bool:
        """Whether what this worker says of the job counts."""
        job = self._jobs.get(job_id)
        return job is not None and job.state is JobState.IN_PROGRESS and worker_id in job.holders

    def tell_progress(self, job_id: str, progress: Any) -> None:
        """Its status shows this until it ends, or tells something else."""
        self._jobs[job_id].output = progress

    def tell_stream(self, job_id: str, item: Any, item_bytes: int) -> None:
        """Add to its stream; a text above 1 MB is split.

        Raises:
            TooLarge: it is above 1 MB and no text.
        """
        stream = self._jobs[job_id].stream
        if item_bytes <= STREAM_ITEM_BYTES:
            stream.append(item)
        elif isinstance(item, str):
            step = STREAM_ITEM_BYTES // 4  # a character has at most four bytes
            stream.extend(item[begin : begin + step] for begin in range(0, len(item), step))
        else:
            raise TooLarge("One item of a stream may have 1 MB; yield smaller ones.")

    def finish(self, job_id: str, worker_id: str, said: Json, now_s: float) -> None:
        """Take the worker's answer: FAILED with an `error`, COMPLETED without."""
        job = self._jobs[job_id]
        job.worker_id = worker_id
        job.output = said.get("output", ABSENT)
        error = said.get("error")
        if error is None:
            self._end(job, JobState.COMPLETED, now_s)
        else:
            job.error = error
            self._end(job, JobState.FAILED, now_s)

    def lose_worker(self, worker_id: str, now_s: float) -> None:
        """A worker is gone: what it had waits again, or fails where it was put back too often."""
        lost = [
            job
            for job in self._jobs.values()
            if worker_id in job.holders and job.state is JobState.IN_PROGRESS
        ]
        for job in reversed(lost):  # each goes to the front: the first shall be first
            job.holders.discard(worker_id)
            if job.holders:
                job.worker_id = min(job.holders)
            elif job.retries < self._config.max_retries:
                self._put_back(job)
            else:
                job.output = ABSENT
                job.error = f"job timed out after {job.retries} retries"
                self._end(job, JobState.FAILED, now_s)

    # ---- time

    def advance(self, now_s: float) -> list[Job]:
        """End what is due by now, and forget what is; those that a worker is to stop."""
        to_stop = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            _, _, job_id, starts = heapq.heappop(self._deadlines)
            job = self._jobs.get(job_id)
            if job is not None and self._expire(job, starts, now_s):
                to_stop.append(job)
        return to_stop

    @property
    def next_deadline_s(self) -> float:
        """When `advance` may have something to do; infinity: never."""
        return self._deadlines[0][0] if self._deadlines else float("inf")

    # ---- counts

    def waiting(self) -> list[Job]:
        """Jobs that wait, in the order in which they start: low priority last."""
        normal, low = self._waiting
        return [self._jobs[job_id] for job_id in (*normal, *low)]

    def waiting_since_s(self, most: int) -> list[float]:
        """When the first jobs of normal priority that wait were submitted; up to `most`."""
        return [
            self._jobs[job_id].submitted_s for job_id in itertools.islice(self._waiting[0], most)
        ]

    @property
    def open_count(self) -> int:
        """Jobs of normal priority that wait, and all that run."""
        return len(self._waiting[0]) + self._counts[JobState.IN_PROGRESS]

    def health(self) -> Json:
        """The `jobs` of `/health`: what waits and runs now, and what ended since the start."""
        return {
            "completed": self._ends[JobState.COMPLETED],
            "failed": self._ends[JobState.FAILED] + self._ends[JobState.TIMED_OUT],
            "inProgress": self._counts[JobState.IN_PROGRESS],
            "inQueue": self._counts[JobState.IN_QUEUE],
            "retried": self.retried,
        }

    # ---- within

    def _expire(self, job: Job, starts: int, now_s: float) -> bool:
        """What a deadline means for the job; whether a worker is to stop it."""
        runs = job.state is JobState.IN_PROGRESS
        if now_s >= job.forget_s or (now_s >= job.expires_s and job.state is not JobState.IN_QUEUE):
            # RunPod deletes a job at the end of its time to live, whatever it does.
            self._forget(job)
            return runs
        if job.state is JobState.IN_QUEUE and now_s >= job.expires_s:
            self._end(job, JobState.TIMED_OUT, now_s)
            return False
        if not runs or job.starts != starts or job.started_s is None:
            return False
        if now_s < job.started_s + job.execution_timeout_s:
            return False
        job.output = ABSENT
        job.error = "executionTimeout exceeded"
        self._end(job, JobState.TIMED_OUT, now_s)
        return True

    def _end(self, job: Job, state: JobState, now_s: float) -> None:
        if job.state.is_terminal:
            return
        if job.state is JobState.IN_QUEUE:
            self._dequeue(job)
        if state is JobState.CANCELLED:
            job.output = ABSENT
        self._move(job, state)
        self._ends[state] += 1
        job.ended_s = now_s
        job.forget_s = now_s + RETENTION_S[job.kind]
        self._watch(job, job.forget_s)
        self.ended.append(job)

    def _put_back(self, job: Job) -> None:
        self._move(job, JobState.IN_QUEUE)
        job.retries += 1
        self.retried += 1
        job.worker_id, job.started_s, job.output = None, None, ABSENT
        job.stream.clear()
        queue = self._queue_of(job)
        rest = dict(queue)
        queue.clear()
        queue[job.id] = None
        queue.update(rest)

    def _forget(self, job: Job) -> None:
        if job.state is JobState.IN_QUEUE:
            self._dequeue(job)
        self._counts[job.state] -= 1
        del self._jobs[job.id]

    def _move(self, job: Job, state: JobState) -> None:
        self._counts[job.state] -= 1
        self._counts[state] += 1
        job.state = state

    def _watch(self, job: Job, at_s: float) -> None:
        heapq.heappush(self._deadlines, (at_s, next(self._ticket), job.id, job.starts))

    def _queue_of(self, job: Job) -> dict[str, None]:
        return self._waiting[1 if job.low_priority else 0]

    def _enqueue(self, job: Job) -> None:
        self._queue_of(job)[job.id] = None

    def _dequeue(self, job: Job) -> None:
        self._queue_of(job).pop(job.id, None)
