"""The gate: who asks, how often, and how much, decided before any route reads a body."""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from visiondyno.api.auth import authorise, identify, pass_gate
from visiondyno.api.edge import route_path
from visiondyno.api.limits import BodyTooLarge, LimitedBody, RateLimit
from visiondyno.api.problems import respond_to
from visiondyno.errors import RateLimited, Unauthorized, VisionDynoError
from visiondyno.service import Service
from visiondyno.settings import Settings

_GUARDED = frozenset({"v2", "api", "submit", "blobs"})
_OPEN = frozenset({("GET", "/submit/health")})
_ENVELOPE_BYTES = 1_000_000  # of a multipart body around its file


class Gate:
    """ASGI middleware in front of the API's routes; others (pages, /health) pass untouched.

    A request without a valid key is counted by its address, one with a key by the key.
    """

    def __init__(self, app: ASGIApp, service: Service, clock: Callable[[], float]) -> None:
        self._app = app
        self._service = service
        self._rate = RateLimit(service.settings.rate_limit_per_minute, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope) if scope["type"] == "http" else ""
        if path.strip("/").split("/")[0] not in _GUARDED or (scope["method"], path) in _OPEN:
            await self._app(scope, receive, send)
            return
        body = LimitedBody(receive, body_limit(path, self._service.settings))
        try:
            await self._admit(scope, path)
            body.check_declared(Headers(scope=scope).get("content-length", ""))
        except (VisionDynoError, BodyTooLarge) as error:
            await respond_to(error, path)(scope, receive, send)
            return
        await self._app(scope, body, send)

    async def _admit(self, scope: Scope, path: str) -> None:
        address = (scope.get("client") or ("unknown",))[0]
        try:
            key = await identify(
                self._service.keys, Headers(scope=scope), self._service.settings.keys_required
            )
        except Unauthorized as refusal:
            try:
                self._rate.take(address)
            except RateLimited as limited:
                raise limited from refusal
            raise
        self._rate.take(address if key is None else key.id)
        authorise(key, path)
        pass_gate(scope, key)


def body_limit(path: str, settings: Settings) -> int:
    """How many bytes a request's body may have at this address."""
    parts = path.strip("/").split("/")
    if parts[0] == "submit" or parts[:2] == ["api", "predict"]:
        return settings.max_upload_bytes + _ENVELOPE_BYTES
    if parts[0] == "blobs":
        return settings.max_upload_bytes
    if parts[0] == "v2" and parts[-1] == "runsync":
        return settings.max_runsync_bytes
    return settings.max_run_bytes
