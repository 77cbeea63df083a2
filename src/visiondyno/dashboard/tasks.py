"""Evaluation tasks: what each asks for, the upload form, the viewer's submissions, the board."""

import time
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from visiondyno.dashboard.charts import score_bar, score_scale
from visiondyno.dashboard.forms import chunks_of, read_form, text_of
from visiondyno.dashboard.live import Regions
from visiondyno.dashboard.site import (
    Site,
    base_of,
    owner_of,
    see_other,
    viewer_of,
    with_retry_after,
)
from visiondyno.errors import NotFound, SpecError, VisionDynoError
from visiondyno.report.format import number
from visiondyno.service.leaderboard import LeaderboardRow
from visiondyno.specs.evaluation_task import EvaluationTask
from visiondyno.store.records import KeyScope

SHOWN = 30


@dataclass(frozen=True, slots=True)
class BoardRow:
    """A row of a leaderboard with its drawing.

    Attributes:
        rank: `2`, or `2=` where others share it.
    """

    row: LeaderboardRow
    rank: str
    bar: Markup


class TaskPages:
    """`/tasks` and `/tasks/{task}`."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def list_page(self, request: Request) -> Response:
        """`GET /tasks`."""
        tasks = self._site.service.submissions.tasks
        return self._site.show(request, "tasks.html.j2", tasks=list(tasks.values()))

    async def page(self, request: Request) -> Response:
        """`GET /tasks/{task}`."""
        return await self._show(request)

    async def regions(self, request: Request) -> Regions:
        """The board and the viewer's submissions."""
        context = await self._context(request)
        names = ("board", "sent")
        return Regions(
            {name: self._site.pages.region(f"task_{name}.html.j2", **context) for name in names}
        )

    async def submit(self, request: Request) -> Response:
        """`POST /tasks/{task}`: take a model in, or say at the form why not."""
        task = self._task(request)
        name = ""
        try:
            form = await read_form(request, self._largest(task))
            name = text_of(form, "name")
            try:
                await self._take_in(task, name, form.get("file"), owner_of(request))
            finally:
                await form.close()
        except VisionDynoError as error:
            response = await self._show(request, error, name)
            return with_retry_after(response, error)
        return see_other(f"/tasks/{task.name}", "submitted")

    async def _take_in(
        self, task: EvaluationTask, name: str, file: UploadFile | str | None, owner: str | None
    ) -> None:
        if not isinstance(file, UploadFile) or not file.filename:
            raise SpecError("No file came with the form; choose an .onnx file.")
        await self._site.service.submissions.submit(
            task.name,
            chunks_of(file),
            file.filename,
            name=name or file.filename.removesuffix(".onnx"),
            owner=owner,
        )

    async def _show(
        self, request: Request, error: VisionDynoError | None = None, name: str = ""
    ) -> Response:
        return self._site.show(
            request,
            "task.html.j2",
            status=200 if error is None else error.http_status,
            error=error,
            name=name,
            largest_bytes=self._largest(self._task(request)),
            **await self._context(request),
        )

    async def _context(self, request: Request) -> dict[str, Any]:
        task = self._task(request)
        viewer = viewer_of(request)
        only = viewer.id if viewer is not None and viewer.scope == KeyScope.SUBMIT else None
        sent = await self._site.service.submissions.find(task.name, SHOWN, owner=only)
        rows = await self._site.service.submissions.leaderboard(task.name)
        now = time.time()
        return {
            "task": task,
            "sent": sent,
            "board": board_rows(rows),
            "base": base_of(request),
            "over": task.is_over(now),
            "ranks_by": task.ranking_split(now),
        }

    def _largest(self, task: EvaluationTask) -> int:
        return min(self._site.service.settings.max_upload_bytes, task.limits.upload_bytes)

    def _task(self, request: Request) -> EvaluationTask:
        name: str = request.path_params["task"]
        tasks = self._site.service.submissions.tasks
        if name not in tasks:
            known = ", ".join(tasks) or "none"
            raise NotFound(f"There is no evaluation task '{name[:60]}'; there are: {known}.")
        return tasks[name]


def board_rows(rows: list[LeaderboardRow]) -> list[BoardRow]:
    """The rows with their drawings, all on one scale."""
    scale = score_scale([_interval(row) for row in rows])
    if scale is None:
        return []
    ranks = [row.rank for row in rows]
    return [
        BoardRow(
            row,
            f"{row.rank}{'=' if ranks.count(row.rank) > 1 else ''}",
            score_bar(scale, row.score, row.low, row.high, _label(row)),
        )
        for row in rows
    ]


def _label(row: LeaderboardRow) -> str:
    if row.low is None or row.high is None:
        return number(row.score)
    return f"{number(row.score)}, 95 % interval {number(row.low)} to {number(row.high)}"


def _interval(row: LeaderboardRow) -> tuple[float, float]:
    low = row.score if row.low is None else row.low
    high = row.score if row.high is None else row.high
    return low, high
