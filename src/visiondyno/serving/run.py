"""An inference server from its start to its end."""

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry

from visiondyno.api.listening import address_of, listen
from visiondyno.serving.app import make_app
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.connections import ConnectionLimits, guarded_protocol
from visiondyno.serving.inference import Inference
from visiondyno.serving.metrics import ServingMetrics
from visiondyno.serving.pool import Pool, PoolLimits
from visiondyno.serving.protocol import InferenceProtocol
from visiondyno.serving.replicas import Listener, Readiness, Replica
from visiondyno.serving.statistics import Statistics
from visiondyno.telemetry.access import AccessLog
from visiondyno.telemetry.traces import start_tracing


@dataclass(frozen=True, slots=True)
class Started:
    """What a server that is ready tells whoever started it.

    Attributes:
        url: where it listens.
        readiness: of the first replica.
        max_batch: most images in one inference.
    """

    url: str
    readiness: Readiness
    max_batch: int


async def serve(
    config: ServingConfig, on_started: Callable[[Started], None] = lambda _: None
) -> bool:
    """Serve until SIGINT or SIGTERM, then finish what was accepted; whether all of it was.

    The port is taken first, and answers that it isn't ready until a replica is.

    Raises:
        SpecError: the port is taken, or an option is wrong.
        VisionDynoError: the model can't be loaded.
    """
    listener = listen(config.host, config.port)
    access_log = None if config.access_log is None else AccessLog(config.access_log)
    tracing = start_tracing("visiondyno-serve")
    registry = CollectorRegistry()
    metrics = ServingMetrics(registry, config.model_name)
    statistics = Statistics()
    pool = Pool(_limits(config), partial(_launch, config), metrics, on_batch=statistics.batch_done)
    inference = Inference(pool, metrics, tracing, statistics)
    protocol = InferenceProtocol(inference, config)
    app = make_app(config, inference, protocol, registry, access_log, tracing)
    server = _make_server(app, config, pool, metrics)
    try:
        return await _run(server, pool, metrics, config, listener, on_started)
    finally:
        await pool.close()
        listener.close()
        tracing.close()
        if access_log is not None:
            access_log.close()


async def _run(
    server: "_Server",
    pool: Pool,
    metrics: ServingMetrics,
    config: ServingConfig,
    listener: socket.socket,
    on_started: Callable[[Started], None],
) -> bool:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    starting = asyncio.create_task(pool.start())
    await asyncio.wait((serving, starting), return_when=asyncio.FIRST_COMPLETED)
    try:
        if starting.done():
            readiness = starting.result()
            limits = {"least": config.replicas_least, "most": config.replicas_most}
            connections = server.server_state.connections
            metrics.watch(pool, limits, config.queue, readiness.model, connections)
            on_started(Started(address_of(listener), readiness, pool.max_batch))
    finally:
        if starting.done() and starting.exception() is not None:
            server.should_exit = True
        starting.cancel()
        await serving
    return server.finished_all


def _make_server(app: Any, config: ServingConfig, pool: Pool, metrics: ServingMetrics) -> "_Server":
    limits = ConnectionLimits(most=config.max_connections)
    largest = int(max(config.max_body_mb, config.max_video_mb) * 1e6)
    protocol = guarded_protocol(limits, metrics.refused_connection, largest)
    uvicorn_config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=int(limits.idle_s),
        timeout_graceful_shutdown=int(config.drain_s) + 5,
        backlog=2048,
    )
    return _Server(uvicorn_config, pool, config.drain_s)


class _Server(uvicorn.Server):
    """Finishes what was accepted before connections are closed.

    Attributes:
        finished_all: whether it could, within the time there was.
    """

    def __init__(self, config: uvicorn.Config, pool: Pool, drain_s: float) -> None:
        super().__init__(config)
        self._pool = pool
        self._drain_s = drain_s
        self.finished_all = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self.finished_all = await self._pool.drain(self._drain_s)
        await super().shutdown(sockets)


def _limits(config: ServingConfig) -> PoolLimits:
    return PoolLimits(
        scale=config.scale,
        max_batch=config.max_batch,
        batch_delay_s=config.batch_delay_ms / 1e3,
        queue=config.queue,
        time_limit_s=config.time_limit_s,
    )


def _launch(config: ServingConfig, name: str, to: Listener) -> Replica:
    """A replica for the pool. Threads that torch or OpenMP would take are the user's to set."""
    told = {
        "model": config.model,
        "device": config.device,
        "threads": config.threads,
        "card": None if config.card is None else str(config.card),
        "max_batch": config.max_batch,
    }
    return Replica(name, told, dict(os.environ), to)
