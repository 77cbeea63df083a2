"""Comparisons: asked for, followed, read; the same comparison twice is run once."""

from typing import Annotated, Any

from fastapi import Body, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from sse_starlette import EventSourceResponse

from visiondyno.api.auth import Owner
from visiondyno.api.events import SSE_RESPONSES, LastEventId, event_stream, job_events
from visiondyno.api.problems import problems
from visiondyno.api.routing import Api, IdempotencyKey, JobId, guarded_router
from visiondyno.errors import NotFound
from visiondyno.job import JobAnswer, JobError, JobEvent, JobState
from visiondyno.service import Service
from visiondyno.specs.operations import BenchmarkInput
from visiondyno.store.records import ComparisonRecord, JobRecord, RecordedEvent

router = guarded_router("comparisons")

_EXAMPLES: dict[str, Any] = {
    "two detectors": {
        "summary": "The two shipped detectors on synthetic street scenes",
        "value": {
            "models": ["visiondyno:street-n", "visiondyno:street-s"],
            "data": "street:demo",
            "classes": ["car"],
            "scenarios": ["single-stream"],
            "duration_s": 2,
        },
    }
}


class Links(BaseModel):
    """Where a comparison can be read: itself, its events, its report."""

    self: str
    events: str
    report: str


class ComparisonAccepted(BaseModel):
    """A comparison that was asked for.

    Attributes:
        cached_from: the comparison whose stored result answers this one; None if it is run.
    """

    id: str
    status: JobState
    links: Links
    cached_from: str | None


class ComparisonView(ComparisonAccepted):
    """A comparison.

    Attributes:
        created_at: seconds since the epoch.
        spec: what was asked for.
        progress: what the operation said last.
        comparison: `visiondyno.comparison/1`, once it is done.
        error: why it failed.
    """

    created_at: float
    spec: dict[str, Any]
    progress: dict[str, Any] | None
    comparison: dict[str, Any] | None
    error: JobError | None


class ComparisonList(BaseModel):
    """Comparisons, newest first."""

    comparisons: list[ComparisonAccepted]


@router.post(
    "/api/benchmark",
    operation_id="submit_benchmark",
    status_code=202,
    responses=problems(400, 409, 507),
)
async def submit_benchmark(
    service: Api,
    owner: Owner,
    spec: Annotated[BenchmarkInput, Body(openapi_examples=_EXAMPLES)],
    key: IdempotencyKey = None,
    fresh: Annotated[bool, Query(description="Run it even if its result is stored.")] = False,
) -> ComparisonAccepted:
    """Compare models on one data set.

    The same models, data, settings and machine as before: the stored result answers, and
    `cached_from` names it.
    """
    record = await service.comparisons.submit(spec, owner=owner, idempotency_key=key, fresh=fresh)
    return ComparisonAccepted(**await _facts(service, record))


@router.get("/api/benchmark", operation_id="list_benchmarks")
async def list_benchmarks(
    service: Api, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> ComparisonList:
    """Comparisons, newest first."""
    found = await service.comparisons.find(limit)
    return ComparisonList(
        comparisons=[ComparisonAccepted(**await _facts(service, record)) for record in found]
    )


@router.get("/api/benchmark/{comparison_id}", operation_id="get_benchmark", responses=problems(404))
async def get_benchmark(service: Api, comparison_id: JobId) -> ComparisonView:
    """A comparison: how it stands, and its result once it is done."""
    record = await service.comparisons.get(comparison_id)
    job = await _job_of(service, record)
    return ComparisonView(
        **await _facts(service, record),
        created_at=record.created_at,
        spec=record.spec,
        progress=None if job is None else job.progress,
        comparison=record.comparison or _output_of(job),
        error=None if job is None or job.answer is None else job.answer.error,
    )


@router.delete(
    "/api/benchmark/{comparison_id}",
    operation_id="delete_benchmark",
    status_code=204,
    responses=problems(404),
)
async def delete_benchmark(service: Api, comparison_id: JobId) -> None:
    """Forget a comparison and its result."""
    await service.comparisons.delete(comparison_id)


@router.get(
    "/api/benchmark/{comparison_id}/report.html",
    operation_id="benchmark_report",
    response_class=HTMLResponse,
    responses=problems(404, 409),
)
async def benchmark_report(service: Api, comparison_id: JobId) -> HTMLResponse:
    """The comparison as a page in one file."""
    return HTMLResponse(await service.comparisons.report_html(comparison_id))


@router.get(
    "/api/benchmark/{comparison_id}/events",
    operation_id="watch_benchmark",
    response_class=EventSourceResponse,
    responses={**SSE_RESPONSES, **problems(404)},
)
async def watch_benchmark(
    service: Api, comparison_id: JobId, last_seen: LastEventId = None
) -> Response:
    """The comparison's events as server-sent events; of a stored result there is the last one."""
    record = await service.comparisons.get(comparison_id)
    if await _job_of(service, record) is not None:
        return await job_events(service, comparison_id, last_seen)
    if last_seen:
        return Response(status_code=204)
    return event_stream(_stored_events(record))


async def _stored_events(record: ComparisonRecord) -> Any:
    answer = JobAnswer(
        id=record.id, status=JobState.COMPLETED, output={"comparison": record.comparison}
    )
    event = JobEvent(job_id=record.id, number=1, state=JobState.COMPLETED, answer=answer)
    yield RecordedEvent(event=event, at=record.created_at)


async def _job_of(service: Service, record: ComparisonRecord) -> JobRecord | None:
    """The job that runs or ran the comparison; None where a stored result answers it."""
    try:
        return await service.jobs.get(record.id)
    except NotFound:
        return None


def _output_of(job: JobRecord | None) -> dict[str, Any] | None:
    """The result of a job that ended a moment ago, before it is kept as a comparison's."""
    output = None if job is None or job.answer is None else job.answer.output
    result = (output or {}).get("comparison")
    return result if isinstance(result, dict) else None


async def _facts(service: Service, record: ComparisonRecord) -> dict[str, Any]:
    job = await _job_of(service, record)
    address = f"/api/benchmark/{record.id}"
    return {
        "id": record.id,
        "status": JobState.COMPLETED if job is None else job.state,
        "links": Links(self=address, events=f"{address}/events", report=f"{address}/report.html"),
        "cached_from": record.cached_from,
    }
