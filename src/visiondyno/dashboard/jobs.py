"""Lists of jobs, one job, and what can be done to it."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import urlencode

from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from visiondyno.dashboard import live
from visiondyno.dashboard.live import Regions
from visiondyno.dashboard.site import Site, base_of, see_other
from visiondyno.errors import SpecError, Unavailable, VisionDynoError
from visiondyno.job import JobState
from visiondyno.store.records import JobFilter, JobKind, JobRecord, RecordedEvent

PAGE = 50

LOG_ROWS = 300
"""Events a job's page shows at once; the rest is one link away."""

Choice = TypeVar("Choice", bound=StrEnum)


class JobPages:
    """`/jobs` and `/jobs/{id}`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._jobs = site.service.jobs

    async def list_page(self, request: Request) -> Response:
        """`GET /jobs?state=&kind=&before=`."""
        return self._site.show(
            request,
            "jobs.html.j2",
            states=list(JobState),
            kinds=list(JobKind),
            live_query=urlencode(_filters(request)),
            **await self._listed(request),
        )

    async def list_regions(self, request: Request) -> Regions:
        """The list's live part."""
        context = await self._listed(request)
        return Regions({"jobs": self._site.pages.region("jobs_table.html.j2", **context)})

    async def page(self, request: Request) -> Response:
        """`GET /jobs/{id}`; `?events=all` shows them all."""
        return await self._show(request)

    async def cancel(self, request: Request) -> Response:
        """`POST /jobs/{id}/cancel`."""
        try:
            await self._jobs.cancel(_id(request))
        except VisionDynoError as error:
            return await self._show(request, error)
        return see_other(f"/jobs/{_id(request)}", "cancel")

    async def retry(self, request: Request) -> Response:
        """`POST /jobs/{id}/retry`."""
        try:
            await self._jobs.retry(_id(request))
        except VisionDynoError as error:
            return await self._show(request, error)
        return see_other(f"/jobs/{_id(request)}", "retry")

    async def purge(self, _: Request) -> Response:
        """`POST /jobs/purge`: cancel all that waits."""
        await self._jobs.purge(self._site.service.settings.endpoint)
        return see_other("/jobs", "purged")

    async def follow(self, request: Request) -> AsyncGenerator[ServerSentEvent, None]:
        """The job's state and new events, until it has ended."""
        await self._jobs.get(_id(request))  # an unknown one is answered before a stream begins
        header = request.headers.get("last-event-id", "")
        given = header or request.query_params.get("after", "")
        return self._follow(_id(request), int(given[:18]) if given.isdecimal() else 0)

    async def _follow(self, job_id: str, after: int) -> AsyncGenerator[ServerSentEvent, None]:
        earlier = await self._events(job_id)
        moves = _moves([event for event in earlier if event.event.number <= after])
        yield await self._told(job_id, moves, [])
        async for batch in live.batches(self._jobs.watch(job_id, after)):
            moves = _moves([*moves, *batch])
            yield await self._told(job_id, moves, batch)
        yield live.event("end", {})

    async def _told(
        self, job_id: str, moves: Sequence[RecordedEvent], batch: Sequence[RecordedEvent]
    ) -> ServerSentEvent:
        context = await self._of_job(await self._jobs.get(job_id), moves, batch)
        render = self._site.pages.region
        names = ("state", "progress", "result")
        data: dict[str, Any] = {
            "at": time.time(),
            "regions": {name: render(f"job_{name}.html.j2", **context) for name in names},
        }
        if batch:
            data["rows"] = render("job_rows.html.j2", **context)
        return live.event("events", data, batch[-1].event.number if batch else None)

    async def _show(self, request: Request, error: VisionDynoError | None = None) -> Response:
        record = await self._jobs.get(_id(request))
        events = await self._events(record.id)
        shown = events if request.query_params.get("events") == "all" else events[-LOG_ROWS:]
        context = await self._of_job(record, _moves(events), shown)
        return self._site.show(
            request,
            "job.html.j2",
            status=200 if error is None else error.http_status,
            error=error,
            hidden=len(events) - len(shown),
            last=events[-1].event.number if events else 0,
            **context,
        )

    async def _worker_of(self, record: JobRecord) -> str | None:
        """Who runs the job, or ran it: until its end only the workers know."""
        if record.worker_id is not None or record.state != JobState.IN_PROGRESS:
            return record.worker_id
        with suppress(Unavailable):
            for worker in await self._jobs.workers():
                if worker.job_id == record.transport_id:
                    return worker.name
        return None

    async def _of_job(
        self, record: JobRecord, moves: Sequence[RecordedEvent], events: Sequence[RecordedEvent]
    ) -> dict[str, Any]:
        worker = await self._worker_of(record)
        return {"job": record, "moves": moves, "events": events, "worker": worker}

    async def _events(self, job_id: str) -> list[RecordedEvent]:
        return await self._jobs.recorder.read(self._site.service.store.jobs.events, job_id)

    async def _listed(self, request: Request) -> dict[str, Any]:
        given = _filters(request)
        wanted = JobFilter(
            state=_choice(JobState, given.get("state"), "state"),
            kind=_choice(JobKind, given.get("kind"), "kind"),
            before=_moment(given.get("before")),
            limit=PAGE + 1,
        )
        found = await self._jobs.find(wanted)
        shown = found[:PAGE]
        older = ""
        if len(found) > PAGE:
            older = urlencode({**given, "before": repr(shown[-1].created_at)})
        newest = urlencode({name: text for name, text in given.items() if name != "before"})
        return {
            "jobs": shown,
            "wanted": wanted,
            "older": older,
            "newest": newest,
            "base": base_of(request),
        }


def _id(request: Request) -> str:
    text: str = request.path_params["job_id"]
    return text


def _moves(events: Sequence[RecordedEvent]) -> list[RecordedEvent]:
    """The events at which the state changed."""
    moves: list[RecordedEvent] = []
    for event in events:
        if not moves or event.event.state != moves[-1].event.state:
            moves.append(event)
    return moves


def _filters(request: Request) -> dict[str, str]:
    names = ("state", "kind", "before")
    return {name: request.query_params[name] for name in names if request.query_params.get(name)}


def _choice(kind: type[Choice], text: str | None, name: str) -> Choice | None:
    if text is None:
        return None
    try:
        return kind(text)
    except ValueError as error:
        known = ", ".join(kind)
        raise SpecError(f"No {name} is called '{text[:60]}'; take one of {known}.") from error


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise SpecError(
            f"'before' is a number of seconds since 1970, not '{text[:60]}'; go back to the list."
        ) from error
