"""The server: the HTTP API and the dashboard over one service, in one process.

The workers of the local queue are other processes, under a supervisor that ends with this one.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from visiondyno.api.app import make_api
from visiondyno.api.hosts import LoopbackOnly
from visiondyno.api.listening import address_of, listen
from visiondyno.dashboard.pages import make_dashboard
from visiondyno.executors.base import Executor
from visiondyno.service import Service
from visiondyno.settings import Settings
from visiondyno.telemetry.access import AccessLog
from visiondyno.telemetry.traces import Tracing, start_tracing
from visiondyno.wiring import make_service

_CLOSE_CONNECTIONS_S = 5
_LET_GO_S = 4


@dataclass(frozen=True, slots=True)
class Started:
    """What a server that listens tells whoever started it.

    Attributes:
        url: where it listens.
        new_key: the first API key, made just now because keys are needed and there was none.
    """

    url: str
    new_key: str | None


def make_app(
    service: Service, access_log: AccessLog | None = None, tracing: Tracing | None = None
) -> FastAPI:
    """The API with the dashboard at `/`. It neither starts nor closes any of what it is given."""
    app = make_api(service, access_log=access_log, tracing=tracing)
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
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(listen(settings.host, settings.port))
        access_log = None
        if settings.access_log is not None:
            access_log = AccessLog(settings.access_log, settings.log_format)
            stack.callback(access_log.close)
        tracing = start_tracing("visiondyno")
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        service = make_service(settings, executor)
        async with service:
            new_key = await _first_key(service)
            config = uvicorn.Config(
                make_app(service, access_log, tracing),
                log_config=None,  # ours: its own would be text among lines of JSON
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
                on_started(Started(address_of(listener), new_key))
            await serving


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


async def _first_key(service: Service) -> str | None:
    if not service.settings.keys_required or await service.keys.list():
        return None
    _, key = await service.keys.create("first")
    return key
