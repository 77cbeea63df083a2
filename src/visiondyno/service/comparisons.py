"""Comparisons as jobs, kept, and found again by what their result depends on."""

import asyncio
import datetime
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from visiondyno.errors import Conflict, NotFound, SpecError, VisionDynoError
from visiondyno.job import JobRequest, JobState, Policy, new_job_id
from visiondyno.report.comparison import Comparison
from visiondyno.service.content import content_key, contradiction, machine_of
from visiondyno.service.jobs import JobService
from visiondyno.service.requests import digest_of
from visiondyno.settings import Settings
from visiondyno.specs.operations import BenchmarkInput, parse
from visiondyno.store.base import ComparisonStore
from visiondyno.store.records import (
    ComparisonRecord,
    JobFilter,
    JobKind,
    JobRecord,
    RecordedEvent,
)

_LOG = logging.getLogger(__name__)
_LOOK_BACK = 100
"""Jobs and comparisons looked at when the service starts, newest first."""
_YOUNG_S = 300.0
_IDENTIFY_S = 60.0
"""A data set that takes longer to read isn't waited for: the comparison runs at once."""


class ComparisonService:
    """Comparisons asked for over the API; each is a job with the same id, unless it was found."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobService,
        store: ComparisonStore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._store = store
        self._clock = clock
        self._not_reused: dict[str, str] = {}
        jobs.on_recorded(self._ended)

    async def start(self) -> None:
        """Keep results that were recorded just before the last process ended."""
        recent = JobFilter(kind=JobKind.BENCHMARK, limit=_LOOK_BACK)
        for job in await self._jobs.find(recent):
            await self._keep(job)
        for record in await self.find(_LOOK_BACK):
            if record.comparison is not None or await self._has_job(record.id):
                continue
            # Nobody was told its id. A young one may be another server's, about to get its job.
            if record.created_at < self._clock() - _YOUNG_S:
                await self._jobs.recorder.call(self._store.delete, record.id)

    async def submit(
        self,
        spec: BenchmarkInput,
        *,
        owner: str | None = None,
        idempotency_key: str | None = None,
        fresh: bool = False,
    ) -> ComparisonRecord:
        """Compare, or give the stored result of the same models, data, settings and machine.

        Args:
            spec: what to compare.
            owner: id of the API key that asks.
            idempotency_key: with one, the same request again gives the earlier comparison.
            fresh: run even if a stored result would do.

        Raises:
            SpecError, Conflict, TransportDown, StorageFull: as `JobService.submit`.
        """
        wanted = spec.model_dump(mode="json")
        new_id = new_job_id()
        if idempotency_key is None:
            return await self._create(new_id, spec, owner, fresh=fresh)
        digest = digest_of({"spec": wanted, "fresh": fresh})
        scope = f"comparison:{owner or ''}"
        async with self._jobs.requests.once(scope, idempotency_key, digest, new_id) as bound_id:
            if bound_id != new_id:
                found = await self._jobs.recorder.read(self._store.get, bound_id)
                if found is not None and (found.comparison or await self._has_job(bound_id)):
                    return found
            return await self._create(bound_id, spec, owner, fresh=fresh)

    async def get(self, comparison_id: str) -> ComparisonRecord:
        """The comparison; of one that was run, the job with its id says how far it is.

        Raises:
            NotFound: there is none.
        """
        record = await self._jobs.recorder.read(self._store.get, comparison_id)
        if record is None:
            raise _not_found(comparison_id)
        return record

    async def find(self, limit: int = 50) -> list[ComparisonRecord]:
        """Comparisons, newest first."""
        return await self._jobs.recorder.read(self._store.find, limit)

    async def report_html(self, comparison_id: str) -> str:
        """The report as one HTML page; a stored result says so at its top.

        Raises:
            NotFound: there is no such comparison.
            Conflict: it has no result (yet).
        """
        record = await self.get(comparison_id)
        if record.comparison is None:
            state = (await self._jobs.get(comparison_id)).state
            raise Conflict(
                f"Comparison {comparison_id} has no report: its job is {state}. "
                + ("Start another." if state.is_terminal else "Wait until it is COMPLETED.")
            )
        return await asyncio.to_thread(_render, record)

    async def delete(self, comparison_id: str) -> None:
        """Delete a comparison; one that runs is cancelled.

        Raises:
            NotFound: there is none.
        """
        record = await self.get(comparison_id)
        if record.comparison is None and await self._has_job(comparison_id):
            await self._jobs.cancel(comparison_id)
        if not await self._jobs.recorder.call(self._store.delete, comparison_id):
            raise _not_found(comparison_id)

    # -- within ----------------------------------------------------------------------------------

    async def _create(
        self, new_id: str, spec: BenchmarkInput, owner: str | None, *, fresh: bool
    ) -> ComparisonRecord:
        wanted = spec.model_dump(mode="json")
        key, why_not = await self._identify(spec)
        record = ComparisonRecord(new_id, self._clock(), wanted, key, owner=owner)
        if key is not None and not fresh:
            found = await self._jobs.recorder.read(self._store.with_content, key)
            if found is not None:
                assert found.comparison is not None, "the store looks for completed ones"
                marked = _with_note(found.comparison, _cached_text(found))
                record = replace(record, comparison=marked, cached_from=found.id)
                await self._jobs.recorder.call(self._store.save, record)
                return record
        if why_not is not None:
            self._not_reused[new_id] = why_not
        # First the comparison: a job without one would lose its result.
        await self._jobs.recorder.call(self._store.save, record)
        request = JobRequest(input=wanted, policy=self._policy(spec))
        try:
            await self._jobs.submit(request, kind=JobKind.BENCHMARK, owner=owner, job_id=new_id)
        except VisionDynoError:
            await self._jobs.recorder.call(self._store.delete, new_id)
            raise
        return record

    def _policy(self, spec: BenchmarkInput) -> Policy:
        """A comparison takes as long as its models may; their own limits stop them."""
        models_ms = math.ceil(len(spec.models) * spec.repeat * spec.time_limit_s * 1000)
        return Policy(execution_timeout_ms=self._settings.execution_timeout_ms + models_ms)

    async def _identify(self, spec: BenchmarkInput) -> tuple[str | None, str | None]:
        """The content key, or None and the reason."""
        try:
            machine = machine_of([worker.machine for worker in await self._jobs.workers()])
            async with asyncio.timeout(_IDENTIFY_S):
                return await asyncio.to_thread(content_key, spec, machine), None
        except TimeoutError:
            return None, "reading the models and the data took too long"
        except VisionDynoError as error:  # the job says what is wrong with them, if it is
            return None, error.message
        except ValueError:
            return None, "the reference model isn't among the compared ones"

    async def _ended(self, job: JobRecord, _: RecordedEvent) -> None:
        await self._keep(job)

    async def _keep(self, job: JobRecord) -> None:
        """Store a completed job's comparison, once."""
        if job.kind != JobKind.BENCHMARK or job.state != JobState.COMPLETED:
            return
        record = await self._jobs.recorder.read(self._store.get, job.id)
        if record is None or record.comparison is not None:
            return
        assert job.answer is not None, "a completed job has an answer"
        result = job.answer.result().get("comparison", {})
        try:
            comparison = parse(Comparison, result, f"The result of job {job.id} isn't a comparison")
        except SpecError as error:
            _LOG.warning("%s", error.message)
            return
        key, why_not = record.content_key, self._not_reused.pop(job.id, None)
        if key is not None:
            spec = BenchmarkInput.model_validate(record.spec)
            why_not = await asyncio.to_thread(contradiction, spec, comparison)
            key = key if why_not is None else None
        if why_not is not None:
            reason = why_not.rstrip(".")
            result = _with_note(result, f"Not kept for later requests like this one: {reason}.")
        kept = replace(record, comparison=result, content_key=key)
        await self._jobs.recorder.call(self._store.save, kept)

    async def _has_job(self, job_id: str) -> bool:
        try:
            await self._jobs.get(job_id)
        except NotFound:
            return False
        return True


def _cached_text(found: ComparisonRecord) -> str:
    at = datetime.datetime.fromtimestamp(found.created_at, datetime.UTC)
    return (
        f"Cached result of comparison {found.id} ({at:%Y-%m-%d %H:%M} UTC): the models, the data, "
        "the settings and the machine are the same. Nothing was measured again."
    )


def _with_note(comparison: dict[str, Any], note: str) -> dict[str, Any]:
    return {**comparison, "notes": [note, *comparison.get("notes", ())]}


def _render(record: ComparisonRecord) -> str:
    from visiondyno.report.html import to_html  # loads the templates' engine

    comparison = Comparison.model_validate(record.comparison)
    return to_html(comparison, comparison.notes[0] if record.cached_from else None)


def _not_found(comparison_id: str) -> NotFound:
    return NotFound(
        f"There is no comparison '{comparison_id:.100}'; ids are what asking for one returned."
    )
