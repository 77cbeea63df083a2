"""The job API of RunPod serverless under /v2: any client of theirs works against it.

What they promise is in https://docs.runpod.io/serverless/endpoints/operation-reference.
"""

import asyncio
from collections import OrderedDict
from typing import Annotated, Any

from fastapi import Body, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from visiondyno.api.auth import Owner
from visiondyno.api.problems import problems
from visiondyno.api.routing import Api, IdempotencyKey, JobId, guarded_router
from visiondyno.errors import NotFound
from visiondyno.executors.workers import WorkerInfo, WorkerState
from visiondyno.job import JobAnswer, JobRequest, JobState
from visiondyno.service import Service
from visiondyno.store.records import JobKind, JobRecord

# How long after its end a job's result can be had here; the store keeps it.
_RETENTION_S = {JobKind.RUN: 30 * 60.0, JobKind.RUNSYNC: 60.0}
_WAIT_MS = 90_000
_STREAM_ITEMS = 1000
_STREAMS_KEPT = 10_000

_EXAMPLES: dict[str, Any] = {
    "predict": {
        "summary": "Find objects in an image",
        "value": {
            "input": {
                "operation": "predict",
                "model": "visiondyno:street-n",
                "images": ["BASE64 OF A JPEG OR PNG FILE"],
            }
        },
    },
    "evaluate": {
        "summary": "Score a model, at most ten minutes long",
        "value": {
            "input": {
                "operation": "evaluate",
                "model": "visiondyno:street-n",
                "data": "street:demo",
            },
            "policy": {"executionTimeout": 600000},
        },
    },
}

router = guarded_router("jobs (RunPod's API)")

JobBody = Annotated[JobRequest, Body(openapi_examples=_EXAMPLES)]


class Accepted(BaseModel):
    """A job's id and state."""

    id: str
    status: JobState


class StreamItem(BaseModel):
    """One thing that a job told: a progress event's content, or its output at the end."""

    output: dict[str, Any]


class StreamAnswer(BaseModel):
    """What is new since the last read."""

    status: JobState
    stream: list[StreamItem]


class Purged(BaseModel):
    """How many waiting jobs were cancelled."""

    removed: int
    status: str = "completed"


class HealthJobs(BaseModel):
    """Jobs by state; `failed` counts those that ran out of time too."""

    model_config = ConfigDict(populate_by_name=True)

    completed: int
    failed: int
    in_progress: Annotated[int, Field(alias="inProgress")]
    in_queue: Annotated[int, Field(alias="inQueue")]
    retried: int


class HealthWorkers(BaseModel):
    """Workers by state; `ready` are those that are idle or running."""

    idle: int
    initializing: int
    ready: int
    running: int
    throttled: int
    unhealthy: int


class EndpointHealth(BaseModel):
    """RunPod's health of an endpoint."""

    jobs: HealthJobs
    workers: HealthWorkers


class StreamCursors:
    """How far each job's stream was read. Kept in memory: after a restart it begins anew."""

    def __init__(self) -> None:
        self._read: OrderedDict[str, int] = OrderedDict()

    def of(self, job: JobRecord) -> int:
        """Number of the last event that was read since the job's last retry."""
        return max(self._read.get(job.id, 0), job.first_number - 1)

    def advance(self, job: JobRecord, number: int) -> None:
        """Note that it was read to there."""
        self._read[job.id] = number
        self._read.move_to_end(job.id)
        if len(self._read) > _STREAMS_KEPT:
            self._read.popitem(last=False)


async def _known_endpoint(
    service: Api,
    endpoint: Annotated[str, Path(description="The endpoint's name.", examples=["default"])],
) -> str:
    if endpoint != service.settings.endpoint:
        raise NotFound(
            f"No endpoint is named '{endpoint}' here; this server's is "
            f"'{service.settings.endpoint}'."
        )
    return endpoint


Endpoint = Annotated[str, Depends(_known_endpoint)]


async def _known_job(
    request: Request, service: Api, endpoint: Endpoint, job_id: JobId
) -> JobRecord:
    job = await service.jobs.get(job_id)
    kept_s = _RETENTION_S.get(job.kind)
    expired = job.ended_at is not None and (
        request.app.state.clock() >= job.ended_at + (kept_s or 0.0)
    )
    if kept_s is None or job.endpoint != endpoint or expired:
        raise NotFound(
            f"No job has the id '{job_id}' at this endpoint. Results can be had for 30 minutes "
            "after a run and 1 minute after a runsync; /api/jobs has them for longer."
        )
    return job


Job = Annotated[JobRecord, Depends(_known_job)]


def answer_of(job: JobRecord) -> JobAnswer:
    """How the job stands, in RunPod's shape."""
    if job.answer is not None:
        return job.answer
    waited_ms = None
    if job.started_at is not None:
        waited_ms = max(0, round((job.started_at - job.created_at) * 1000))
    return JobAnswer(id=job.id, status=job.state, delay_time_ms=waited_ms, worker_id=job.worker_id)


@router.post("/v2/{endpoint}/run", operation_id="run", responses=problems(400, 404, 409, 507))
async def run(
    service: Api, endpoint: Endpoint, owner: Owner, body: JobBody, key: IdempotencyKey = None
) -> Accepted:
    """Submit a job and answer at once. Bodies of at most 10 MB."""
    job = await service.jobs.submit(
        body, kind=JobKind.RUN, endpoint=endpoint, owner=owner, idempotency_key=key
    )
    return Accepted(id=job.id, status=job.state)


