"""The outermost layer: HEAD, trailing slashes, the last catch of errors, and what is told.

Told of each request are count and time, its id, a line of the access log, and a span.
"""

import logging
import time

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visiondyno.api.http_metrics import HttpMetrics
from visiondyno.api.problems import respond_to
from visiondyno.telemetry.access import Access, AccessLog
from visiondyno.telemetry.ids import REQUEST_ID_HEADER, bound, bound_ids, request_id_of
from visiondyno.telemetry.traces import RequestSpan, Tracing

_log = logging.getLogger(__name__)

# Where HEAD is GET without a body. Not blobs and pages, which have their own, and not streams,
# which it would begin, or take what the next GET is to have.
_HEAD_AS_GET = frozenset(
    {"health", "ready", "metrics", "docs", "openapi.json", "v2", "api", "submit"}
)
_ID_HEADER = REQUEST_ID_HEADER.lower().encode()
_STREAMS = frozenset({"events", "stream"})


class Edge:
    """ASGI middleware around everything else.

    - `HEAD` is answered as `GET` without a body, and `/path/` as `/path`.
    - What no handler caught becomes a problem document, never a traceback; after the first byte
      of an answer the connection is closed instead, so that a cut answer isn't taken for a whole.
    - Each answer has the request's id in `X-Request-Id`: the client's, or a new one. Log lines have
      it too.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: HttpMetrics,
        access_log: AccessLog | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._access_log = access_log
        self._tracing = tracing or Tracing(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = scope["method"]
        headers = Headers(scope=scope)
        request_id = request_id_of(_given_id(scope))
        scope = _normalised(scope)
        answer = _Answer(send, request_id, bodiless=asked == "HEAD" and scope["method"] == "GET")
        attributes = {"url.path": scope["path"], "visiondyno.request.id": request_id}
        with (
            bound(request_id=request_id),
            self._tracing.request(asked, headers, attributes) as span,
        ):
            started_s = time.monotonic()
            try:
                await self._answer(asked, scope, receive, answer)
            finally:
                self._tell(asked, scope, answer, time.monotonic() - started_s, span)

    async def _answer(self, asked: str, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            _log.info("The client hung up: %r %r", asked, scope["path"])
        except Exception as error:
            if answer.status is not None:
                raise
            await respond_to(error, scope["path"])(scope, receive, answer)

    def _tell(
        self, asked: str, scope: Scope, answer: "_Answer", took_s: float, span: RequestSpan
    ) -> None:
        """Count the request, end its line and its span."""
        status = answer.status or 499
        route = _route_of(scope)
        ids = bound_ids()
        job_id = ids.get("job_id") or scope.get("path_params", {}).get("job_id")
        self._metrics.observe(asked, route, status, took_s)
        span.answered(asked, route, status, {"visiondyno.job.id": job_id})
        if self._access_log is not None:
            self._access_log.write(
                Access(
                    time_s=time.time(),
                    client=(scope.get("client") or (None,))[0],
                    method=asked,
                    path=scope["path"],
                    route=route,
                    status=status,
                    took_ms=took_s * 1000,
                    sent_bytes=answer.sent_bytes,
                    request_id=answer.request_id,
                    job_id=job_id,
                    trace_id=ids.get("trace_id"),
                )
            )


class _Answer:
    """An ASGI `send` that knows what was sent."""

    def __init__(self, send: Send, request_id: str, bodiless: bool) -> None:
        self._send = send
        self._bodiless = bodiless
        self.request_id = request_id
        self.status: int | None = None
        self.sent_bytes = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            found = [one for one in message.get("headers", ()) if one[0].lower() != _ID_HEADER]
            message["headers"] = [*found, (_ID_HEADER, self.request_id.encode())]
        elif message["type"] == "http.response.body":
            if self._bodiless:
                message = {**message, "body": b""}
            self.sent_bytes += len(message.get("body", b""))
        await self._send(message)


def _given_id(scope: Scope) -> str | None:
    # Not by `Headers`, which decodes all of them for each look: this runs for each request.
    for name, value in scope["headers"]:
        if name == _ID_HEADER:
            return str(value, "latin-1")
    return None


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
