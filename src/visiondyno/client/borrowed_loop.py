"""An event loop that somebody else runs, used from other threads."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from visiondyno.client.loop_thread import LoopThread, T
from visiondyno.errors import Cancelled, SpecError


class BorrowedLoop(LoopThread):
    """Runs coroutines for callers of other threads on the loop on which it is made.

    `stop` cancels what runs for them, and leaves the loop as it is; who waited gets `Cancelled`.
    So does who asks for more once `stopped` was called.
    """

    def __init__(self) -> None:
        super().__init__("borrowed", _close_nothing)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.current_thread()
        self._pid = os.getpid()
        self._is_over = False

    def stop(self, timeout_s: float | None = None) -> None:  # noqa: ARG002 - nothing is waited for
        """Cancel what runs, from any thread. Calling it again does nothing."""
        with self._lock:
            self._stopped = True
            assert self._loop is not None, "it was borrowed"
            with suppress(RuntimeError):  # a closed loop runs nothing
                self._loop.call_soon_threadsafe(self._cancel_all)

    async def stopped(self) -> None:
        """Stop, on the loop itself, and wait until all that ran has ended."""
        self._is_over = True
        self.stop()
        await asyncio.sleep(0)  # what was handed over before begins, and is cancelled
        tasks = self._cancel_all()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _schedule(self, begin: Callable[[], None]) -> asyncio.AbstractEventLoop:
        if threading.current_thread() is self._thread:
            raise SpecError(
                "This client waits for an event loop, and was called on that loop itself, which "
                "would wait for ever; call it in the function that it was made for."
            )
        if self._is_over:  # whoever was about to ask is told the same as who was waiting
            raise Cancelled("What this client was made for is over; it asks for nothing more.")
        return super()._schedule(begin)

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = super()._begin(work)
        if self._stopped:
            task.cancel()
        return task

    def _cancel_all(self) -> list[asyncio.Task[Any]]:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks


async def _close_nothing() -> None:
    """The loop and what runs on it are another's."""
