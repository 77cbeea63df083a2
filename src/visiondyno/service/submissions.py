"""Models handed in for evaluation tasks: taken, queued, scored, ranked."""

import asyncio
import datetime
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from visiondyno.blobs.base import BlobStore
from visiondyno.errors import (
    Conflict,
    ModelError,
    NotFound,
    RateLimited,
    SpecError,
    VisionDynoError,
)
from visiondyno.job import JobRequest, JobState, Policy, new_job_id
from visiondyno.runtimes.signatures import LONGEST_SIGNATURE, foreign_format
from visiondyno.service.jobs import JobService
from visiondyno.service.leaderboard import LeaderboardRow, make_leaderboard
from visiondyno.service.requests import digest_of
from visiondyno.service.submission_results import as_scored, as_shown, kept_metrics, split_score
from visiondyno.service.tasks import load_tasks
from visiondyno.settings import Settings
from visiondyno.specs.evaluation_task import EvaluationTask
from visiondyno.specs.operations import ScoreSubmissionInput
from visiondyno.store.base import SubmissionStore
from visiondyno.store.records import (
    JobKind,
    JobRecord,
    RecordedEvent,
    SubmissionRecord,
    SubmissionState,
)

_LOG = logging.getLogger(__name__)
_LOOK_BACK = 1000
"""Submissions looked at when the service starts, newest first."""
_YOUNG_S = 300.0
_LONGEST_NAME = 100
_LONGEST_ERROR = 1000
_DAY_S = 86_400.0
_WAITING = {
    JobState.IN_QUEUE: SubmissionState.QUEUED,
    JobState.IN_PROGRESS: SubmissionState.PROCESSING,
}


