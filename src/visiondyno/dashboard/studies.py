"""The studies of this home: the list, and one with its trials as they run."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from visiondyno.dashboard.guard import REPORT_POLICY
from visiondyno.dashboard.live import Regions
from visiondyno.dashboard.site import Site
from visiondyno.dashboard.study_charts import history_plot
from visiondyno.dashboard.study_reading import StudyReader, StudyStanding, last_line
from visiondyno.errors import NotFound
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.run_record import KnownStudy, StudyRun, find_study, known_studies

SHOWN_TRIALS = 30
SHOWN_RUNNING = 64
_MOST_READERS = 8
_PAGE = "study.html"


class StudyPages:
    """`/studies` and `/studies/{name}`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._home = site.service.settings.folder
        self._readers: dict[Path, StudyReader] = {}
        self._lock = threading.Lock()

    async def list_page(self, request: Request) -> Response:
        """`GET /studies`."""
        return self._site.show(request, "studies.html.j2", rows=await self._rows())

    async def list_regions(self, _: Request) -> Regions:
        """The list's live part."""
        rows = await self._rows()
        return Regions({"studies": self._site.pages.region("studies_table.html.j2", rows=rows)})

    async def page(self, request: Request) -> Response:
        """`GET /studies/{name}`."""
        context = await asyncio.to_thread(self._one, request.path_params["name"])
        return self._site.show(request, "study.html.j2", **context)

    async def regions(self, request: Request) -> Regions:
        """The study's live part."""
        context = await asyncio.to_thread(self._one, request.path_params["name"])
        html = self._site.pages.region("study_body.html.j2", **context)
        return Regions({"study": html}, ended=not context["open"])

    async def report(self, request: Request) -> Response:
        """`GET /studies/{name}/report`: the page that the study wrote."""
        study = _found(self._home, request.path_params["name"])
        path = study.folder / _PAGE
        try:
            html = await asyncio.to_thread(path.read_text, encoding="utf-8")
        except OSError as error:
            raise NotFound(
                "The study has written no page yet; it does so at its end. Go back to the study."
            ) from error
        return HTMLResponse(html, headers={"Content-Security-Policy": REPORT_POLICY})

    async def _rows(self) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._read_rows)

    def _read_rows(self) -> list[dict[str, Any]]:
        rows = []
        for study in known_studies(self._home):
            run = StudyRun.read(study.folder)
            if run is None:
                continue
            last = last_line(study.folder)
            rows.append({"study": study, "run": run, "last": last, "state": _state(study, run)})
        return sorted(rows, key=lambda row: row["run"].began_at, reverse=True)

    def _one(self, name: str) -> dict[str, Any]:
        study = _found(self._home, name)
        run = StudyRun.read(study.folder)
        if run is None:
            raise NotFound(f"The study '{name:.60}' hasn't begun yet; come back in a moment.")
        state = _state(study, run)
        with self._lock:
            standing = self._reader(study, run).read()
            context = _told(standing, run)
        return {
            **context,
            "study": study,
            "run": run,
            "state": state,
            "open": study.is_running,
            "has_report": (study.folder / _PAGE).is_file(),
        }

    def _reader(self, study: KnownStudy, run: StudyRun) -> StudyReader:
        reader = self._readers.pop(study.folder, None)
        if reader is None:
            reader = StudyReader(study.folder, run.objectives)
        self._readers[study.folder] = reader  # the last one used stands last
        while len(self._readers) > _MOST_READERS:
            del self._readers[next(iter(self._readers))]
        return reader


def _told(standing: StudyStanding, run: StudyRun) -> dict[str, Any]:
    ended = sorted(standing.ended.values(), key=lambda trial: trial.at, reverse=True)
    running = sorted(standing.running.values(), key=lambda trial: trial.number)
    objectives = parse_objectives(run.objectives)
    plots = [(objective.name, history_plot(ended, objective)) for objective in objectives]
    front = set((standing.last or {}).get("front", ()))
    return {
        "last": standing.last,
        "running": running[:SHOWN_RUNNING],
        "more_running": max(0, len(running) - SHOWN_RUNNING),
        "ended": ended[:SHOWN_TRIALS],
        "more_ended": max(0, len(ended) - SHOWN_TRIALS),
        "front": front,
        "one_objective": objectives[0].name if len(objectives) == 1 else None,
        "plots": [(name, plot) for name, plot in plots if plot is not None],
    }


def _found(home: Path, name: str) -> KnownStudy:
    study = find_study(home, name)
    if study is None:
        raise NotFound(
            f"No study is called '{name:.60}', or its folder is gone; go back to the studies."
        )
    return study


def _state(study: KnownStudy, run: StudyRun) -> str:
    """`running`, `testing` (its best trial), `died` (its process), `stopped` or `ended`."""
    if study.is_running:
        return "running" if run.ended_at is None else "testing"
    if run.ended_at is None:
        return "died"
    return "ended" if run.stopped is None else "stopped"
