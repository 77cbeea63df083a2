"""What the store gives and takes: plain frozen values. Times are seconds since the epoch."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from visiondyno.job import JobAnswer, JobEvent, JobRequest, JobState


class JobKind(StrEnum):
    """Who asked for a job; decides where it is listed and how long it is kept."""

    RUN = "run"
    RUNSYNC = "runsync"
    BENCHMARK = "benchmark"
    SUBMISSION = "submission"


class KeyScope(StrEnum):
    """What an API key may do."""

    ALL = "all"
    SUBMIT = "submit"  # hand in models and read boards; nothing else


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be added: IN_QUEUE, with event 1.

    Ids that grow with time make the database about a third faster than random ones: what is
    written together lies together. `owner` is the id of the API key that asked, or None where no
    key was needed.
    """

    id: str
    endpoint: str
    kind: JobKind
    request: JobRequest
    created_at: float
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as the store knows it: the truth.

    Attributes:
        dispatch: how often it was handed to an executor: 1, and one more for each retry and each
            time a transport had lost it. The executor's id of a job is `transport_id`.
        seen: number of the last event of this dispatch that was recorded.
        first_number: number of the first event since the last retry (1 without one).
        last_number: number of the last event.
        attempts: how often it went to IN_PROGRESS, in all.
        progress: what the operation said last.
        cancel_requested: the user wants it cancelled; the executor may not know yet.
        answer: of a job that ended.
    """

    id: str
    endpoint: str
    kind: JobKind
    request: JobRequest
    state: JobState
    created_at: float
    started_at: float | None
    ended_at: float | None
    dispatch: int
    seen: int
    first_number: int
    last_number: int
    attempts: int
    worker_id: str | None
    progress: dict[str, Any] | None
    cancel_requested: bool
    answer: JobAnswer | None
    owner: str | None

    @property
    def transport_id(self) -> str:
        """The executor's id of the job in its present dispatch."""
        return f"{self.id}.{self.dispatch}"


@dataclass(frozen=True, slots=True)
class Observed:
    """An executor's event of one dispatch of a job, to be recorded once."""

    job_id: str
    dispatch: int
    event: JobEvent
    at: float


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event as the store numbered it, and when it was seen."""

    event: JobEvent
    at: float


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs; None: all. `before` is a `created_at` for paging, newest first."""

    endpoint: str | None = None
    kind: JobKind | None = None
    state: JobState | None = None
    owner: str | None = None
    before: float | None = None
    limit: int = 50


class SubmissionState(StrEnum):
    """Where a submission stands (SPEC's words)."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SubmissionRecord:
    """A model handed in for an evaluation task.

    Attributes:
        id: `sub_{unix seconds}_{8 hexadecimal digits}`.
        name: what the leaderboard shows.
        model_sha256: the blob.
        score, low, high: the task's score and its 95 % interval, on the split that ranks.
        metrics: measures by name, as JSON.
        error: a sentence, of a failed one.
    """

    id: str
    task: str
    name: str
    model_sha256: str
    file_name: str
    state: SubmissionState
    created_at: float
    job_id: str | None = None
    owner: str | None = None
    ended_at: float | None = None
    score: float | None = None
    low: float | None = None
    high: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ComparisonRecord:
    """A comparison asked for over the API; its id is its job's.

    Attributes:
        content_key: digest of models, data, settings and machine; None where it couldn't be made.
        comparison: `visiondyno.comparison/1` as JSON, of a completed one.
        cached_from: id of the comparison whose stored result this is, or None if it was run.
    """

    id: str
    created_at: float
    spec: dict[str, Any]
    content_key: str | None = None
    comparison: dict[str, Any] | None = None
    cached_from: str | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """An API key, without the key: only its digest is kept."""

    id: str
    name: str
    digest: str
    scope: KeyScope
    created_at: float
    last_used_at: float | None = None
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class WebhookRecord:
    """One delivery that is due.

    Attributes:
        id: `msg_{job}_{number of its terminal event}`: the same however often it is tried.
        body: the job's answer, JSON as RunPod posts it.
        attempts: how often it failed so far.
        next_at: until then no other process gets it.
    """

    id: str
    job_id: str
    url: str
    body: str
    attempts: int
    next_at: float
