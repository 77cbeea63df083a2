"""All that listens in front of a pool: HTTP, and gRPC where it is wanted."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from visiondyno.serving.addresses import AllowedHosts
from visiondyno.serving.app import make_app
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.grpc_service import Authorise, start_grpc
from visiondyno.serving.http_server import HttpServer
from visiondyno.serving.inference import Inference
from visiondyno.serving.keys import Keys
from visiondyno.serving.metrics import ServingMetrics
from visiondyno.serving.pool import Pool
from visiondyno.serving.protocol import InferenceProtocol
from visiondyno.serving.statistics import Statistics
from visiondyno.serving.urls import Fetcher
from visiondyno.telemetry.access import AccessLog
from visiondyno.telemetry.traces import Tracing, start_tracing

_GRPC_GRACE_S = 5.0
"""For answers that are made already; what runs is waited for before."""


@dataclass(frozen=True, slots=True)
class FrontParts:
    """What a front is put before, and whom it tells.

    Attributes:
        pool: answers.
        metrics: are counted and exported.
        statistics: of the pool's batches.
        access_log: of each request; None: not wanted.
        on_stopping: told at a signal how many requests are to be finished.
    """

    pool: Pool
    metrics: ServingMetrics
    statistics: Statistics
    access_log: AccessLog | None
    on_stopping: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Front:
    """A front that is open.

    Attributes:
        pool: that answers.
        server: of HTTP; it doesn't serve yet.
        grpc_address: where gRPC is served, `HOST:PORT`; None where it isn't.
    """

    pool: Pool
    server: HttpServer
    grpc_address: str | None


async def open_front(
    config: ServingConfig, parts: FrontParts, closing: contextlib.AsyncExitStack
) -> Front:
    """Make everything that listens; what has to be closed is put on `closing`.

    Raises:
        SpecError: an option is wrong, or a port is taken.
        MissingExtra: gRPC is wanted and not installed.
    """
    tracing = start_tracing("visiondyno-serve")
    closing.push_async_callback(asyncio.to_thread, tracing.close)
    inference = Inference(parts.pool, parts.metrics, tracing, parts.statistics)
    protocol = InferenceProtocol(inference, config)
    fetch = Fetcher(AllowedHosts(config.allow_url_hosts), config.max_body_bytes)
    closing.push_async_callback(fetch.close)
    registry = parts.metrics.registry
    app = make_app(config, inference, protocol, fetch, registry, parts.access_log, tracing)
    server = HttpServer(app, config, parts.pool, parts.metrics, parts.on_stopping)
    address = await _open_grpc(config, protocol, tracing, parts.access_log, closing)
    return Front(parts.pool, server, address)


async def _open_grpc(
    config: ServingConfig,
    protocol: InferenceProtocol,
    tracing: Tracing,
    access_log: AccessLog | None,
    closing: contextlib.AsyncExitStack,
) -> str | None:
    """Where it listens; None where it isn't wanted."""
    if config.grpc_port is None:
        return None
    server = await start_grpc(
        protocol,
        config.host,
        config.grpc_port,
        config.max_body_bytes,
        authorise=_authorise(config),
        tracing=tracing,
        access_log=access_log,
    )
    closing.push_async_callback(server.stop, _GRPC_GRACE_S)
    return server.address


def _authorise(config: ServingConfig) -> Authorise:
    return (lambda _: None) if config.keys_file is None else Keys(config.keys_file).check
