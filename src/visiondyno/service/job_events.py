"""What an executor's event is to the store, and to a record: values, no acting."""

import dataclasses
from typing import Any

from visiondyno.job import JobAnswer, JobError, JobEvent, JobState
from visiondyno.store.records import JobRecord, NewJob, RecordedEvent


def new_record(job: NewJob) -> JobRecord:
    """The record of a job that was just added."""
    return JobRecord(
        id=job.id,
        endpoint=job.endpoint,
        kind=job.kind,
        request=job.request,
        state=JobState.IN_QUEUE,
        created_at=job.created_at,
        started_at=None,
        ended_at=None,
        dispatch=1,
        seen=0,
        first_number=1,
        last_number=1,
        attempts=0,
        worker_id=None,
        progress=None,
        cancel_requested=False,
        answer=None,
        owner=job.owner,
    )


def advanced(record: JobRecord, recorded: RecordedEvent) -> JobRecord:
    """The record after one more event, as the store's row follows its events."""
    event = recorded.event
    changes: dict[str, Any] = {"last_number": event.number}
    if event.state != record.state:
        changes["state"] = event.state
        if event.state == JobState.IN_QUEUE:
            changes["started_at"] = None
        elif event.state == JobState.IN_PROGRESS:
            changes |= {"attempts": record.attempts + 1, "started_at": recorded.at}
    if event.progress is not None:
        changes["progress"] = event.progress
    if event.answer is not None:
        changes |= {"answer": event.answer, "ended_at": recorded.at}
        changes["worker_id"] = event.answer.worker_id or record.worker_id
    return dataclasses.replace(record, **changes)


def to_record(event: JobEvent, refused: Exception | None) -> JobEvent | None:
    """What is recorded for an executor's event; None: nothing.

    `refused` is why the store can't take it: progress is left out then, and a job whose answer it
    is has failed.
    """
    if event.number == 1 and event.state == JobState.IN_QUEUE:
        return None  # the store made its own when the job was added or put back
    if refused is None:
        return event
    if event.answer is None:
        return None
    error = JobError(
        code="internal",
        message="The job ended and its answer could not be stored: "
        f"{type(refused).__name__}. Retry it, and report this if it comes again.",
    )
    answer = JobAnswer(
        id=event.answer.id,
        status=JobState.FAILED,
        delay_time_ms=event.answer.delay_time_ms,
        execution_time_ms=event.answer.execution_time_ms,
        worker_id=event.answer.worker_id,
        error=error,
    )
    return event.model_copy(update={"state": JobState.FAILED, "answer": answer})
