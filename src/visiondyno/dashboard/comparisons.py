"""Comparisons: the list, the form that starts one, and one with its progress and report."""

from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from visiondyno.dashboard.comparison_form import (
    SCENARIOS,
    ComparisonForm,
    data_suggestions,
    model_suggestions,
)
from visiondyno.dashboard.forms import read_form
from visiondyno.dashboard.guard import REPORT_POLICY
from visiondyno.dashboard.live import Regions
from visiondyno.dashboard.site import Site, owner_of, see_other, with_retry_after
from visiondyno.errors import NotFound, VisionDynoError
from visiondyno.job import JobState
from visiondyno.report.comparison import Comparison
from visiondyno.report.layout import display_names, headline, subtitle
from visiondyno.store.records import ComparisonRecord, JobFilter, JobKind, JobRecord

SHOWN = 50


class ComparisonPages:
    """`/comparisons` and `/comparisons/{id}`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._comparisons = site.service.comparisons
        self._jobs = site.service.jobs

    async def list_page(self, request: Request) -> Response:
        """`GET /comparisons`."""
        return await self._show_list(request, ComparisonForm())

    async def list_regions(self, _: Request) -> Regions:
        """The list's live part."""
        context = {"rows": await self._rows()}
        html = self._site.pages.region("comparisons_table.html.j2", **context)
        return Regions({"comparisons": html})

    async def start(self, request: Request) -> Response:
        """`POST /comparisons`: start one, or show the form again with what is wrong."""
        form = ComparisonForm.from_form(await read_form(request))
        spec, errors = form.spec()
        if spec is None:
            return await self._show_list(request, replace(form, errors=errors), 422)
        try:
            record = await self._comparisons.submit(spec, owner=owner_of(request), fresh=form.fresh)
        except VisionDynoError as error:
            wrong = replace(form, errors={"form": error.message})
            return with_retry_after(await self._show_list(request, wrong, error.http_status), error)
        return see_other(f"/comparisons/{record.id}")

    async def page(self, request: Request) -> Response:
        """`GET /comparisons/{id}`."""
        context = await self._one(request)
        return self._site.show(request, "comparison.html.j2", **context)

    async def regions(self, request: Request) -> Regions:
        """The comparison's live part: its progress, then its report."""
        context = await self._one(request)
        html = self._site.pages.region("comparison_body.html.j2", **context)
        return Regions({"comparison": html}, ended=not context["open"])

    async def report(self, request: Request) -> Response:
        """`GET /comparisons/{id}/report`: the report as a page of its own."""
        html = await self._comparisons.report_html(_id(request))
        return HTMLResponse(html, headers={"Content-Security-Policy": REPORT_POLICY})

    async def delete(self, request: Request) -> Response:
        """`POST /comparisons/{id}/delete`."""
        await self._comparisons.delete(_id(request))
        return see_other("/comparisons", "deleted")

    async def _show_list(
        self, request: Request, form: ComparisonForm, status: int = 200
    ) -> Response:
        return self._site.show(
            request,
            "comparisons.html.j2",
            status=status,
            form=form,
            rows=await self._rows(),
            scenarios=SCENARIOS,
            models=model_suggestions(),
            datasets=data_suggestions(),
        )

    async def _rows(self) -> list[dict[str, Any]]:
        records = await self._comparisons.find(SHOWN)
        wanted = JobFilter(kind=JobKind.BENCHMARK, limit=4 * SHOWN)
        jobs = {job.id: job for job in await self._jobs.find(wanted)}
        return [
            {
                "record": record,
                "state": _state(record, jobs.get(record.id)),
                "models": record.spec.get("models", ()),
                "data": record.spec.get("data", ""),
            }
            for record in records
        ]

    async def _one(self, request: Request) -> dict[str, Any]:
        record = await self._comparisons.get(_id(request))
        job = await self._job(record)
        state = _state(record, job)
        context = {
            "record": record,
            "job": job,
            "state": state,
            "open": record.comparison is None and not _is_lost(job),
            "result": None,
        }
        if record.comparison is None:
            return context
        result = Comparison.model_validate(record.comparison)
        names = display_names(result.models)
        return {
            **context,
            "result": result,
            "names": names,
            "headline": headline(result),
            "subtitle": subtitle(result),
        }

    async def _job(self, record: ComparisonRecord) -> JobRecord | None:
        try:
            return await self._jobs.get(record.id)
        except NotFound:
            return None  # one from the cache has no job of its own


def _id(request: Request) -> str:
    text: str = request.path_params["comparison_id"]
    return text


def _is_lost(job: JobRecord | None) -> bool:
    """Whether no result will come. One of a COMPLETED job comes a moment after the job's end."""
    return job is not None and job.state.is_terminal and job.state != JobState.COMPLETED


def _state(record: ComparisonRecord, job: JobRecord | None) -> JobState:
    if record.comparison is not None:
        return JobState.COMPLETED
    return job.state if job is not None else JobState.IN_QUEUE