class SubmissionService:
    """Submissions and leaderboards. Each submission is a job; its state follows the job's.

    Attributes:
        tasks: by name, read when the service is made.
    """

    def __init__(
        self,
        settings: Settings,
        jobs: JobService,
        store: SubmissionStore,
        blobs: BlobStore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the tasks.

        Raises:
            SpecError: a task's file is wrong.
        """
        self.tasks: dict[str, EvaluationTask] = load_tasks(settings.tasks_dir)
        self._settings = settings
        self._jobs = jobs
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._taking = asyncio.Lock()
        jobs.on_recorded(self._ended)

    async def start(self) -> None:
        """Keep results that were recorded just before the last process ended."""
        for record in await self._jobs.recorder.read(self._store.find, None, None, _LOOK_BACK):
            if record.state == SubmissionState.COMPLETED or record.job_id is None:
                continue
            try:
                await self._keep(await self._jobs.get(record.job_id))
            except NotFound:
                # Its job was never accepted, and neither was it: nobody was told its id. A young
                # one may be another server's, which is about to submit the job.
                if record.created_at < self._clock() - _YOUNG_S:
                    await self._jobs.recorder.call(self._store.delete, record.id)

    async def submit(
        self,
        task: str,
        chunks: AsyncIterator[bytes],
        file_name: str,
        *,
        name: str,
        owner: str | None = None,
        idempotency_key: str | None = None,
    ) -> SubmissionRecord:
        """Take a model for a task and queue it; it is stored when this returns.

        Args:
            task: its name.
            chunks: the file.
            file_name: as the participant calls it.
            name: what the leaderboard shows.
            owner: id of the API key that asks.
            idempotency_key: with one, the same model again gives the earlier submission.

        Raises:
            NotFound: no such task.
            SpecError: the name isn't one.
            ModelError: by its name or its first bytes the file is no ONNX model; nothing is kept.
            TooLarge: it has more bytes than the task takes; nothing is kept.
            Conflict: the deadline has passed, or the idempotency key came with another request.
            RateLimited: the day's submissions are used up.
            StorageFull, TransportDown: it can't be stored just now; it was not accepted.
        """
        found = self._task(task)
        self._check_deadline(found)
        shown = _checked_name(name)
        if not file_name.lower().endswith(".onnx"):
            raise ModelError(
                f"'{file_name:.100}' doesn't end with .onnx; hand in one self-contained ONNX file."
            )
        if idempotency_key is None:
            await self._check_day(found, owner)  # before the bytes are taken
        most = min(found.limits.upload_bytes, self._settings.max_upload_bytes)
        sha256 = await self._blobs.put(_sniffed(chunks, file_name), max_bytes=most)
        record = SubmissionRecord(
            id=f"sub_{int(self._clock())}_{secrets.token_hex(4)}",
            task=task,
            name=shown,
            model_sha256=sha256,
            file_name=file_name,
            state=SubmissionState.QUEUED,
            created_at=self._clock(),
            job_id=new_job_id(),
            owner=owner,
        )
        if idempotency_key is None:
            return await self._create(record)
        digest = digest_of({"task": task, "name": shown, "model": sha256, "file": file_name})
        scope = f"submission:{owner or ''}"
        async with self._jobs.requests.once(scope, idempotency_key, digest, record.id) as bound_id:
            earlier = await self._jobs.recorder.read(self._store.get, bound_id)
            if earlier is not None and await self._job_of(earlier) is not None:
                return await self._shown(earlier)
            return await self._create(replace(record, id=bound_id))

    async def get(self, task: str, submission_id: str) -> SubmissionRecord:
        """The submission as it stands, with the score that may be seen now.

        Raises:
            NotFound: there is no such task, or no such submission to it.
        """
        return await self._shown(await self._get(task, submission_id))

    async def find(
        self, task: str | None = None, limit: int = 100, *, owner: str | None = None
    ) -> list[SubmissionRecord]:
        """Submissions, newest first; of everybody if `owner` is None."""
        records = await self._jobs.recorder.read(self._store.find, task, owner, limit)
        return list(await asyncio.gather(*(self._shown(record) for record in records)))

    async def leaderboard(self, task: str) -> list[LeaderboardRow]:
        """The best submission of each participant and name, in order of rank; see `leaderboard`.

        Raises:
            NotFound: no such task.
        """
        found = self._task(task)
        records = await self._jobs.recorder.read(self._store.ranked, task)
        return await asyncio.to_thread(_rank, records, found, self._clock())

    async def rank_of(self, record: SubmissionRecord) -> int | None:
        """Its rank now; None where it isn't on the leaderboard, or a better one of its name is."""
        if record.state != SubmissionState.COMPLETED or record.task not in self.tasks:
            return None
        rows = await self.leaderboard(record.task)
        return next((row.rank for row in rows if row.submission_id == record.id), None)

    async def delete(self, task: str, submission_id: str) -> None:
        """Delete a submission; one that runs is cancelled. Its blob goes with the next collection.

        Raises:
            NotFound: as `get`.
        """
        record = await self._get(task, submission_id)
        job = await self._job_of(record)
        if job is not None and not job.state.is_terminal:
            await self._jobs.cancel(job.id)
        await self._jobs.recorder.call(self._store.delete, submission_id)

    # -- within ----------------------------------------------------------------------------------

    def _task(self, name: str) -> EvaluationTask:
        if name not in self.tasks:
            known = ", ".join(sorted(self.tasks)) or "none"
            raise NotFound(f"No evaluation task is named '{name:.64}'; there are: {known}.")
        return self.tasks[name]

    def _check_deadline(self, task: EvaluationTask) -> None:
        if task.is_over(self._clock()):
            raise Conflict(
                f"Task {task.name} closed at {task.deadline:%Y-%m-%d %H:%M %Z}; its leaderboard "
                "is final."
            )

    async def _check_day(self, task: EvaluationTask, owner: str | None) -> None:
        now_s = self._clock()
        midnight_s = math.floor(now_s / _DAY_S) * _DAY_S  # UTC
        count = await self._jobs.recorder.read(
            self._store.count_since, task.name, owner, midnight_s
        )
        if count >= task.submissions_per_day:
            until = datetime.datetime.fromtimestamp(midnight_s + _DAY_S, datetime.UTC)
            raise RateLimited(
                f"Task {task.name} takes {task.submissions_per_day} submissions a day, and you "
                f"have handed in {count} today; the next day begins at {until:%Y-%m-%d %H:%M} UTC.",
                retry_after_s=midnight_s + _DAY_S - now_s,
            )

    async def _create(self, record: SubmissionRecord) -> SubmissionRecord:
        task = self.tasks[record.task]
        async with self._taking:  # two at once must not both be the day's last
            self._check_deadline(task)
            await self._check_day(task, record.owner)
            # First the submission: a job without one would lose its result.
            await self._jobs.recorder.call(self._store.save, record)
        try:
            await self._jobs.submit(
                self._request(record, task),
                kind=JobKind.SUBMISSION,
                owner=record.owner,
                job_id=record.job_id,
            )
        except VisionDynoError:
            await self._jobs.recorder.call(self._store.delete, record.id)
            raise
        return record

    def _request(self, record: SubmissionRecord, task: EvaluationTask) -> JobRequest:
        """The job; its own limit leaves room for the data, the sandbox keeps the task's."""
        spec = ScoreSubmissionInput(
            task=task,
            model=f"sha256:{record.model_sha256}",
            file_name=record.file_name,
            blobs_url=self._settings.blobs_url or (self._settings.folder / "blobs").as_uri(),
        )
        limit_ms = self._settings.execution_timeout_ms + math.ceil(task.limits.time_s * 1000)
        return JobRequest(
            input=spec.model_dump(mode="json", by_alias=True),
            policy=Policy(execution_timeout_ms=limit_ms),
        )

    async def _get(self, task: str, submission_id: str) -> SubmissionRecord:
        self._task(task)
        record = await self._jobs.recorder.read(self._store.get, submission_id)
        if record is None or record.task != task:
            raise NotFound(
                f"There is no submission '{submission_id:.100}' to {task}; ids are what handing "
                "one in returned."
            )
        return record

    async def _job_of(self, record: SubmissionRecord) -> JobRecord | None:
        if record.job_id is None:
            return None
        try:
            return await self._jobs.get(record.job_id)
        except NotFound:
            return None

    async def _shown(self, record: SubmissionRecord) -> SubmissionRecord:
        if record.state != SubmissionState.COMPLETED:
            job = await self._job_of(record)
            if job is None:
                return record
            if job.state == JobState.COMPLETED:
                # Its end may not be written down yet: who reads of it finds it ranked too.
                await self._keep(job)
            record = _followed(record, job)
        task = self.tasks.get(record.task)
        if task is None:  # its file is gone: nobody can say what may be shown
            return replace(record, score=None, low=None, high=None, metrics={})
        return as_shown(record, task, self._clock())

    async def _ended(self, job: JobRecord, _: RecordedEvent) -> None:
        await self._keep(job)

    async def _keep(self, job: JobRecord) -> None:
        """Write down how an ended job left its submission."""
        if job.kind == JobKind.SUBMISSION and job.state.is_terminal:
            await self._jobs.recorder.call(self._keep_now, job)

    def _keep_now(self, job: JobRecord) -> None:
        # On the writing thread, from reading to writing: one deleted meanwhile stays deleted.
        record = self._store.of_job(job.id)
        if record is None:
            return
        kept = _followed(record, job)
        task = self.tasks.get(record.task)
        if kept.state == SubmissionState.COMPLETED and task is not None:
            found = split_score(kept, task.ranking_split(self._clock()))
            if found is not None:
                kept = replace(kept, score=found.score, low=found.low, high=found.high)
        if kept != record:
            self._store.save(kept)


def _followed(record: SubmissionRecord, job: JobRecord) -> SubmissionRecord:
    """The submission as its job left it."""
    if not job.state.is_terminal:
        return replace(record, state=_WAITING[job.state], ended_at=None, error=None)
    assert job.answer is not None, "an ended job has an answer"
    ended = replace(record, ended_at=job.ended_at, error=None, metrics={})
    if job.state == JobState.COMPLETED:
        output = job.answer.output or {}
        return replace(ended, state=SubmissionState.COMPLETED, metrics=kept_metrics(output))
    error = job.answer.error
    reason = "The submission was cancelled." if error is None else error.message
    return replace(ended, state=SubmissionState.FAILED, error=reason[:_LONGEST_ERROR])


def _rank(
    records: list[SubmissionRecord], task: EvaluationTask, now_s: float
) -> list[LeaderboardRow]:
    found = (as_scored(record, task, now_s) for record in records)
    return make_leaderboard([one for one in found if one is not None], task.metric.name)


def _checked_name(name: str) -> str:
    shown = " ".join(name.split())
    if not 1 <= len(shown) <= _LONGEST_NAME or not shown.isprintable():
        raise SpecError(
            f"A submission's name has 1 to {_LONGEST_NAME} printable characters; this one has "
            f"{len(shown)}."
        )
    return shown


async def _sniffed(chunks: AsyncIterator[bytes], file_name: str) -> AsyncIterator[bytes]:
    """The chunks, unless they begin as another format's, or there is nothing in them."""
    start = b""
    async for chunk in chunks:
        if len(start) < LONGEST_SIGNATURE:
            start += chunk[:LONGEST_SIGNATURE]
            if (kind := foreign_format(start)) is not None:
                raise ModelError(f"{file_name:.100} isn't ONNX but {kind}; give an ONNX export.")
        yield chunk
    if not start:
        raise ModelError(f"{file_name:.100} is empty (0 bytes); export the model again.")
