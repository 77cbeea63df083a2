"""Jobs and workers of this server: list, follow, cancel, retry, logs; drain and restart."""

import asyncio
from typing import Annotated, Any

from fastapi import Path, Query, Response
from pydantic import BaseModel, ConfigDict
from sse_starlette import EventSourceResponse

from visiondyno.api.events import SSE_RESPONSES, LastEventId, job_events
from visiondyno.api.problems import problems
from visiondyno.api.routing import Api, JobId, guarded_router
from visiondyno.executors.workers import WorkerCommand, WorkerInfo, WorkerState
from visiondyno.job import JobAnswer, JobState, Policy
from visiondyno.store.records import JobFilter, JobKind, JobRecord

router = guarded_router("jobs")


class JobSummary(BaseModel):
    """A job in a list. Times are seconds since the epoch.

    Attributes:
        attempts: how often it began to run, in all.
        owner: the id of the API key that asked for it.
        progress: what its operation said last.
    """

    id: str
    endpoint: str
    kind: JobKind
    operation: str | None
    state: JobState
    created_at: float
    started_at: float | None
    ended_at: float | None
    attempts: int
    worker_id: str | None
    owner: str | None
    progress: dict[str, Any] | None
    cancel_requested: bool


class JobDetail(JobSummary):
    """A job with its input and how it ended."""

    input: dict[str, Any]
    policy: Policy
    webhook: str | None
    answer: JobAnswer | None


class JobList(BaseModel):
    """Jobs, newest first.

    Attributes:
        next_before: give it as `before` for the next page; None on the last one.
    """

    jobs: list[JobSummary]
    next_before: float | None


class LogLine(BaseModel):
    """One line that a job's operation logged."""

    number: int
    at: float
    text: str


class JobLogs(BaseModel):
    """What a job's operation logged since its last retry, in order."""

    id: str
    state: JobState
    lines: list[LogLine]


class WorkerView(BaseModel):
    """A worker, as its supervisor last told; None where it can't be measured or there is none.

    Attributes:
        seen_at: seconds since the epoch.
        job_id: the job that it runs.
        gpu_memory_used_bytes: of its whole GPU.
        jobs_done: jobs it ended since its supervisor started.
        restarts: processes it lost and got replaced.
        machine: digest of what results depend on; see `WorkerInfo`.
    """

    model_config = ConfigDict(from_attributes=True)

    name: str
    state: WorkerState
    seen_at: float
    host: str
    pid: int | None
    job_id: str | None
    gpu: str | None
    gpu_memory_fraction: float | None
    gpu_memory_used_bytes: int | None
    rss_bytes: int | None
    jobs_done: int
    restarts: int
    machine: str | None
    version: str
    extra: dict[str, Any]


class WorkerList(BaseModel):
    """The workers, by name."""

    workers: list[WorkerView]


class CommandGiven(BaseModel):
    """What a worker was told; it does so at its next look."""

    name: str
    command: WorkerCommand


def summary_of(job: JobRecord) -> JobSummary:
    """A job for a list."""
    return JobSummary(**_facts(job))


def job_of(worker: WorkerInfo) -> str | None:
    """The id of the job that a worker runs; the worker itself knows the transport's."""
    return None if worker.job_id is None else worker.job_id.rpartition(".")[0] or worker.job_id


def _facts(job: JobRecord) -> dict[str, Any]:
    operation = job.request.input.get("operation")
    return {
        "id": job.id,
        "endpoint": job.endpoint,
        "kind": job.kind,
        "operation": operation if isinstance(operation, str) else None,
        "state": job.state,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "attempts": job.attempts,
        "worker_id": job.worker_id,
        "owner": job.owner,
        "progress": job.progress,
        "cancel_requested": job.cancel_requested,
    }


def _detail_of(job: JobRecord) -> JobDetail:
    return JobDetail(
        **_facts(job),
        input=job.request.input,
        policy=job.request.policy,
        webhook=job.request.webhook,
        answer=job.answer,
    )


@router.get("/api/jobs", operation_id="list_jobs")
async def list_jobs(
    service: Api,
    state: JobState | None = None,
    kind: JobKind | None = None,
    endpoint: Annotated[str | None, Query(max_length=64)] = None,
    before: Annotated[float | None, Query(ge=0, le=1e12, allow_inf_nan=False)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> JobList:
    """Jobs, newest first; all of them unless filtered."""
    wanted = JobFilter(endpoint=endpoint, kind=kind, state=state, before=before, limit=limit)
    found = await service.jobs.find(wanted)
    more = found[-1].created_at if len(found) == limit else None
    return JobList(jobs=[summary_of(job) for job in found], next_before=more)


@router.get("/api/jobs/{job_id}", operation_id="get_job", responses=problems(404))
async def get_job(service: Api, job_id: JobId) -> JobDetail:
    """A job with its input, progress and answer."""
    return _detail_of(await service.jobs.get(job_id))


@router.get(
    "/api/jobs/{job_id}/events",
    operation_id="watch_job",
    response_class=EventSourceResponse,
    responses={**SSE_RESPONSES, **problems(404)},
)
async def watch_job(service: Api, job_id: JobId, last_seen: LastEventId = None) -> Response:
    """The job's events as server-sent events, from its last retry to the terminal one."""
    return await job_events(service, job_id, last_seen)


@router.get("/api/jobs/{job_id}/logs", operation_id="job_logs", responses=problems(404))
async def job_logs(service: Api, job_id: JobId) -> JobLogs:
    """The lines that the job's operation logged."""
    job = await service.jobs.get(job_id)
    seen = await asyncio.to_thread(service.store.jobs.events, job_id, job.first_number - 1)
    lines = [
        LogLine(number=one.event.number, at=one.at, text=str(one.event.progress["log"]))
        for one in seen
        if one.event.progress is not None and "log" in one.event.progress
    ]
    return JobLogs(id=job_id, state=job.state, lines=lines)


@router.post("/api/jobs/{job_id}/cancel", operation_id="cancel_job", responses=problems(404))
async def cancel_job(service: Api, job_id: JobId) -> JobDetail:
    """Stop a job that waits or runs; one that ended stays as it is."""
    return _detail_of(await service.jobs.cancel(job_id))


@router.post("/api/jobs/{job_id}/retry", operation_id="retry_job", responses=problems(404, 409))
async def retry_job(service: Api, job_id: JobId) -> JobDetail:
    """Run a FAILED or TIMED_OUT job again under the same id."""
    return _detail_of(await service.jobs.retry(job_id))


@router.get("/api/workers", operation_id="list_workers", tags=["workers"])
async def list_workers(service: Api) -> WorkerList:
    """The workers that were told of in the last 15 s."""
    found: list[WorkerInfo] = list(await service.jobs.workers())
    views = [WorkerView.model_validate(worker) for worker in found]
    for view, worker in zip(views, found, strict=True):
        view.job_id = job_of(worker)
    return WorkerList(workers=views)


@router.post(
    "/api/workers/{name}/{command}",
    operation_id="command_worker",
    tags=["workers"],
    status_code=202,
    responses=problems(404),
)
async def command_worker(
    service: Api,
    name: Annotated[str, Path(pattern=r"^[A-Za-z0-9_.:-]{1,255}$", examples=["host-4242-0"])],
    command: WorkerCommand,
) -> CommandGiven:
    """Tell a worker to `drain` (end its job and take no other), to `resume` or to `restart`.

    A restarted worker gets a new process, after its job.
    """
    await service.jobs.command_worker(name, command)
    return CommandGiven(name=name, command=command)
