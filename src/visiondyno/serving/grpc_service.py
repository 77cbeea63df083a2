"""The Open Inference Protocol over gRPC, and gRPC's own health protocol, on the front's event loop.

Needs the extra `grpc`. Requests to the graph reach their replica as they came; the front reads no
more of them than the model's name.
"""

import asyncio
import contextlib
import logging
import math
import os
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]  # no types in it
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no types in it

from visiondyno.errors import (
    InputError,
    MissingExtra,
    NotFound,
    NotReady,
    RateLimited,
    SpecError,
    TimeLimitExceeded,
    TooLarge,
    Unauthorized,
    VisionDynoError,
)
from visiondyno.serving import protocol_messages
from visiondyno.serving.inference import server_timing
from visiondyno.serving.inference_pb import HEALTH, INFERENCE, message, methods
from visiondyno.serving.pool import Predicted
from visiondyno.serving.protocol import InferenceProtocol
from visiondyno.telemetry.access import Access, AccessLog
from visiondyno.telemetry.ids import REQUEST_ID_HEADER, bound, bound_ids, request_id_of
from visiondyno.telemetry.traces import Tracing

if TYPE_CHECKING:
    import grpc.aio  # type: ignore[import-untyped]  # no types in it

_log = logging.getLogger(__name__)

_ENVELOPE_BYTES = 1_000_000
_HEALTH_LOOKS_EVERY_S = 0.5
_GONE = 499
# What a status of gRPC is in HTTP, by googleapis' google/rpc/code.proto.
_HTTP_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

Authorise = Callable[[str | None], None]
"""Takes the `authorization` of a request; raises `Unauthorized`."""


