"""The window of a watcher around the load alone, without the generator's own start."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from visiondyno.loadtest.watching.base import Watcher
from visiondyno.report.load_test import Resources


class Window:
    """Watching that begins when it is told to.

    Attributes:
        resources: what was found, once it is closed; None: nothing was watched.
    """

    def __init__(self, watcher: Watcher | None) -> None:
        self._watcher = watcher
        self._loop = asyncio.get_running_loop()
        self._is_open = False
        self.resources: Resources | None = None

    def open(self) -> None:
        """Begin, and return when the first sample is taken; called from another thread."""
        if self._watcher is not None:
            self._is_open = True
            asyncio.run_coroutine_threadsafe(self._watcher.start(), self._loop).result()

    async def close(self) -> None:
        """End; nothing is found where it never began."""
        if self._watcher is not None and self._is_open:
            self.resources = await self._watcher.stop()


@contextlib.asynccontextmanager
async def watched(watcher: Watcher | None) -> AsyncIterator[Window]:
    """A window that is closed whatever becomes of the round."""
    window = Window(watcher)
    try:
        yield window
    finally:
        await window.close()
