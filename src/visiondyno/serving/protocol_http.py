"""The Open Inference Protocol over HTTP.

Errors have this protocol's form, `{"error": "…"}`, instead of problem documents: its clients look
for it. Routes are ASGI applications of their own for the same reason as `/predict`.
"""

import logging
import math
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from pydantic_core import from_json, to_json
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from visiondyno.api.limits import LimitedBody
from visiondyno.errors import (
    NotFound,
    NotReady,
    RateLimited,
    SpecError,
    VisionDynoError,
)
from visiondyno.serving.asgi import AsgiRoute, read_body, unless_gone
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.inference import server_timing
from visiondyno.serving.pool import Predicted
from visiondyno.serving.protocol import InferenceProtocol
from visiondyno.serving.protocol_json import (
    HEADER_LENGTH,
    header_length,
    read_request,
    write_response,
)

_log = logging.getLogger(__name__)

_JSON, _WITH_BINARY = "application/json", "application/octet-stream"
_LONGEST_INDEX_REQUEST_BYTES = 10_000
_NO_SHARED_MEMORY = (
    "Shared memory isn't supported: send tensors in the request, as JSON or as binary data."
)
_NO_LOADING = "This server serves the models that it was started with; none is loaded or unloaded."

Handler = Callable[["Call"], Awaitable[Response]]


class Call:
    """A request to one of the routes."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.receive = receive
        self.headers = Headers(scope=scope)
        parameters = scope["path_params"]
        self.name: str = parameters.get("name", "")
        self.version: str = parameters.get("version", "")

    async def body(self, most_bytes: int) -> bytes:
        """All of the body.

        Raises:
            HTTPException: it is too large, or compressed.
            ClientDisconnect: the client hung up.
        """
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise HTTPException(415, f"The body is compressed ({encoding:.40}); send it plain.")
        limited = LimitedBody(self.receive, most_bytes)
        limited.check_declared(self.headers.get("content-length", ""))
        return await read_body(limited)


class ProtocolRoutes:
    """What is answered below `/v2`."""

    def __init__(self, protocol: InferenceProtocol, config: ServingConfig) -> None:
        self._protocol = protocol
        self._config = config

    def routes(self) -> list[Route]:
        """All of them; one that isn't known is a 404 in the protocol's form."""
        model = "/v2/models/{name}"
        found = [
            ("GET", "/v2", self._server),
            ("GET", "/v2/health/live", self._live),
            ("GET", "/v2/health/ready", self._ready),
            ("GET", "/v2/models/stats", self._stats),
            ("POST", "/v2/repository/index", self._index),
            ("POST", "/v2/repository/models/{name}/load", _refuse_loading),
            ("POST", "/v2/repository/models/{name}/unload", _refuse_loading),
        ]
        for path in (model, f"{model}/versions/{{version}}"):
            found += [
                ("GET", path, self._model),
                ("GET", f"{path}/ready", self._model_ready),
                ("GET", f"{path}/config", self._model_config),
                ("GET", f"{path}/stats", self._stats),
                ("POST", f"{path}/infer", self._infer),
            ]
        for kind in ("system", "cuda"):
            base = f"/v2/{kind}sharedmemory"
            for path in (base, f"{base}/region/{{name}}"):
                found += [
                    ("GET", f"{path}/status", _refuse_shared_memory),
                    ("POST", f"{path}/unregister", _refuse_shared_memory),
                ]
            found.append(("POST", f"{base}/region/{{name}}/register", _refuse_shared_memory))
        routes: list[Route] = [
            AsgiRoute(path, _Endpoint(method, handler)) for method, path, handler in found
        ]
        return [*routes, AsgiRoute("/v2/{rest:path}", _Endpoint("", _refuse_unknown))]

    async def _server(self, _: Call) -> Response:
        return _answer(self._protocol.server_metadata())

    async def _live(self, _: Call) -> Response:
        return _answer({"live": True})

    async def _ready(self, _: Call) -> Response:
        ready = self._protocol.is_ready
        # Older versions look at the status alone, where 4xx means no; the present one's field is
        # called `live` here too.
        return _answer({"live": ready, "ready": ready}, 200 if ready else 400)

    async def _model_ready(self, call: Call) -> Response:
        model = self._protocol.model(call.name, call.version)
        ready = self._protocol.is_ready
        return _answer({"name": model.name, "ready": ready}, 200 if ready else 400)

    async def _model(self, call: Call) -> Response:
        return _answer(self._protocol.model(call.name, call.version).metadata())

    async def _model_config(self, call: Call) -> Response:
        return _answer(self._protocol.configuration(call.name, call.version))

    async def _stats(self, call: Call) -> Response:
        return _answer(self._protocol.statistics(call.name, call.version))

    async def _index(self, call: Call) -> Response:
        body = await call.body(_LONGEST_INDEX_REQUEST_BYTES)
        try:
            asked = from_json(body) if body.strip() else {}
        except ValueError as error:
            raise SpecError(f"The request isn't JSON: {error}.") from error
        ready = asked.get("ready", False) if isinstance(asked, dict) else None
        if not isinstance(ready, bool):
            raise SpecError('The request must be a JSON object; its "ready" is true or false.')
        return _answer(self._protocol.index(only_ready=ready))

    async def _infer(self, call: Call) -> Response:
        model = self._protocol.model(call.name, call.version)
        body = await call.body(self._config.max_body_bytes)
        json_size = header_length(call.headers.get(HEADER_LENGTH), len(body))
        if not model.takes_images:
            form = {"form": "http", "json_size": json_size}
            working = self._protocol.infer_graph(model, body, form)
            predicted = await unless_gone(working, call.receive)
            answered = memoryview(predicted.answer.body)
            size = int.from_bytes(answered[:4], "little")
            return _inferred(bytes(answered[4:]), size or None, [predicted])
        read = partial(read_request, body, json_size)
        images = self._protocol.infer_images(model, read, len(body))
        request, outputs, each = await unless_gone(images, call.receive)
        return _inferred(*write_response(model.name, request, outputs), each)


class _Endpoint:
    """One route as an ASGI application: its errors are told in the protocol's form."""

    def __init__(self, method: str, handler: Handler) -> None:
        self._method = method
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._method and scope["method"] != self._method:
            text = f"{scope['path']} takes {self._method}, not {scope['method']}."
            response = _error(405, text, {"Allow": self._method})
        else:
            try:
                response = await self._handler(Call(scope, receive))
            except ClientDisconnect:
                raise
            except Exception as error:
                response = _error_response(error, scope["path"])
                # Its frames hold the body, and each other until the next collection of garbage.
                traceback.clear_frames(error.__traceback__)
        await response(scope, receive, send)


