"""The emulator as a server: on this thread, or on one of its own."""

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Self

import uvicorn

from visiondyno.api.listening import address_of, listen
from visiondyno.emulator.app import make_app
from visiondyno.emulator.emulator import Emulator

_CLOSE_CONNECTIONS_S = 2


async def serve(
    emulator: Emulator,
    listener: socket.socket,
    on_started: Callable[[uvicorn.Server], None] = lambda _: None,
) -> None:
    """Serve until SIGINT or SIGTERM; then all workers are ended.

    Args:
        emulator: is started and closed here.
        listener: closed here too.
        on_started: called once it listens, before any worker starts; `should_exit` of what it is
            given ends it.
    """
    config = uvicorn.Config(
        make_app(emulator),
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_CLOSE_CONNECTIONS_S,
        server_header=False,
    )
    server = _Server(config, emulator)
    try:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not (server.started or serving.done()):
            await asyncio.sleep(0.005)
        if server.started:
            on_started(server)
            emulator.start(address_of(listener))
        await serving
    finally:
        await emulator.close()
        listener.close()


class _Server(uvicorn.Server):
    """Ends the workers and answers those who wait before it closes.

    Workers whose server went before them would ask it for jobs again and again.
    """

    def __init__(self, config: uvicorn.Config, emulator: Emulator) -> None:
        super().__init__(config)
        self._emulator = emulator

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._emulator.close()
        await super().shutdown(sockets)


class RunningEmulator:
    """An emulator on a thread of its own, for as long as the context lasts.

    >>> with RunningEmulator(lambda: Emulator(config, command)) as running:  # doctest: +SKIP
    ...     print(running.url)

    Args:
        make: makes the emulator, on that thread.
        port: where it listens on loopback; 0: any free port.

    Attributes:
        url: the endpoint's URL, as clients take it.
        base_url: the server's.
        emulator: it; its own thread alone may change it.
    """

    def __init__(self, make: Callable[[], Emulator], port: int = 0) -> None:
        self._make = make
        self._listener = listen("127.0.0.1", port)
        self.base_url = address_of(self._listener)
        self._started = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="emulator")

    @property
    def url(self) -> str:
        """The endpoint's URL."""
        return f"{self.base_url}/v2/{self.emulator.config.endpoint_id}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        if self._failed is not None:
            self._thread.join()  # it has closed what it opened
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failed = error
        finally:
            self._listener.close()
            self._started.set()

    async def _serve(self) -> None:
        self.emulator = self._make()
        await serve(self.emulator, self._listener, self._note_started)

    def _note_started(self, server: uvicorn.Server) -> None:
        self._server = server
        self._started.set()
