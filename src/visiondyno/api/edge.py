"""The outermost layer: HEAD, trailing slashes, the last catch of errors, counts of requests."""

import logging
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visiondyno.api.http_metrics import HttpMetrics
from visiondyno.api.problems import respond_to

_log = logging.getLogger(__name__)

# Where HEAD is GET without a body. Not blobs and pages, which have their own, and not streams,
# which it would begin, or take what the next GET is to have.
_HEAD_AS_GET = frozenset(
    {"health", "ready", "metrics", "docs", "openapi.json", "v2", "api", "submit"}
)
_STREAMS = frozenset({"events", "stream"})


class Edge:
    """ASGI middleware around everything else.

    - `HEAD` is answered as `GET` without a body, and `/path/` as `/path`.
    - What no handler caught becomes a problem document, never a traceback; after the first byte
      of an answer the connection is closed instead, so that a cut answer isn't taken for a whole.
    """

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = scope["method"]
        scope = _normalised(scope)
        answer = _Answer(send, bodiless=asked == "HEAD" and scope["method"] == "GET")
        started_s = time.monotonic()
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            _log.info("The client hung up: %r %r", asked, scope["path"])
        except Exception as error:
            if answer.status is not None:
                raise
            await respond_to(error, scope["path"])(scope, receive, answer)
        finally:
            took_s = time.monotonic() - started_s
            self._metrics.observe(asked, _route_of(scope), answer.status or 499, took_s)


class _Answer:
    """An ASGI `send` that knows what was sent."""

    def __init__(self, send: Send, bodiless: bool) -> None:
        self._send = send
        self._bodiless = bodiless
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif self._bodiless and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)


def route_path(scope: Scope) -> str:
    """The path below the prefix that a proxy took off (`root_path`)."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _route_of(scope: Scope) -> str:
    """The template of the API's route; `page` where the dashboard answered, which has none."""
    found = "page" if "endpoint" in scope else "unmatched"
    return getattr(scope.get("route"), "path", found)


def _normalised(scope: Scope) -> Scope:
    path: str = scope["path"]
    parts = route_path(scope).strip("/").split("/")
    method = scope["method"]
    if method == "HEAD" and parts[0] in _HEAD_AS_GET and not _STREAMS.intersection(parts):
        method = "GET"
    if len(path) > 1 and path.endswith("/") and parts != [""]:
        path = path.rstrip("/")
    return {**scope, "path": path, "method": method}
