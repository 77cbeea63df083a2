"""The queue seam: the transport between an executor and its supervised workers.

Leases and tokens: a claim is held for `lease_s` and renewed by the supervisor, outside the process
that runs the operation. A claim that lapsed is another's to take; its token is stale then, and a
stale token writes nothing. So a job runs at least once and its answer is written once.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from visiondyno.errors import Cancelled, NotFound, TimeLimitExceeded
from visiondyno.executors.base import JobLost
from visiondyno.executors.workers import WorkerCommand, WorkerInfo
from visiondyno.job import JobAnswer, JobError, JobEvent, JobState, Policy

Topic = Literal["work", "events"]
"""What a bell rings for: work for supervisors (jobs, cancels, commands), or events for watchers."""

DEFAULT_LEASE_S = 10.0
DEFAULT_MAX_ATTEMPTS = 4
DEFAULT_RETENTION_S = 3600.0
WORKER_EXPIRY_S = 15.0
"""A worker that isn't told of for so long is forgotten."""

_BACKOFF_S = (0.5, 2.0, 5.0, 10.0)
LONGEST_BACKOFF_S = _BACKOFF_S[-1]


def backoff_s(attempt: int) -> float:
    """Seconds before a job whose worker died in attempt `attempt` (1, 2 …) may run again."""
    return _BACKOFF_S[min(attempt, len(_BACKOFF_S)) - 1]


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """What is put into a queue: the operation's input as JSON text, and its policy.

    `queued_at` (seconds since the epoch) is its place in the order, where it isn't the time of the
    put: a job that was put back keeps the place it had.
    """

    id: str
    input_json: str
    policy: Policy = field(default_factory=Policy)
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    queued_at: float | None = None

    @property
    def place(self) -> int | None:
        """`queued_at` in microseconds since the epoch, the unit in which queues order jobs."""
        return None if self.queued_at is None else int(self.queued_at * 1e6)


@dataclass(frozen=True, slots=True)
class Claim:
    """One worker's right to run a job and to write its answer.

    Attributes:
        job_id: the job.
        token: differs in every claim of every job; a stale one writes nothing.
        worker: who holds it.
        attempt: 1, 2 …
        input_json: the operation's input as JSON text.
        execution_timeout_ms: the policy's, or None.
        delay_ms: how long the job waited before its first claim.
    """

    job_id: str
    token: str
    worker: str
    attempt: int
    input_json: str
    execution_timeout_ms: int | None
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a claimed job ended: `output_json` (JSON text) or `error`."""

    state: JobState
    execution_ms: int
    output_json: str | None = None
    error: JobError | None = None


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Jobs by state, and how long the oldest waiting one has waited (None where none waits).

    Attributes:
        claimable: jobs that a worker could claim now (waiting, and past their backoff).
    """

    jobs: dict[JobState, int]
    claimable: int
    oldest_waiting_s: float | None


