"""The job contract: states and their legal moves, events, policy, and the wire envelope.

The wire format is RunPod serverless's (https://docs.runpod.io/serverless/endpoints/operations),
so that one handler and one client serve every executor.
"""

import secrets
import time
import uuid
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from visiondyno.errors import VisionDynoError, error_classes

_Text = TypeVar("_Text", str, str | None)


class JobState(StrEnum):
    """Where a job stands."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing follows (but an explicit retry)."""
        return not LEGAL_MOVES[self]

    def may_become(self, other: "JobState") -> bool:
        """Whether a job in this state may move to `other`."""
        return other in LEGAL_MOVES[self]


LEGAL_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.IN_QUEUE: frozenset(
        {JobState.IN_PROGRESS, JobState.CANCELLED, JobState.TIMED_OUT, JobState.FAILED}
    ),
    JobState.IN_PROGRESS: frozenset(
        {
            JobState.IN_QUEUE,  # its worker died and attempts are left
            JobState.COMPLETED,
            JobState.FAILED,
            JobState.CANCELLED,
            JobState.TIMED_OUT,
        }
    ),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
    JobState.TIMED_OUT: frozenset(),
}


_LONGEST_MS = 10**15
"""31,700 years: for ever, and yet a whole number in every database and JSON reader."""


def new_job_id() -> str:
    """A fresh id: a UUID of version 7 (RFC 9562, section 5.7), which grows with time.

    Databases keep rows with growing keys together: random ones cost the store half as much again.
    """
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 7 << 76
    return str(uuid.UUID(int=value & ~(0b11 << 62) | 0b10 << 62))


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Policy(_Wire):
    """Limits of one job, milliseconds; None where the executor's own default holds."""

    execution_timeout_ms: Annotated[
        int | None, Field(gt=0, le=_LONGEST_MS, alias="executionTimeout")
    ] = None
    ttl_ms: Annotated[int | None, Field(gt=0, le=_LONGEST_MS, alias="ttl")] = None
    low_priority: Annotated[bool, Field(alias="lowPriority")] = False


class JobRequest(_Wire):
    """What is submitted: one operation's input, and how it is to be treated."""

    input: dict[str, Any]
    policy: Policy = Policy()
    webhook: str | None = None


_MAX_MESSAGE, _MAX_TRACEBACK = 2000, 20_000


def _valid(text: _Text, most: int) -> _Text:
    """`text` without the lone surrogates of file names and JSON, which no wire takes.

    Of what is longer than `most`, beginning and end: who sent a page as a name gets no book back.
    """
    if text and len(text) > most:
        text = f"{text[: most // 2]} … {text[-most // 2 :]}"
    return text and text.encode("utf-8", "backslashreplace").decode()


class JobError(_Wire):
    """Why a job failed: for programs `code`, for people `message`, for us `traceback`."""

    code: str
    message: str
    stage: str | None = None
    traceback: str | None = None

    def to_exception(self) -> VisionDynoError:
        """The error this one was made from, to be raised on the other side of a wire."""
        kind = error_classes().get(self.code, VisionDynoError)
        error = kind.__new__(kind)
        Exception.__init__(error, self.message)
        error.__dict__.update(stage=self.stage or "run", traceback=self.traceback)
        return error

    @classmethod
    def from_exception(cls, error: BaseException, traceback: str | None) -> "JobError":
        """`error` as it crosses the wire; one that isn't ours is called `internal`."""
        if isinstance(error, VisionDynoError):
            stage = getattr(error, "stage", None)
            inner = getattr(error, "traceback", None)
            trace = _valid(inner or traceback, _MAX_TRACEBACK)
            message = _valid(error.message, _MAX_MESSAGE)
            return cls(code=error.code, message=message, stage=stage, traceback=trace)
        summary = f"{type(error).__name__}: {error}"
        return cls(
            code=VisionDynoError.code,
            message=_valid(
                f"A defect of visiondyno itself: {summary}. Please report it.", _MAX_MESSAGE
            ),
            traceback=_valid(traceback, _MAX_TRACEBACK),
        )


class JobAnswer(_Wire):
    """How a job ended. Times are milliseconds; exactly one of `output` and `error` is set."""

    id: str
    status: JobState
    delay_time_ms: Annotated[int | None, Field(alias="delayTime")] = None
    execution_time_ms: Annotated[int | None, Field(alias="executionTime")] = None
    worker_id: Annotated[str | None, Field(alias="workerId")] = None
    output: dict[str, Any] | None = None
    error: JobError | None = None

    def result(self) -> dict[str, Any]:
        """The output of a COMPLETED job.

        Raises:
            VisionDynoError: the job's own error.
        """
        if self.output is not None:
            return self.output
        assert self.error is not None, "a terminal answer has an output or an error"
        raise self.error.to_exception()


class JobEvent(_Wire):
    """One thing that happened to a job.

    Attributes:
        job_id: whose event it is.
        number: 1, 2, 3 … without gaps; none follows the terminal event.
        state: the job's state from this event on.
        progress: what the operation said, or None for a mere change of state.
        answer: of the terminal event only.
    """

    job_id: str
    number: int
    state: JobState
    progress: dict[str, Any] | None = None
    answer: JobAnswer | None = None