class GrpcServer:
    """The server from its port to its end; `start_grpc` makes one."""

    def __init__(self, server: "grpc.aio.Server", service: "_Service", address: str) -> None:
        """`address`: as clients reach it from here, `HOST:PORT`."""
        self._server = server
        self._service = service
        self.address = address

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and give those that run so long to end."""
        self._service.stopping.set()
        await self._server.stop(grace_s)


async def start_grpc(
    protocol: InferenceProtocol,
    host: str,
    port: int,
    max_body_bytes: int,
    *,
    authorise: Authorise = lambda _: None,
    tracing: Tracing | None = None,
    access_log: AccessLog | None = None,
) -> GrpcServer:
    """Take the port and answer from now on.

    Args:
        protocol: what to answer.
        host: where.
        port: 0: any free one.
        max_body_bytes: of the tensors of one request.
        authorise: of each call but those of the health protocol.
        tracing: gets a span of each call.
        access_log: gets a line of each call.

    Raises:
        MissingExtra: the extra `grpc` isn't installed.
        SpecError: the port is taken.
    """
    try:
        # What this process spawns is executed at once: grpc's handlers of forks would only tell the
        # log that they have nothing to do.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        import grpc
        import grpc.aio
    except ImportError:
        raise MissingExtra("grpc", "The Open Inference Protocol over gRPC") from None
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_body_bytes + _ENVELOPE_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
    )
    service = _Service(protocol, authorise, tracing or Tracing(None), access_log)
    server.add_generic_rpc_handlers(service.handlers())
    shown = f"[{host}]" if ":" in host else host
    try:
        bound_port = server.add_insecure_port(f"{shown}:{port}")
    except RuntimeError as error:
        raise SpecError(
            f"The server can't listen on {shown}:{port} for gRPC; give another --grpc-port."
        ) from error
    await server.start()
    reached = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(shown, shown)  # noqa: S104 - not bound
    return GrpcServer(server, service, f"{reached}:{bound_port}")


class _Service:
    """The methods, each over `InferenceProtocol`."""

    def __init__(
        self,
        protocol: InferenceProtocol,
        authorise: Authorise,
        tracing: Tracing,
        access_log: AccessLog | None,
    ) -> None:
        self._protocol = protocol
        self._authorise = authorise
        self._tracing = tracing
        self._access_log = access_log
        self.stopping = asyncio.Event()

    def handlers(self) -> list[Any]:
        """What grpc is to dispatch to."""
        import grpc

        known = methods(INFERENCE)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                partial(self._call, name, handler),
                _reads(known[name][0]),
                partial(_written, known[name][1]),
            )
            for name, handler in self._simple().items()
        }
        handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(
            partial(self._call, "ModelInfer", None)
        )
        check_request, check_response = methods(HEALTH)["Check"]
        health = {
            "Check": grpc.unary_unary_rpc_method_handler(
                self._health_check, check_request.FromString, partial(_written, check_response)
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self._health_watch, check_request.FromString, partial(_written, check_response)
            ),
        }
        return [
            grpc.method_handlers_generic_handler(INFERENCE, handlers),
            grpc.method_handlers_generic_handler(HEALTH, health),
        ]

    def _simple(self) -> dict[str, Callable[[Any], Any]]:
        """Methods whose response is the JSON that HTTP's is; the request to its content."""
        protocol = self._protocol
        return {
            "ServerLive": lambda _: {"live": True},
            "ServerReady": lambda _: {"ready": protocol.is_ready},
            "ServerMetadata": lambda _: protocol.server_metadata(),
            "ModelReady": self._model_ready,
            "ModelMetadata": lambda asked: protocol.model(asked.name, asked.version).metadata(),
            "ModelConfig": lambda asked: {
                "config": protocol.configuration(asked.name, asked.version)
            },
            "ModelStatistics": lambda asked: protocol.statistics(asked.name, asked.version),
            "RepositoryIndex": lambda asked: {"models": protocol.index(only_ready=asked.ready)},
        }

    def _model_ready(self, asked: Any) -> dict[str, bool]:
        self._protocol.model(asked.name, asked.version)
        return {"ready": self._protocol.is_ready}

    async def _call(
        self, name: str, answer: Callable[[Any], Any] | None, request: Any, context: Any
    ) -> Any:
        """One call: authorised, answered, told of; `answer` None: ModelInfer."""
        metadata = _metadata(context)
        request_id = request_id_of(metadata.get(REQUEST_ID_HEADER.lower()))
        trailing = [(REQUEST_ID_HEADER.lower(), request_id)]
        path = f"/{INFERENCE}/{name}"
        attributes = {"url.path": path, "rpc.system": "grpc", "visiondyno.request.id": request_id}
        with (
            bound(request_id=request_id),
            self._tracing.request("POST", metadata, attributes) as span,
        ):
            started_s, status, sent_bytes = time.monotonic(), _GONE, 0
            try:
                self._authorise(metadata.get("authorization"))
                if answer is None:
                    found, predicted = await self._infer(request)
                    sent_bytes = len(found)
                    trailing.append(("server-timing", server_timing(predicted)))
                else:
                    found = answer(_readable(request, name))
                status = 200
            except Exception as error:
                code, text, extra = _failure(error, path)
                status = _HTTP_STATUSES[code.name]
                # Not `abort`: its exception and this one would hold each other, and the request's
                # tensors, until the next collection of garbage.
                traceback.clear_frames(error.__traceback__)
                context.set_code(code)
                context.set_details(text)
                trailing += extra
                found = None
            finally:
                span.answered("POST", path, status, {"rpc.method": name})
                took_ms = (time.monotonic() - started_s) * 1e3
                self._log_access(context, path, status, took_ms, sent_bytes, request_id)
            context.set_trailing_metadata(tuple(trailing))
            return found

    async def _infer(self, data: bytes) -> tuple[bytes, list[Predicted]]:
        """ModelInfer; its message is read as far as needed only."""
        try:
            asked = message("visiondyno.Addressee").FromString(data)
        except DecodeError as error:
            raise SpecError("The message isn't a ModelInferRequest.") from error
        model = self._protocol.model(asked.model_name, asked.model_version)
        if not model.takes_images:
            predicted = await self._protocol.infer_graph(model, data, {"form": "grpc"})
            return predicted.answer.body, [predicted]

        def read() -> Any:
            return protocol_messages.read_request(protocol_messages.parse_request(data))

        request, outputs, each = await self._protocol.infer_images(model, read, len(data))
        return protocol_messages.write_response(model.name, request, outputs), each

    async def _health_check(self, request: Any, context: Any) -> Any:
        import grpc

        if request.service not in ("", INFERENCE):
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"There is no service '{request.service:.100}'."
            )
        return self._health()

    async def _health_watch(self, request: Any, _: Any) -> AsyncIterator[Any]:
        """The status, and again whenever it is another; ends when the server does."""
        told = None
        while not self.stopping.is_set():
            known = request.service in ("", INFERENCE)
            now = self._health() if known else {"status": "SERVICE_UNKNOWN"}
            if now != told:
                told = now
                yield now
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), _HEALTH_LOOKS_EVERY_S)

    def _health(self) -> dict[str, str]:
        return {"status": "SERVING" if self._protocol.is_ready else "NOT_SERVING"}

    def _log_access(
        self,
        context: Any,
        path: str,
        status: int,
        took_ms: float,
        sent_bytes: int,
        request_id: str,
    ) -> None:
        if self._access_log is None:
            return
        self._access_log.write(
            Access(
                time_s=time.time(),
                client=context.peer(),
                method="POST",
                path=path,
                route=path,
                status=status,
                took_ms=took_ms,
                sent_bytes=sent_bytes,
                request_id=request_id,
                job_id=None,
                trace_id=bound_ids().get("trace_id"),
            )
        )


