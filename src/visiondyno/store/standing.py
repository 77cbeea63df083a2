"""Where a job stands, and how each event moves it: the rules of `JobStore.record`, no database."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from visiondyno.job import JobAnswer, JobError, JobEvent, JobState
from visiondyno.store.codec import optional_json
from visiondyno.store.records import Observed, RecordedEvent


@dataclass(slots=True)
class Standing:
    """The columns of a job's row that events change, and what the rules need to know.

    Attributes:
        changed: whether the row must be written.
    """

    id: str
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
    progress: str | None
    cancel_requested: bool
    webhook: str | None
    changed: bool = False

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Self:
        """The standing that a row with the columns `COLUMNS` of `jobs` describes."""
        return cls(row[0], JobState(row[1]), *row[2:])

    def to_row(self) -> dict[str, Any]:
        """The columns `CHANGING`, and `key`, the job's id."""
        return {
            "key": self.id,
            "state": self.state.value,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "dispatch": self.dispatch,
            "seen": self.seen,
            "first_number": self.first_number,
            "last_number": self.last_number,
            "attempts": self.attempts,
            "worker_id": self.worker_id,
            "progress": self.progress,
            "cancel_requested": self.cancel_requested,
        }

    def observe(self, observed: Observed) -> RecordedEvent | None:
        """Take an executor's event, or drop it (None) by the rules of `JobStore.record`."""
        event = observed.event
        if observed.dispatch != self.dispatch or event.number <= self.seen:
            return None
        moves = event.state is not self.state
        # An illegal move isn't noted in `seen`: should it have come too early, it comes again.
        if self.state.is_terminal or (moves and not self.state.may_become(event.state)):
            return None
        self.seen = event.number
        self.changed = True
        if not moves and event.progress is None:
            return None
        return self.append(event.state, observed.at, event.progress, event.answer)

    def append(
        self,
        state: JobState,
        at: float,
        progress: dict[str, Any] | None = None,
        answer: JobAnswer | None = None,
    ) -> RecordedEvent:
        """The next event, of a move that was found legal."""
        if state is JobState.IN_PROGRESS and self.state is not state:
            self.attempts += 1
            self.started_at = at
        if state is JobState.IN_QUEUE:
            self.started_at = None
        if state.is_terminal:
            self.ended_at = at
        if progress is not None:
            self.progress = optional_json(progress)
        if answer is not None:
            self.worker_id = answer.worker_id or self.worker_id
            answer = answer.model_copy(update={"id": self.id})
        self.state = state
        self.last_number += 1
        self.changed = True
        event = JobEvent(
            job_id=self.id,
            number=self.last_number,
            state=state,
            progress=progress,
            answer=answer,
        )
        return RecordedEvent(event, at)

    def put_back(self, lost_dispatch: int, at: float) -> list[RecordedEvent] | None:
        """Wait anew under the next dispatch; None where there is nothing to put back."""
        if self.state.is_terminal or self.dispatch != lost_dispatch:
            return None
        self.dispatch += 1
        self.seen = 0
        self.changed = True
        return [] if self.state is JobState.IN_QUEUE else [self.append(JobState.IN_QUEUE, at)]

    def retry(self, at: float) -> list[RecordedEvent] | None:
        """Wait anew after an end that may be repeated; None after any other."""
        if self.state not in {JobState.FAILED, JobState.TIMED_OUT}:
            return None
        self.dispatch += 1
        self.seen = 0
        self.ended_at = self.worker_id = self.progress = None
        self.cancel_requested = False
        event = self.append(JobState.IN_QUEUE, at)
        self.first_number = self.last_number
        return [event]

    def end_unsent(
        self, state: JobState, code: str, message: str, at: float
    ) -> list[RecordedEvent] | None:
        """End without having run; None unless it waits."""
        if self.state is not JobState.IN_QUEUE or not self.state.may_become(state):
            return None
        waited_ms = max(0, round((at - self.created_at) * 1000))
        error = JobError(code=code, message=message)
        answer = JobAnswer(id=self.id, status=state, delay_time_ms=waited_ms, error=error)
        return [self.append(state, at, answer=answer)]


COLUMNS = tuple(field.name for field in fields(Standing) if field.name != "changed")
CHANGING = tuple(name for name in COLUMNS if name not in {"id", "created_at", "webhook"})
