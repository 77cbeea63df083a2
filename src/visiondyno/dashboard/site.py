"""What every page shares: who is looking, errors as pages, headers, and where a page is found."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from visiondyno.dashboard.guard import Guard, LoginNeeded, check_origin, path_of, protect
from visiondyno.dashboard.rendering import Pages
from visiondyno.errors import RateLimited, TransportDown, VisionDynoError
from visiondyno.service.service import Service
from visiondyno.store.records import ApiKeyRecord, KeyScope

Handler = Callable[[Request], Awaitable[Response]]

EVERYTHING = frozenset({KeyScope.ALL})
SUBMITTING = frozenset({KeyScope.ALL, KeyScope.SUBMIT})

DONE = {
    "cancel": "Cancelling was asked for.",
    "retry": "The job waits for another attempt.",
    "drain": "The worker finishes its job and takes no other.",
    "resume": "The worker takes jobs again.",
    "restart": "The worker restarts.",
    "submitted": "The model was taken in and waits to be scored.",
    "purged": "The waiting jobs were cancelled.",
    "deleted": "The comparison was deleted.",
}
"""What a page says after an action, by the `did` of its address: never text from outside."""

_TITLES = {401: "Log in first", 403: "Not allowed", 404: "Not here", 503: "Not just now"}

_log = logging.getLogger(__name__)


class Site:
    """The service, the templates, and the guard, for all pages."""

    def __init__(self, service: Service, pages: Pages, guard: Guard) -> None:
        self.service = service
        self.pages = pages
        self.guard = guard

    def route(
        self, path: str, handler: Handler, *, scopes: frozenset[KeyScope] | None = EVERYTHING
    ) -> Route:
        """A page for viewers whose key has one of `scopes`; None: for all."""
        return Route(path, self._guarded(handler, scopes), methods=["GET"])

    def action(
        self, path: str, handler: Handler, *, scopes: frozenset[KeyScope] | None = EVERYTHING
    ) -> Route:
        """A form's target: only forms of our own pages reach it."""

        async def checked(request: Request) -> Response:
            check_origin(request)
            return await handler(request)

        return Route(path, self._guarded(checked, scopes), methods=["POST"])

    def show(
        self, request: Request, template: str, *, status: int = 200, **context: Any
    ) -> HTMLResponse:
        """A page as a response."""
        text = self.pages.page(
            template,
            viewer=viewer_of(request),
            path=request.url.path,
            did=DONE.get(request.query_params.get("did", "")),
            **context,
        )
        return HTMLResponse(text, status_code=status)

    def _guarded(self, handler: Handler, scopes: frozenset[KeyScope] | None) -> Handler:
        async def respond(request: Request) -> Response:
            try:
                if scopes is not None:
                    request.state.viewer = await self.guard.admit(request, scopes)
                response = await handler(request)
            except LoginNeeded as error:
                response = self._to_login(request, error)
            except VisionDynoError as error:
                response = self._problem(request, error)
            except ClientDisconnect:
                raise  # nobody is there to be answered
            except Exception:
                _log.exception("The dashboard's page %r failed", request.url.path)
                response = self._problem(
                    request,
                    VisionDynoError(
                        "A defect of visiondyno itself; the server's log has the details. "
                        "Nothing that was accepted is lost. Go back and try again."
                    ),
                )
            return protect(response)

        return respond

    def _to_login(self, request: Request, error: LoginNeeded) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return HTMLResponse(error.message, status_code=error.http_status)
        came_from = path_of(request.headers.get("referer", ""))
        wanted = _address(request) if request.method == "GET" else came_from
        return RedirectResponse(f"/login?next={quote(wanted)}", status_code=303)

    def _problem(self, request: Request, error: VisionDynoError) -> Response:
        status = error.http_status
        response = self.show(
            request,
            "problem.html.j2",
            status=status,
            title=_TITLES.get(status, "That didn't work"),
            error=error,
        )
        return with_retry_after(response, error)


def viewer_of(request: Request) -> ApiKeyRecord | None:
    """The key the viewer logged in with; None where none is needed or none was shown."""
    viewer: ApiKeyRecord | None = getattr(request.state, "viewer", None)
    return viewer


def owner_of(request: Request) -> str | None:
    """Whose work it is that the viewer asks for."""
    viewer = viewer_of(request)
    return viewer.id if viewer is not None else None


def with_retry_after(response: Response, error: VisionDynoError) -> Response:
    """`response` saying when to come again, where that is known."""
    if isinstance(error, RateLimited) and error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    elif isinstance(error, TransportDown):
        response.headers["Retry-After"] = "5"
    return response


def base_of(request: Request) -> str:
    """The server's address as the viewer wrote it, without a slash at its end."""
    return str(request.base_url).rstrip("/")


def see_other(path: str, did: str = "") -> RedirectResponse:
    """Answer a form by the page that shows what became of it."""
    return RedirectResponse(f"{path}?did={did}" if did else path, status_code=303)


def _address(request: Request) -> str:
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path
