"""The server: the HTTP API and the dashboard over one service, in one process.

The workers of the local queue are other processes, under a supervisor that ends with this one.
"""

import asyncio
import errno
import gc
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI

from visiondyno.api.app import make_api
from visiondyno.api.hosts import LoopbackOnly
from visiondyno.dashboard.pages import make_dashboard
from visiondyno.errors import SpecError
from visiondyno.executors.base import Executor
from visiondyno.service import Service
from visiondyno.settings import Settings
from visiondyno.wiring import make_service

T = TypeVar("T")

_BACKLOG = 2048
_CLOSE_CONNECTIONS_S = 5
_LET_GO_S = 4
_GC_THRESHOLDS = (100_000, 50, 100)


@dataclass(frozen=True, slots=True)
class Started:
    """What a server that listens tells whoever started it.

    Attributes:
        url: where it listens.
        new_key: the first API key, made just now because keys are needed and there was none.
    """

    url: str
    new_key: str | None


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` as a server wants it: on uvloop where there is one, with few collections.

    Thousands of jobs in flight are thousands of small objects that live on. At the default of 700
    the garbage collector walks them again and again, and half of the dispatch rate goes into that.
    """
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        from uvloop import new_event_loop
    except ImportError:  # Windows, PyPy
        new_event_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


def make_app(service: Service) -> FastAPI:
    """The API with the dashboard at `/`. It neither starts nor closes the service."""
    app = make_api(service)
    app.include_router(make_dashboard(service))
    if not service.settings.keys_required:
        app.add_middleware(LoopbackOnly, origins=service.settings.cors_origins)
    return app


async def serve(
    settings: Settings,
    executor: Executor | None = None,
    on_started: Callable[[Started], None] = lambda _: None,
) -> None:
    """Serve until SIGINT or SIGTERM; running jobs are given back, to be run again.

    Args:
        settings: all of them.
        executor: where jobs run; the settings' own if None.
        on_started: called once it listens.

    Raises:
        SpecError: the port is taken, or a setting is wrong.
        TransportDown: store or queue can't be reached.
    """
    listener = _listen(settings)
    try:
        service = make_service(settings, executor)
        async with service:
            new_key = await _first_key(service)
            config = uvicorn.Config(
                make_app(service),
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=_CLOSE_CONNECTIONS_S,
                server_header=False,
            )
            server = _Server(config, service)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not (server.started or serving.done()):
                await asyncio.sleep(0.01)
            if server.started:
                on_started(Started(_url(settings, listener), new_key))
            await serving
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """Lets go of those who watch jobs before it must cut them off."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        letting_go = loop.call_later(_LET_GO_S, self._service.jobs.let_go)
        try:
            await super().shutdown(sockets)
        finally:
            letting_go.cancel()


def _listen(settings: Settings) -> socket.socket:
    """Bound before anything else is opened: a second server on the port disturbs nothing."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise SpecError(
                f"Port {settings.port} on {settings.host} is taken: is another server running? "
                "Stop it, or choose another port with --port."
            ) from error
        raise SpecError(
            f"The server can't listen on {settings.host}:{settings.port} ({error.strerror}); "
            "give another --host or --port."
        ) from error
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _url(settings: Settings, listener: socket.socket) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 - as shown
    return f"http://{host}:{listener.getsockname()[1]}"


async def _first_key(service: Service) -> str | None:
    if not service.settings.keys_required or await service.keys.list():
        return None
    _, key = await service.keys.create("first")
    return key
