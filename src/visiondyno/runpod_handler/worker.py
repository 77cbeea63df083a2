"""What runs between the SDK's loop and the jobs: from the first look for work to SIGTERM."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from typing import Any

from visiondyno.executors.worker_pipe import WorkerPipe
from visiondyno.runpod_handler.child import Children
from visiondyno.runpod_handler.concurrency import Concurrency
from visiondyno.runpod_handler.gate import Gate
from visiondyno.runpod_handler.handler import JobHandler
from visiondyno.runpod_handler.progress import Json, OpenStream

_log = logging.getLogger(__name__)


class RunPodWorker:
    """Gives the SDK its `handler` and its `concurrency_modifier`.

    SIGTERM: the SDK takes no more jobs, those that run have `drain_s` to end and to be answered,
    and the processes are ended. What didn't end isn't answered: RunPod gives it to another worker.
    The SDK's own way waits for its open requests for up to 90 s, and a job that comes with one of
    them is lost.

    Args:
        places: jobs at once.
        may_prefetch: whether one more may be held ready.
        launch: starts a process that runs operations.
        open_stream: opens what takes the items of one job's stream.
        drain_s: how long running jobs may take to end.
    """

    def __init__(
        self,
        places: int,
        launch: Callable[[], WorkerPipe],
        open_stream: Callable[[Json], OpenStream],
        *,
        may_prefetch: bool = True,
        drain_s: float,
    ) -> None:
        self._places = places
        self._launch = launch
        self._open_stream = open_stream
        self._drain_s = drain_s
        self._concurrency = Concurrency(places, may_prefetch=may_prefetch)
        self._children: Children | None = None
        self._handler: JobHandler | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining: asyncio.Task[None] | None = None

    def concurrency_modifier(self, current: int) -> int:  # noqa: ARG002 - the SDK's signature
        """How many jobs the SDK is to hold; called in its loop before it first looks for one."""
        if self._handler is None:
            self._start()
            self._take_signals()
        return self._concurrency.jobs_wanted

    async def handler(self, job: Json) -> Json:
        """The answer to one job."""
        handler = self._handler or self._start()
        # The SDK's task for the job: it ends when the answer has been posted.
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await handler.handle(job)

    def _start(self) -> JobHandler:
        self._children = Children(self._places, self._launch)
        self._children.start()
        self._handler = JobHandler(
            self._children, Gate(self._places), self._concurrency, self._open_stream
        )
        return self._handler

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            tell_sdk = signal.getsignal(number)
            with contextlib.suppress(RuntimeError, ValueError):  # this isn't the main thread
                loop.add_signal_handler(number, self._stop, number, tell_sdk)

    def _stop(self, number: int, tell_sdk: Any) -> None:
        if callable(tell_sdk):
            tell_sdk(number, None)
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        if self._tasks:
            _log.warning("stopping: %d jobs have %g s to end", len(self._tasks), self._drain_s)
            _, late = await asyncio.wait(self._tasks, timeout=self._drain_s)
            for task in late:
                task.cancel()
            if late:
                _log.warning("%d jobs didn't end; another worker runs them again", len(late))
                await asyncio.wait(late)
        if self._children is not None:
            await self._children.stop()
        # What the SDK still waits for is its open requests for work and for cancels.
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
