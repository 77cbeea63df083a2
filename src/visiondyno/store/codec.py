"""Rows to records, and values to the text that is stored."""

import json
from typing import Any

from sqlalchemy import Row

from visiondyno.job import JobAnswer, JobEvent, JobRequest, JobState
from visiondyno.store.records import JobKind, JobRecord, RecordedEvent


def json_text(value: object) -> str:
    """`value` as ASCII JSON: no character that a database or an encoding refuses."""
    return json.dumps(value, separators=(",", ":"))


def optional_json(value: object | None) -> str | None:
    """`value` as JSON, or None."""
    return None if value is None else json_text(value)


def optional_value(text: str | None) -> Any:
    """What `optional_json` was given."""
    return None if text is None else json.loads(text)


def request_json(request: JobRequest) -> str:
    """A request as it is stored."""
    return json_text(request.model_dump(by_alias=True))


def answer_json(answer: JobAnswer) -> str:
    """An answer as it is stored, and as RunPod posts it: without the fields that it lacks."""
    return json_text(answer.model_dump(by_alias=True, exclude_none=True))


def answer_from(text: str | None) -> JobAnswer | None:
    """What `answer_json` was given, or None."""
    # Not `model_validate_json`: that refuses the lone surrogates that JSON may hold.
    return None if text is None else JobAnswer.model_validate(json.loads(text))


def job_record(row: Row[Any]) -> JobRecord:
    """A job from its row with the columns of `jobs`, `request` and `answer`."""
    return JobRecord(
        id=row.id,
        endpoint=row.endpoint,
        kind=JobKind(row.kind),
        request=JobRequest.model_validate(json.loads(row.request)),
        state=JobState(row.state),
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        dispatch=row.dispatch,
        seen=row.seen,
        first_number=row.first_number,
        last_number=row.last_number,
        attempts=row.attempts,
        worker_id=row.worker_id,
        progress=optional_value(row.progress),
        cancel_requested=row.cancel_requested,
        answer=answer_from(row.answer),
        owner=row.owner,
    )


def recorded_event(row: Row[Any]) -> RecordedEvent:
    """An event from its row of `job_events`."""
    event = JobEvent(
        job_id=row.job_id,
        number=row.number,
        state=JobState(row.state),
        progress=optional_value(row.progress),
        answer=answer_from(row.answer),
    )
    return RecordedEvent(event, row.at)
