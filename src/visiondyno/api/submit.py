"""Model submissions to evaluation tasks, and their leaderboards."""

from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel

from visiondyno.api.auth import Key, Owner
from visiondyno.api.jobs import job_of
from visiondyno.api.problems import problems
from visiondyno.api.routing import Api, IdempotencyKey, guarded_router
from visiondyno.api.uploads import Upload
from visiondyno.errors import Forbidden, NotFound
from visiondyno.executors.workers import WorkerState
from visiondyno.job import JobState
from visiondyno.service import Service
from visiondyno.store.records import KeyScope, SubmissionRecord, SubmissionState

router = guarded_router("submissions")
open_router = APIRouter(tags=["submissions"])

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "name": {
                            "type": "string",
                            "description": "What the leaderboard shows; the file's name without "
                            "it. It must stand before the file.",
                        },
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "One self-contained .onnx file.",
                        },
                    },
                }
            }
        },
    }
}


class SubmissionView(BaseModel):
    """A submission.

    Attributes:
        score: the task's score on the split that ranks, of a completed one.
        metrics: measures by name.
        error: why it failed, in a sentence.
        rank: its place on the leaderboard now; None while it has none.
    """

    submission_id: str
    status: SubmissionState
    score: float | None
    metrics: dict[str, Any]
    error: str | None
    rank: int | None


class LeaderboardRowView(BaseModel):
    """One row of a leaderboard.

    Attributes:
        rank: tied rows share it.
        low, high: the score's 95 % interval.
        tied_with: names of the other rows of its rank: scores that can't be told apart.
        submitted_at: seconds since the epoch.
    """

    rank: int
    name: str
    score: float
    low: float | None
    high: float | None
    tied_with: list[str]
    submitted_at: float
    submission_id: str


class LeaderboardView(BaseModel):
    """The best submission of each name."""

    task: str
    rows: list[LeaderboardRowView]


class QueueWorker(BaseModel):
    """A worker; `gpu` and `memory_fraction` are None where it uses none or has no limit."""

    id: str
    state: WorkerState
    job: str | None
    gpu: str | None
    memory_fraction: float | None


class QueueStatus(BaseModel):
    """What waits; `oldest_age_s` is None where nothing does."""

    queue_length: int
    workers: list[QueueWorker]
    oldest_age_s: float | None


class SubmitHealth(BaseModel):
    """That submissions are taken, and for which tasks."""

    status: str
    tasks: list[str]


TaskName = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="The task.", examples=["task2"])
]
SubmissionId = Annotated[
    str,
    Path(pattern=r"^sub_[0-9]{1,12}_[0-9a-f]{8}$", examples=["sub_1770321145_69dc972f"]),
]


@open_router.get("/submit/health", operation_id="submit_health")
async def submit_health(service: Api) -> SubmitHealth:
    """Whether submissions are taken. Needs no key."""
    return SubmitHealth(status="ok", tasks=sorted(service.submissions.tasks))


@router.get("/submit/queue/status", operation_id="queue_status")
async def queue_status(service: Api) -> QueueStatus:
    """What waits, for how long, and who works."""
    counts = await service.jobs.counts()
    workers = [
        QueueWorker(
            id=worker.name,
            state=worker.state,
            job=job_of(worker),
            gpu=worker.gpu,
            memory_fraction=worker.gpu_memory_fraction,
        )
        for worker in await service.jobs.workers()
    ]
    return QueueStatus(
        queue_length=counts[JobState.IN_QUEUE],
        workers=workers,
        oldest_age_s=await service.jobs.oldest_waiting_s(),
    )


@router.post(
    "/submit/{task}",
    operation_id="submit_model",
    status_code=202,
    openapi_extra=_FORM,
    responses=problems(400, 404, 409, 415, 507),
)
async def submit_model(
    request: Request, service: Api, task: TaskName, owner: Owner, key: IdempotencyKey = None
) -> SubmissionView:
    """Hand in a model. It is checked, queued, and scored in a sandbox."""
    _known_task(service, task)
    upload = Upload(request, file_field="file", fields=("name",))
    await upload.open()
    name = upload.fields.get("name") or PurePosixPath(upload.file_name).stem
    record = await service.submissions.submit(
        task, upload.chunks(), upload.file_name, name=name, owner=owner, idempotency_key=key
    )
    return await _view(service, record)


@router.get(
    "/submit/{task}/status/{submission_id}",
    operation_id="submission_status",
    responses=problems(404),
)
async def submission_status(
    service: Api, task: TaskName, submission_id: SubmissionId, key: Key
) -> SubmissionView:
    """How a submission stands. A key of scope `submit` sees its own only."""
    _known_task(service, task)
    record = await service.submissions.get(task, submission_id)
    if key is not None and key.scope is KeyScope.SUBMIT and record.owner != key.id:
        raise NotFound(f"No submission to {task} has the id '{submission_id}'.")
    return await _view(service, record)


@router.delete(
    "/submit/{task}/status/{submission_id}",
    operation_id="delete_submission",
    status_code=204,
    responses=problems(404),
)
async def delete_submission(
    service: Api, task: TaskName, submission_id: SubmissionId, key: Key
) -> None:
    """Take a submission off the leaderboard and forget it; one that runs is stopped.

    Not for keys of scope `submit`: whose submissions are counted can't make them uncounted.
    """
    _known_task(service, task)
    if key is not None and key.scope is KeyScope.SUBMIT:
        raise Forbidden(
            f"The API key '{key.name}' has the scope 'submit' and can't delete submissions; ask "
            "whoever runs the server."
        )
    await service.submissions.delete(task, submission_id)


@router.get("/submit/{task}/leaderboard", operation_id="leaderboard", responses=problems(404))
async def leaderboard(service: Api, task: TaskName) -> LeaderboardView:
    """The best submission of each name, by rank; scores that can't be told apart share one."""
    _known_task(service, task)
    rows = [
        LeaderboardRowView.model_validate(row, from_attributes=True)
        for row in await service.submissions.leaderboard(task)
    ]
    return LeaderboardView(task=task, rows=rows)


def _known_task(service: Service, task: str) -> None:
    if task not in service.submissions.tasks:
        known = ", ".join(sorted(service.submissions.tasks)) or "none"
        raise NotFound(f"No evaluation task is named '{task}'; this server has: {known}.")


async def _view(service: Service, record: SubmissionRecord) -> SubmissionView:
    return SubmissionView(
        submission_id=record.id,
        status=record.state,
        score=record.score,
        metrics=record.metrics,
        error=record.error,
        rank=await service.submissions.rank_of(record),
    )
