"""The HTTP server itself: uvicorn with limits of connections, and an end that cuts nothing off."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from typing import Any

import uvicorn

from visiondyno.serving.config import ServingConfig
from visiondyno.serving.connections import ConnectionLimits, guarded_protocol
from visiondyno.serving.metrics import ServingMetrics
from visiondyno.serving.pool import Pool

_LOOK_EVERY_S = 0.02
_LAST_WORDS_S = 1
"""For answers that are made already."""


class HttpServer(uvicorn.Server):
    """Finishes what was accepted before it closes connections.

    Attributes:
        cut_off: requests that weren't answered when it ended.
    """

    def __init__(
        self,
        app: Any,
        config: ServingConfig,
        pool: Pool,
        metrics: ServingMetrics,
        on_stopping: Callable[[int], None],
    ) -> None:
        """`on_stopping` is told how many requests are to be finished."""
        limits = ConnectionLimits(most=config.max_connections)
        largest = int(max(config.max_body_mb, config.max_video_mb) * 1e6)
        uvicorn_config = uvicorn.Config(
            app,
            http=guarded_protocol(limits, metrics.refused_connection, largest, app.state.lane),
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=int(limits.idle_s),
            timeout_graceful_shutdown=_LAST_WORDS_S,
            backlog=2048,
        )
        super().__init__(uvicorn_config)
        self._pool = pool
        self._drain_s = config.drain_s
        self._on_stopping = on_stopping
        self.cut_off = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """None of uvicorn's own: those raise the signal once more when all is done."""
        yield

    def stop(self) -> None:
        """Have it finish; called again: at once."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        if self.started:
            self._on_stopping(len(self.server_state.tasks))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections and no more requests, then wait for those that came."""
        state = self.server_state
        end_s = asyncio.get_running_loop().time() + self._drain_s
        self._pool.announce_end()
        for server in self.servers:
            server.close()
        for connection in list(state.connections):
            connection.shutdown()  # an idle one at once, others after their answer
        while state.tasks and not self._is_over(end_s):
            await asyncio.sleep(_LOOK_EVERY_S)
        self.cut_off = len(state.tasks)
        # What other faces (gRPC) had accepted.
        left_s = 0.0 if self.force_exit else end_s - asyncio.get_running_loop().time()
        await self._pool.drain(max(0.0, left_s))
        await self._pool.close()  # what was cut off is told so
        await super().shutdown(sockets)

    def _is_over(self, end_s: float) -> bool:
        return self.force_exit or asyncio.get_running_loop().time() > end_s
