"""The dashboard's routes over a service."""

from collections.abc import Awaitable, Callable, Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from visiondyno.dashboard import live
from visiondyno.dashboard.comparisons import ComparisonPages
from visiondyno.dashboard.guard import Guard, protect
from visiondyno.dashboard.jobs import JobPages
from visiondyno.dashboard.live import Regions
from visiondyno.dashboard.login import LoginPages
from visiondyno.dashboard.overview import Overview
from visiondyno.dashboard.rendering import ASSETS, Asset, Pages, load_assets
from visiondyno.dashboard.site import EVERYTHING, SUBMITTING, Handler, Site
from visiondyno.dashboard.studies import StudyPages
from visiondyno.dashboard.tasks import TaskPages
from visiondyno.dashboard.throughput import Throughput
from visiondyno.dashboard.workers import WorkerPages
from visiondyno.service.service import Service
from visiondyno.store.records import KeyScope

ReadRegions = Callable[[Request], Awaitable[Regions]]


def make_dashboard(service: Service) -> APIRouter:
    """The pages, to be included at `/` after the HTTP API; none is in the OpenAPI document."""
    assets = load_assets()
    keys_required = service.settings.keys_required
    site = Site(
        service,
        Pages(assets, keys_required=keys_required, endpoint=service.settings.endpoint),
        Guard(service.keys, keys_required=keys_required),
    )
    throughput = Throughput()
    service.jobs.on_recorded(throughput.note)
    overview = Overview(site, throughput)
    jobs, workers = JobPages(site), WorkerPages(site)
    comparisons, tasks, login = ComparisonPages(site), TaskPages(site), LoginPages(site)
    studies = StudyPages(site)
    views: list[tuple[str, ReadRegions, frozenset[KeyScope]]] = [
        ("", overview.regions, EVERYTHING),
        ("/jobs", jobs.list_regions, EVERYTHING),
        ("/workers", workers.regions, EVERYTHING),
        ("/comparisons", comparisons.list_regions, EVERYTHING),
        ("/comparisons/{comparison_id}", comparisons.regions, EVERYTHING),
        ("/studies", studies.list_regions, EVERYTHING),
        ("/studies/{name}", studies.regions, EVERYTHING),
        ("/tasks/{task}", tasks.regions, SUBMITTING),
    ]
    return APIRouter(
        routes=[
            site.route("/", overview.page),
            *_job_routes(site, jobs),
            *_worker_routes(site, workers),
            *_comparison_routes(site, comparisons),
            *_study_routes(site, studies),
            *_task_routes(site, tasks),
            site.route("/login", login.page, scopes=None),
            site.action("/login", login.login, scopes=None),
            site.action("/logout", login.logout, scopes=None),
            _asset_route(assets),
            *_live_routes(site, views, jobs),
        ]
    )


def _job_routes(site: Site, jobs: JobPages) -> list[Route]:
    return [
        site.route("/jobs", jobs.list_page),
        site.action("/jobs/purge", jobs.purge),
        site.route("/jobs/{job_id}", jobs.page),
        site.action("/jobs/{job_id}/cancel", jobs.cancel),
        site.action("/jobs/{job_id}/retry", jobs.retry),
    ]


def _worker_routes(site: Site, workers: WorkerPages) -> list[Route]:
    return [
        site.route("/workers", workers.page),
        site.action("/workers/{name}/{command}", workers.command),
    ]


def _comparison_routes(site: Site, comparisons: ComparisonPages) -> list[Route]:
    return [
        site.route("/comparisons", comparisons.list_page),
        site.action("/comparisons", comparisons.start),
        site.route("/comparisons/{comparison_id}", comparisons.page),
        site.route("/comparisons/{comparison_id}/report", comparisons.report),
        site.action("/comparisons/{comparison_id}/delete", comparisons.delete),
    ]


def _study_routes(site: Site, studies: StudyPages) -> list[Route]:
    return [
        site.route("/studies", studies.list_page),
        site.route("/studies/{name}", studies.page),
        site.route("/studies/{name}/report", studies.report),
    ]


def _task_routes(site: Site, tasks: TaskPages) -> list[Route]:
    return [
        site.route("/tasks", tasks.list_page, scopes=SUBMITTING),
        site.route("/tasks/{task}", tasks.page, scopes=SUBMITTING),
        site.action("/tasks/{task}", tasks.submit, scopes=SUBMITTING),
    ]


def _live_routes(
    site: Site, views: Sequence[tuple[str, ReadRegions, frozenset[KeyScope]]], jobs: JobPages
) -> list[Route]:
    """Each page's live parts are under `/dashboard/live` and the page's own path."""

    def live_route(path: str, read: ReadRegions, scopes: frozenset[KeyScope]) -> Route:
        async def respond(request: Request) -> Response:
            return live.stream(live.follow_regions(lambda: read(request)))

        return site.route(f"/dashboard/live{path}", _get_only(respond), scopes=scopes)

    async def of_job(request: Request) -> Response:
        return live.stream(await jobs.follow(request))

    return [
        site.route("/dashboard/live/jobs/{job_id}", _get_only(of_job)),
        *(live_route(*view) for view in views),
    ]


def _get_only(handler: Handler) -> Handler:
    """A HEAD, which a route of GET takes too, would begin an endless stream."""

    async def checked(request: Request) -> Response:
        if request.method == "HEAD":
            return Response(status_code=405, headers={"Allow": "GET"})
        return await handler(request)

    return checked


def _asset_route(assets: dict[str, Asset]) -> Route:
    """Style, script and icon; the digest in the address changes with the content."""

    async def respond(request: Request) -> Response:
        asset = assets.get(request.path_params["name"])
        if asset is None:
            return protect(Response("No such file.\n", 404, media_type="text/plain"))
        known = request.url.path == asset.url
        keep = "public, max-age=31536000, immutable" if known else "no-cache"
        return protect(
            Response(asset.content, headers={"Cache-Control": keep}, media_type=asset.media_type)
        )

    return Route(f"{ASSETS}/{{digest}}/{{name}}", respond, methods=["GET"])
