"""The worker processes of an emulated endpoint."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_STANDARD_ERROR = 2


class WorkerProcesses:
    """Starts worker processes, ends them, and tells when they have ended.

    Each runs under a guard (`worker_guard`), so none outlives this process.

    Args:
        command: what a worker runs.
        log_folder: gets one file for each worker; None: their output goes to standard error.
        on_exit: called on the event loop with the worker's id and exit code.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_folder: Path | None,
        on_exit: Callable[[str, int], None],
    ) -> None:
        self._command = list(command)
        self._log_folder = log_folder
        self._on_exit = on_exit
        self._guards: dict[str, subprocess.Popen[bytes]] = {}
        self._waiting: dict[str, threading.Thread] = {}

    def start(self, worker_id: str, environ: Mapping[str, str]) -> None:
        """Start a worker with so much added to this process's environment."""
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            log = None
            if self._log_folder is not None:
                path = self._log_folder / f"{worker_id}.log"
                log = stack.enter_context(path.open("ab"))
            guard = subprocess.Popen(  # noqa: S603 - the user's own command
                [sys.executable, "-m", "visiondyno.emulator.worker_guard", *self._command],
                stdin=subprocess.PIPE,
                stdout=log if log is not None else _STANDARD_ERROR,
                stderr=log,
                env={**os.environ, **environ},
                start_new_session=True,  # Ctrl-C is the emulator's to handle
            )
        self._guards[worker_id] = guard
        thread = threading.Thread(
            target=self._wait, args=(worker_id, guard, loop), name=f"worker {worker_id}"
        )
        self._waiting[worker_id] = thread
        thread.start()

    def terminate(self, worker_id: str) -> None:
        """Ask it to end."""
        guard = self._guards.get(worker_id)
        if guard is not None:
            guard.terminate()

    def kill(self, worker_id: str) -> None:
        """End it and what it started."""
        guard = self._guards.get(worker_id)
        if guard is not None and guard.stdin is not None and not guard.stdin.closed:
            guard.stdin.close()  # the guard kills them: it alone knows that they are still its own

    async def close(self) -> None:
        """Kill all, and wait until they are gone."""
        threads = list(self._waiting.values())
        for worker_id in list(self._guards):
            self.kill(worker_id)
        for thread in threads:
            await asyncio.to_thread(thread.join)
        await asyncio.sleep(0)  # what the threads told is told

    def _wait(
        self, worker_id: str, guard: "subprocess.Popen[bytes]", loop: asyncio.AbstractEventLoop
    ) -> None:
        code = guard.wait()
        loop.call_soon_threadsafe(self._left, worker_id, code)

    def _left(self, worker_id: str, code: int) -> None:
        self.kill(worker_id)
        del self._guards[worker_id], self._waiting[worker_id]
        self._on_exit(worker_id, code)