class _Unreadable:
    """In place of a request that can't be read: grpc would answer that as a defect of ours."""


def _readable(request: Any, name: str) -> Any:
    if isinstance(request, _Unreadable):
        raise SpecError(f"The message isn't a request of {name}.")
    return request


def _reads(kind: Any) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError:
            return _Unreadable()

    return read


def _written(kind: Any, content: dict[str, Any]) -> bytes:
    data: bytes = ParseDict(content, kind()).SerializeToString()
    return data


def _metadata(context: Any) -> Mapping[str, str]:
    pairs = context.invocation_metadata() or ()
    return {key: value for key, value in pairs if isinstance(value, str)}


def _failure(error: Exception, path: str) -> tuple[Any, str, list[tuple[str, str]]]:
    """Status, text and trailing metadata that tell of an error."""
    import grpc

    code = grpc.StatusCode
    if not isinstance(error, VisionDynoError):
        _log.error("A defect of visiondyno itself, at %r", path, exc_info=error)
        return code.INTERNAL, "A defect of visiondyno itself; the server's log has more.", []
    extra = []
    if isinstance(error, RateLimited | NotReady) and error.retry_after_s is not None:
        # gRFC A6: how long a client that tries again by itself waits before it does.
        extra.append(("grpc-retry-pushback-ms", str(math.ceil(error.retry_after_s * 1000))))
    kinds = (
        (RateLimited, code.RESOURCE_EXHAUSTED),
        (TooLarge, code.RESOURCE_EXHAUSTED),
        (Unauthorized, code.UNAUTHENTICATED),
        (NotFound, code.NOT_FOUND),
        (InputError, code.INVALID_ARGUMENT),
        (NotReady, code.UNAVAILABLE),
        (TimeLimitExceeded, code.DEADLINE_EXCEEDED),
    )
    found = next((status for kind, status in kinds if isinstance(error, kind)), code.INTERNAL)
    if found in (code.INTERNAL, code.UNAVAILABLE, code.DEADLINE_EXCEEDED):
        _log.warning("%r: %s (%s)", path, error.message, error.code)
    return found, error.message, extra
