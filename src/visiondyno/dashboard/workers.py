"""The workers, and what they can be told."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from visiondyno.dashboard.live import Regions
from visiondyno.dashboard.site import Site, see_other
from visiondyno.errors import NotFound, VisionDynoError
from visiondyno.executors.workers import WorkerCommand


class WorkerPages:
    """`/workers`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._jobs = site.service.jobs

    async def page(self, request: Request) -> Response:
        """`GET /workers`."""
        return await self._show(request)

    async def regions(self, _: Request) -> Regions:
        """The cards."""
        context = await self._context()
        return Regions({"workers": self._site.pages.region("worker_cards.html.j2", **context)})

    async def command(self, request: Request) -> Response:
        """`POST /workers/{name}/{command}`."""
        name, text = request.path_params["name"], request.path_params["command"]
        if text not in set(WorkerCommand):
            raise NotFound(f"A worker knows no command '{text[:60]}'; go back to the workers.")
        try:
            await self._jobs.command_worker(name, WorkerCommand(text))
        except VisionDynoError as error:
            return await self._show(request, error)
        return see_other("/workers", text)

    async def _show(self, request: Request, error: VisionDynoError | None = None) -> Response:
        return self._site.show(
            request,
            "workers.html.j2",
            status=200 if error is None else error.http_status,
            error=error,
            **await self._context(),
        )

    async def _context(self) -> dict[str, Any]:
        return {"workers": await self._jobs.workers()}
