"""An inference server of one model on free ports of this machine, in a thread of its own."""

import asyncio
import threading
from typing import Any, Self

import httpx

from visiondyno.serving.config import ServingConfig, load_serving_config
from visiondyno.serving.run import Started, serve


class ServedModel:
    """`dyno serve` without its process; replicas are processes as ever.

    Attributes:
        started: what it told when it was ready.
        client: of its HTTP side.
    """

    started: Started
    client: httpx.Client

    def __init__(self, model: str, **flags: Any) -> None:
        flags = {"model": model, "host": "127.0.0.1", "port": 0, "threads": 1, **flags}
        self.config: ServingConfig = load_serving_config(**flags)
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serving: asyncio.Task[Any] | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(120)
        if self._failure is not None:
            self._thread.join(60)
            raise self._failure
        self.client = httpx.Client(base_url=self.started.url, timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        assert self._loop is not None
        assert self._serving is not None
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # handed to the test
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._serving = asyncio.create_task(serve(self.config, self._on_started))
        await self._serving

    def _on_started(self, started: Started) -> None:
        self.started = started
        self._ready.set()