class Bell(ABC):
    """Becomes readable when another process changed something; for `select` and event loops."""

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor to wait on."""

    @abstractmethod
    def drain(self) -> None:
        """Make it unreadable until the next ring."""

    @abstractmethod
    def close(self) -> None:
        """Stop listening."""


class JobQueue(ABC):
    """The transport. Contract: tests/contracts/queue_contract.py.

    Every method is atomic, blocks shortly, and raises `TransportDown` when the transport can't be
    reached: then nothing is known of what was asked, and asking again is safe. A bell may miss a
    ring or ring for nothing: who waits on it also looks once in a while.

    An instance is used from one thread.
    """

    @abstractmethod
    def put(self, jobs: Sequence[QueuedJob]) -> None:
        """Accept jobs, each with event 1 (IN_QUEUE); a known id is left as it is."""

    @abstractmethod
    def claim(self, workers: Sequence[str], lease_s: float) -> list[Claim]:
        """At most one job for each idle worker: high priority first, then first come.

        A job past its ttl becomes TIMED_OUT here instead. A claim is the event IN_PROGRESS and
        counts an attempt.
        """

    @abstractmethod
    def renew(self, claims: Sequence[Claim], lease_s: float) -> list[Claim]:
        """Extend the leases; return the claims that are no longer held (stop their work)."""

    @abstractmethod
    def report(self, reports: Sequence[tuple[Claim, str]]) -> None:
        """Append progress (JSON text of an object) as events; those of stale claims are dropped."""

    @abstractmethod
    def finish(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> list[bool]:
        """Write the answers as terminal events; False for each claim that was stale."""

    @abstractmethod
    def give_back(self, claim: Claim, reason: str, *, blameless: bool = False) -> None:
        """The worker died: the job waits again for `backoff_s`, or fails after its last attempt.

        `reason` is a sentence for the error of a job that has no attempt left. `blameless` (the
        supervisor is being stopped): it waits again at once and this attempt isn't counted. A
        stale claim is ignored.
        """

    @abstractmethod
    def cancel(self, job_id: str) -> None:
        """Make a waiting or running job CANCELLED at once (its claim becomes stale).

        Raises:
            JobLost: no such job.
        """

    @abstractmethod
    def sweep(self) -> None:
        """Give back what has a lapsed lease, time out what waited past its ttl, forget the old."""

    @abstractmethod
    def events(self, job_id: str, after: int = 0) -> list[JobEvent]:
        """The job's events so far, after number `after`.

        Raises:
            JobLost: no such job.
        """

    @abstractmethod
    def feed(self, cursor: str | None) -> tuple[list[JobEvent], str]:
        """All jobs' events since `cursor` (None: no events, only the newest cursor)."""

    @abstractmethod
    def known(self, job_ids: Collection[str]) -> set[str]:
        """Those of the ids that are in the queue, in whatever state."""

    @abstractmethod
    def counts(self) -> QueueCounts:
        """What waits, runs and ended (and isn't forgotten yet)."""

    def claimable(self, at_most: int) -> int:
        """How many jobs a worker could claim now; beyond `at_most` they aren't counted."""
        return min(at_most, self.counts().claimable)

    @abstractmethod
    def announce(self, workers: Sequence[WorkerInfo]) -> None:
        """Tell of workers; one that isn't told of for `WORKER_EXPIRY_S` is forgotten."""

    @abstractmethod
    def withdraw(self, names: Collection[str]) -> None:
        """Forget these workers now."""

    @abstractmethod
    def workers(self) -> list[WorkerInfo]:
        """The workers told of lately, by name."""

    @abstractmethod
    def command(self, worker: str, command: WorkerCommand) -> None:
        """Leave a command for a worker's supervisor.

        Raises:
            NotFound: no such worker.
        """

    @abstractmethod
    def take_commands(self, workers: Collection[str]) -> list[tuple[str, WorkerCommand]]:
        """The commands left for these workers; each is given once."""

    @abstractmethod
    def bell(self, topic: Topic) -> Bell:
        """Listen for changes."""

    def together(self) -> AbstractContextManager[None]:
        """What is asked within may be written in one step, where the transport can."""
        return nullcontext()

    @abstractmethod
    def close(self) -> None:
        """Free the connection. The jobs stay."""


def read_answer(job_id: str, text: str) -> JobAnswer:
    """What `answer_json` gave; one that can't be read is that job's failure and no other's."""
    try:
        return JobAnswer.model_validate_json(text)
    except ValidationError:
        pass
    try:  # pydantic's own reader refuses the lone surrogates that JSON may hold
        return JobAnswer.model_validate(json.loads(text))
    except ValueError:
        message = "The job's answer can't be read; is its worker of another version of VisionDyno?"
        error = JobError(code="internal", message=message)
        return JobAnswer(id=job_id, status=JobState.FAILED, error=error)


def lost_job(job_id: str) -> JobLost:
    """The error for a job that the queue doesn't have."""
    return JobLost(f"The queue has no job '{job_id}'; it ended long ago or was never put here.")


def unknown_worker(name: str) -> NotFound:
    """The error for a worker that nobody told of lately."""
    return NotFound(f"No worker is called '{name}'; `dyno workers list` names them.")


def cancelled_error() -> JobError:
    """What a cancelled job's answer says."""
    return JobError.from_exception(Cancelled("The job was cancelled."), None)


def expired_error() -> JobError:
    """What a job's answer says that waited past its ttl."""
    late = TimeLimitExceeded("The job waited past its policy's ttl and did not run.")
    return JobError.from_exception(late, None)


def answer_json(claim: Claim, outcome: Outcome) -> str:
    """A `JobAnswer` as JSON text, made without reading the output."""
    rest: dict[str, Any] = {
        "id": claim.job_id,
        "status": outcome.state,
        "delayTime": claim.delay_ms,
        "executionTime": outcome.execution_ms,
        "workerId": claim.worker,
    }
    if outcome.output_json is not None:
        return f'{json.dumps(rest)[:-1]}, "output": {outcome.output_json}}}'
    assert outcome.error is not None, "an outcome has an output or an error"
    return json.dumps({**rest, "error": outcome.error.model_dump()})
