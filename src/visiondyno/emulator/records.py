"""An emulated endpoint's jobs and workers, as they are kept in memory."""

import math
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from visiondyno.emulator.config import Kind
from visiondyno.job import JobState

Json = dict[str, Any]

ABSENT: Any = object()
"""What a job without an output has as its output: None is one."""


@dataclass(slots=True)
class Job:
    """One job. Times are seconds of the endpoint's clock; None: not yet.

    Attributes:
        id: as RunPod makes them: `sync-` before those of `runsync`.
        kind: how it was submitted.
        given: what a worker gets: `input`, and `webhook` and `s3Config` if there are any.
        webhook: who is told of its end.
        low_priority: it waits for the others, and no worker is started for it.
        submitted_s: when.
        expires_s: when its time to live ends.
        execution_timeout_s: how long one run may take.
        state: where it stands.
        started_s: when a worker took it last.
        ended_s: when it ended.
        forget_s: when nothing of it is kept any more.
        worker_id: who has or had it.
        holders: workers it was delivered to in this attempt, that may answer.
        retries: how often it was put back because its worker died.
        output: the last progress while it runs, its output after.
        error: what the worker told, or what happened to it.
        stream: what it yielded and nobody read.
        starts: how often a worker took it: a deadline of an earlier run means nothing.
    """

    id: str
    kind: Kind
    given: Json
    webhook: str | None
    low_priority: bool
    submitted_s: float
    expires_s: float
    execution_timeout_s: float
    state: JobState = JobState.IN_QUEUE
    started_s: float | None = None
    ended_s: float | None = None
    forget_s: float = math.inf
    worker_id: str | None = None
    holders: set[str] = field(default_factory=set)
    retries: int = 0
    output: Any = ABSENT
    error: Any = ABSENT
    stream: deque[Any] = field(default_factory=deque)
    starts: int = 0

    def status(self) -> Json:
        """What `/status` answers. Times are milliseconds."""
        found: Json = {"id": self.id, "status": str(self.state)}
        if self.started_s is not None:
            found["delayTime"] = _milliseconds(self.submitted_s, self.started_s)
            if self.ended_s is not None:
                found["executionTime"] = _milliseconds(self.started_s, self.ended_s)
        if self.worker_id is not None:
            found["workerId"] = self.worker_id
        if self.retries:
            found["retries"] = self.retries
        if self.output is not ABSENT:
            found["output"] = self.output
        if self.error is not ABSENT:
            found["error"] = self.error
        return found


class WorkerState(StrEnum):
    """A worker starts, works, is told to end, and is gone."""

    STARTING = "STARTING"
    READY = "READY"
    STOPPING = "STOPPING"
    GONE = "GONE"


@dataclass(slots=True)
class Worker:
    """One worker process. Times are seconds of the endpoint's clock.

    Attributes:
        id: its RUNPOD_POD_ID.
        started_s: when it was started: from here on it costs.
        state: where it stands.
        stopped_s: when its process had ended; None before.
        idle_since_s: since when it has no job; infinity while it has one, or starts.
        seen_s: when it last pinged or asked for a job.
        running: jobs that it has, as far as it told.
        to_stop: jobs that it is to stop and wasn't told of yet.
        stopping: jobs that it was told to stop → since when.
        kill_at_s: when it is killed, should it still be there.
        is_killed: whether that was asked for.
        jobs_done: how many it answered.
    """

    id: str
    started_s: float
    state: WorkerState = WorkerState.STARTING
    stopped_s: float | None = None
    idle_since_s: float = math.inf
    seen_s: float = -math.inf
    running: set[str] = field(default_factory=set)
    to_stop: list[str] = field(default_factory=list)
    stopping: dict[str, float] = field(default_factory=dict)
    kill_at_s: float = math.inf
    is_killed: bool = False
    jobs_done: int = 0

    @property
    def is_alive(self) -> bool:
        """Whether its process may still be there."""
        return self.state is not WorkerState.GONE

    @property
    def is_idle(self) -> bool:
        """Whether it would take a job now."""
        return self.state is WorkerState.READY and not self.running


def _milliseconds(begin_s: float, end_s: float) -> int:
    return max(0, round((end_s - begin_s) * 1000))