@router.post(
    "/v2/{endpoint}/runsync",
    operation_id="runsync",
    response_model_exclude_none=True,
    responses=problems(400, 404, 409, 507),
)
async def runsync(
    service: Api,
    endpoint: Endpoint,
    owner: Owner,
    body: JobBody,
    key: IdempotencyKey = None,
    wait: Annotated[int, Query(ge=1000, le=300_000, description="Milliseconds.")] = _WAIT_MS,
) -> JobAnswer:
    """Submit a job and wait for its answer; one that isn't done by then is answered as it stands.

    Bodies of at most 20 MB.
    """
    job = await service.jobs.submit(
        body, kind=JobKind.RUNSYNC, endpoint=endpoint, owner=owner, idempotency_key=key
    )
    return answer_of(await service.jobs.wait(job.id, wait / 1000))


@router.get(
    "/v2/{endpoint}/status/{job_id}",
    operation_id="status",
    response_model_exclude_none=True,
    responses=problems(404),
)
async def status(job: Job) -> JobAnswer:
    """How a job stands, and its output or error once it ended."""
    return answer_of(job)


@router.get("/v2/{endpoint}/stream/{job_id}", operation_id="stream", responses=problems(404))
async def stream(request: Request, service: Api, job: Job) -> StreamAnswer:
    """What the job told since this was last asked: its progress, and at the end its output.

    Each read takes what it answers. `GET /api/jobs/{job_id}/events` gives all of it to everyone.
    """
    cursors: StreamCursors = request.app.state.streams
    seen = await asyncio.to_thread(service.store.jobs.events, job.id, cursors.of(job))
    items: list[StreamItem] = []
    number = cursors.of(job)
    for recorded in seen:
        if len(items) == _STREAM_ITEMS:
            break
        number = recorded.event.number
        told = recorded.event.answer.output if recorded.event.answer else recorded.event.progress
        if told is not None:
            items.append(StreamItem(output=told))
    cursors.advance(job, number)
    return StreamAnswer(status=seen[-1].event.state if seen else job.state, stream=items)


@router.post("/v2/{endpoint}/cancel/{job_id}", operation_id="cancel", responses=problems(404))
async def cancel(service: Api, job: Job) -> Accepted:
    """Stop a job that waits or runs; one that ended stays as it is."""
    cancelled = await service.jobs.cancel(job.id)
    return Accepted(id=cancelled.id, status=cancelled.state)


@router.post("/v2/{endpoint}/retry/{job_id}", operation_id="retry", responses=problems(404, 409))
async def retry(service: Api, job: Job) -> Accepted:
    """Run a FAILED or TIMED_OUT job again under the same id; its earlier answer goes."""
    again = await service.jobs.retry(job.id)
    return Accepted(id=again.id, status=again.state)


@router.post("/v2/{endpoint}/purge-queue", operation_id="purge_queue", responses=problems(404))
async def purge_queue(service: Api, endpoint: Endpoint) -> Purged:
    """Cancel every job of the endpoint that waits; what runs goes on."""
    return Purged(removed=await service.jobs.purge(endpoint))


@router.get("/v2/{endpoint}/health", operation_id="endpoint_health", responses=problems(404))
async def endpoint_health(service: Api, endpoint: Endpoint) -> EndpointHealth:
    """Jobs and workers of the endpoint, in numbers."""
    counts = await service.jobs.counts(endpoint)
    retried = await asyncio.to_thread(service.store.jobs.count_retried, endpoint)
    jobs = HealthJobs(
        completed=counts[JobState.COMPLETED],
        failed=counts[JobState.FAILED] + counts[JobState.TIMED_OUT],
        in_progress=counts[JobState.IN_PROGRESS],
        in_queue=counts[JobState.IN_QUEUE],
        retried=retried,
    )
    return EndpointHealth(jobs=jobs, workers=await _workers(service))


async def _workers(service: Service) -> HealthWorkers:
    workers = await service.jobs.workers()
    if not workers:  # an executor that doesn't know its workers one by one knows how many
        health = await service.executor.health()
        return _worker_counts(
            {WorkerState.IDLE: health.workers_ready, WorkerState.BUSY: health.workers_busy}
        )
    return _worker_counts(_by_state(list(workers)))


def _by_state(workers: list[WorkerInfo]) -> dict[WorkerState, int]:
    states = [WorkerState.BUSY if worker.job_id is not None else worker.state for worker in workers]
    return {state: states.count(state) for state in WorkerState}


def _worker_counts(counts: dict[WorkerState, int]) -> HealthWorkers:
    idle, running = counts.get(WorkerState.IDLE, 0), counts.get(WorkerState.BUSY, 0)
    return HealthWorkers(
        idle=idle,
        initializing=counts.get(WorkerState.STARTING, 0),
        ready=idle + running,
        running=running,
        throttled=counts.get(WorkerState.DRAINING, 0) + counts.get(WorkerState.DRAINED, 0),
        unhealthy=counts.get(WorkerState.BACKING_OFF, 0),
    )
