"""Server-sent events: a job's numbered events, live, and resumed where a client left off."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Header, Response
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from visiondyno.job import JobAnswer, JobState
from visiondyno.service import Service
from visiondyno.store.records import RecordedEvent

_PING_S = 15

LastEventId = Annotated[
    int | None,
    Header(
        alias="Last-Event-ID",
        ge=0,
        le=2**31 - 1,
        description="Number of the last event seen; what follows it is sent.",
    ),
]

SSE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events; the last one is the terminal event.",
        "content": {
            "text/event-stream": {
                # One event, as OpenAPI 3.2 describes a stream's items.
                "schema": {
                    "type": "object",
                    "required": ["id", "data"],
                    "properties": {
                        "id": {"type": "string", "description": "The event's number."},
                        "data": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": {"$ref": "#/components/schemas/JobEventView"},
                        },
                    },
                }
            }
        },
    },
    204: {"description": "The terminal event was seen already: don't connect again."},
}


class JobEventView(BaseModel):
    """One event of a job.

    Attributes:
        number: rises; an event's number never changes.
        state: the job's state from this event on.
        at: seconds since the epoch.
        progress: what the operation said, or None for a change of state.
        answer: of the terminal event only.
    """

    number: int
    state: JobState
    at: float
    progress: dict[str, Any] | None = None
    answer: JobAnswer | None = None

    @classmethod
    def of(cls, recorded: RecordedEvent) -> "JobEventView":
        """The event as it is shown."""
        event = recorded.event
        return cls(
            number=event.number,
            state=event.state,
            at=recorded.at,
            progress=event.progress,
            answer=event.answer,
        )


async def job_events(service: Service, job_id: str, last_seen: int | None) -> Response:
    """A job's events since its last retry, or since the last one that the client saw.

    Raises:
        NotFound: no such job.
    """
    job = await service.jobs.get(job_id)
    if job.state.is_terminal and last_seen is not None and last_seen >= job.last_number:
        return Response(status_code=204)
    return event_stream(service.jobs.watch(job_id, last_seen or 0))


def event_stream(events: AsyncIterator[RecordedEvent]) -> Response:
    """The events as they come; the connection ends after the terminal one."""

    async def lines() -> AsyncIterator[ServerSentEvent]:
        async for recorded in events:
            view = JobEventView.of(recorded)
            yield ServerSentEvent(
                data=view.model_dump_json(by_alias=True, exclude_none=True),
                id=str(view.number),
                sep="\n",
            )

    return EventSourceResponse(lines(), ping=_PING_S, sep="\n")