async def _refuse_shared_memory(_: Call) -> Response:
    raise HTTPException(400, _NO_SHARED_MEMORY)


async def _refuse_loading(_: Call) -> Response:
    raise HTTPException(400, _NO_LOADING)


async def _refuse_unknown(_: Call) -> Response:
    raise NotFound(
        "Nothing is at this address. Models are at /v2/models/NAME, and their names are what "
        "POST /v2/repository/index answers."
    )


def _answer(content: Any, status: int = 200) -> Response:
    return Response(to_json(content), status, media_type=_JSON)


def _inferred(body: bytes, json_size: int | None, predicted: list[Predicted]) -> Response:
    headers = {"Server-Timing": server_timing(predicted)}
    if json_size is None:
        return Response(body, 200, headers, _JSON)
    headers[HEADER_LENGTH] = str(json_size)
    return Response(body, 200, headers, _WITH_BINARY)


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json({"error": text}), status, headers, _JSON)


def _error_response(error: Exception, path: str) -> Response:
    if isinstance(error, HTTPException):
        return _error(error.status_code, str(error.detail))
    if not isinstance(error, VisionDynoError):
        _log.error("A defect of visiondyno itself, at %r", path, exc_info=error)
        return _error(500, "A defect of visiondyno itself; the server's log has more.")
    headers = {}
    if isinstance(error, RateLimited | NotReady) and error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    # "Typically 400", the specification says, where our own faces say 422.
    status = 400 if error.http_status == 422 else max(400, error.http_status)
    if status >= 500:
        _log.warning("%r: %s (%s)", path, error.message, error.code)
    return _error(status, error.message, headers)
