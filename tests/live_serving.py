"""An inference server on a free port of this machine, in a thread of its own, for tests."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import httpx
import psutil

from visiondyno.serving.config import load_serving_config
from visiondyno.serving.run import Started, serve


class LiveServing:
    """`dyno serve` without its process; the replicas are processes as always.

    Attributes:
        url: its address.
        started: what it told when it was ready.
        cut_off: requests that weren't answered, once it ended.
    """

    def __init__(self, model: str = "fake:detection", **given: Any) -> None:
        """`given` of `ServingConfig`."""
        self.config = load_serving_config(model=model, _env_file=None, **{"port": 0, **given})
        self.url = ""
        self.cut_off: int | None = None
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._main, name="live-serving")
        self._failed: BaseException | None = None

    def client(self, **options: Any) -> httpx.Client:
        """An HTTP client of this server."""
        return httpx.Client(base_url=self.url, **{"timeout": 60, "trust_env": False, **options})

    def metric(self, line: str) -> float:
        """A metric's value, by its name with labels; 0.0 before it was ever counted."""
        with self.client() as client:
            text = client.get("/metrics").text
        found = [one for one in text.splitlines() if one.startswith(line + " ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_up.wait(timeout=60)
        if self._failed is not None:
            self._thread.join()
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(timeout=60)
        assert not self._thread.is_alive(), "the server stops when it is told to"

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._failed = error
        finally:
            self._is_up.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._serving = asyncio.ensure_future(serve(self.config, self._tell))
        self.cut_off = await self._serving

    def _tell(self, started: Started) -> None:
        self.started = started
        self.url = started.url
        self._is_up.set()


@contextmanager
def stopped_replica() -> Iterator[None]:
    """SIGSTOP of the replica that was started last, which has answered before; SIGCONT after."""
    children = reversed(psutil.Process().children())
    pid = next(one.pid for one in children if "visiondyno.serving.replica" in one.cmdline())
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
