"""An inference server from its start to its end.

What this module imports is little: the sooner it spawns the first replica, the sooner the server is
ready, and all else is imported while that starts.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from visiondyno.api.listening import address_of, listen
from visiondyno.serving.asked import Asked, options_of
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.huge_pages import with_huge_pages
from visiondyno.serving.metrics import ServingMetrics
from visiondyno.serving.pool import Pool, PoolLimits
from visiondyno.serving.replicas import Listener, Readiness, Replica
from visiondyno.serving.signals import taken_signals
from visiondyno.serving.statistics import Statistics
from visiondyno.telemetry.access import AccessLog

if TYPE_CHECKING:
    from visiondyno.serving.front import Front


@dataclass(frozen=True, slots=True)
class Started:
    """What a server that is ready tells whoever started it.

    Attributes:
        url: where it listens.
        readiness: of the first replica.
        max_batch: most images in one inference.
        grpc_address: where it listens for gRPC, `HOST:PORT`; None where it doesn't.
    """

    url: str
    readiness: Readiness
    max_batch: int
    grpc_address: str | None = None


async def serve(
    config: ServingConfig,
    on_started: Callable[[Started], None] = lambda _: None,
    on_stopping: Callable[[int], None] = lambda _: None,
) -> int:
    """Serve until SIGINT or SIGTERM, then finish what was accepted.

    The port is taken first, and answers that it isn't ready until a replica is.

    Args:
        config: what is served, and how.
        on_started: told when a replica is ready.
        on_stopping: told at the signal how many requests are to be finished.

    Returns:
        How many requests were cut off: by a second signal, or since `drain_s` was over.

    Raises:
        SpecError: the port is taken, or an option is wrong.
        VisionDynoError: the model can't be loaded.
    """
    async with contextlib.AsyncExitStack() as closing:
        # Before the first process is spawned: one must never be left behind.
        signals = closing.enter_context(taken_signals())
        listener = listen(config.host, config.port)
        closing.callback(listener.close)
        access_log = _open_access_log(config, closing)
        metrics = ServingMetrics(CollectorRegistry(), config.model_name)
        statistics = Statistics()
        pool = _make_pool(config, metrics, statistics)
        closing.push_async_callback(pool.close)
        starting = asyncio.create_task(pool.start())
        closing.callback(starting.cancel)
        await asyncio.sleep(0)
        # Only now what HTTP needs: the model's process starts while this one imports that.
        from visiondyno.serving.front import FrontParts, open_front

        parts = FrontParts(pool, metrics, statistics, access_log, on_stopping)
        front = await open_front(config, parts, closing)
        signals.tell(front.server.stop)
        return await _run(front, starting, config, metrics, listener, on_started)


def _open_access_log(config: ServingConfig, closing: contextlib.AsyncExitStack) -> AccessLog | None:
    if config.access_log is None:
        return None
    access_log = AccessLog(config.access_log, config.log_format)
    closing.callback(access_log.close)
    return access_log


def _make_pool(config: ServingConfig, metrics: ServingMetrics, statistics: Statistics) -> Pool:
    launch = partial(_launch, config)
    # The loop's own clock has steps of a millisecond (uvloop): too coarse for what is told.
    return Pool(_limits(config), launch, metrics, time.monotonic, statistics.batch_done)


async def _run(
    front: "Front",
    starting: asyncio.Task[Readiness],
    config: ServingConfig,
    metrics: ServingMetrics,
    listener: socket.socket,
    on_started: Callable[[Started], None],
) -> int:
    server, pool = front.server, front.pool
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.wait((serving, starting), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            readiness = starting.result()
            options_of(Asked(), config, readiness.model)  # do the defaults fit the model?
            limits = {"least": config.replicas_least, "most": config.replicas_most}
            connections = server.server_state.connections
            metrics.watch(pool, limits, config.queue, readiness.model, connections)
            url = address_of(listener)
            on_started(Started(url, readiness, pool.max_batch, front.grpc_address))
    except BaseException:
        server.should_exit = server.force_exit = True
        raise
    finally:
        starting.cancel()
        await serving
    return server.cut_off


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
        "threads": config.threads_each,
        "card": None if config.card is None else str(config.card),
        "max_batch": config.max_batch,
    }
    return Replica(name, told, with_huge_pages(os.environ), to)
