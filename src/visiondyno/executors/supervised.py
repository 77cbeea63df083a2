"""A queue's executor with workers of its own: `local`, and `redis` where the server has workers."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Mapping

from visiondyno.executors.open_queue import is_redis, open_queue
from visiondyno.executors.queue import DEFAULT_MAX_ATTEMPTS
from visiondyno.executors.queued import QueueExecutor
from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.supervisor_process import QueueWorkers, SupervisorProcess

_log = logging.getLogger(__name__)

_LOOK_S = 0.5


def queue_workers(queue: str, scale: ScaleLimits) -> QueueWorkers:
    """The usual workers on the queue at `queue`; `dataclasses.replace` what should differ."""
    return QueueWorkers(
        queue=queue,
        name=f"{socket.gethostname()}-{os.getpid()}",
        least=scale.least,
        most=scale.most,
        idle_timeout_s=scale.idle_timeout_s,
    )


class SupervisedExecutor(QueueExecutor):
    """`QueueExecutor` that runs a supervisor process too, and replaces one that died."""

    def __init__(
        self,
        workers: QueueWorkers,
        *,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        drain_s: float = 0.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`drain_s`: how long `close` lets running jobs end before they are given back."""
        super().__init__(
            "redis" if is_redis(workers.queue) else "local",
            lambda: open_queue(workers.queue, workers.retention_s),
            max_attempts=max_attempts,
        )
        self._supervisor = SupervisorProcess(workers, environ)
        self._drain_s = drain_s
        self._keeping: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    @property
    def supervisor_pid(self) -> int | None:
        """The supervisor's process id while it runs."""
        return self._supervisor.pid

    @property
    def _is_started(self) -> bool:
        return self._feeding is not None and self._keeping is not None

    async def start(self) -> None:
        await super().start()
        if self._keeping is not None:
            return
        async with self._starting:
            if self._keeping is None and not self._closed:
                await asyncio.to_thread(self._supervisor.ensure)
                self._keeping = asyncio.create_task(self._keep())

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
            self._keeping = None
        await asyncio.to_thread(self._supervisor.stop, self._drain_s)
        await super().close()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await asyncio.to_thread(self._supervisor.ensure)
            except OSError as error:  # no memory or no process to be had; perhaps in a moment
                _log.warning("the workers' supervisor can't be started: %s", error)
