"""The supervisor as a process of its own, started by the server and ended with it.

    python -m visiondyno.executors.supervisor_process < options

One line of JSON comes on standard input; its end means that the server is gone, however it went:
then the workers are stopped and their jobs given back. So a killed server leaves no orphan.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import IO

from visiondyno.executors.open_queue import open_queue
from visiondyno.executors.queue import DEFAULT_LEASE_S, DEFAULT_RETENTION_S
from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.supervisor import Supervisor
from visiondyno.executors.supervisor_options import DEFAULT_ENTRY, SupervisorOptions
from visiondyno.telemetry.logs import configure_logging


@dataclass(frozen=True, slots=True)
class QueueWorkers:
    """What the server tells its supervisor: `queue` is an address for `open_queue`."""

    queue: str
    name: str
    least: int
    most: int
    idle_timeout_s: float
    entry: str = DEFAULT_ENTRY
    lease_s: float = DEFAULT_LEASE_S
    retention_s: float = DEFAULT_RETENTION_S
    gpu_memory_fraction: float | None = None


class SupervisorProcess:
    """The supervisor beside a server. `ensure` restarts it, should it have died."""

    def __init__(self, workers: QueueWorkers, environ: Mapping[str, str] | None = None) -> None:
        self._workers = workers
        self._environ = dict(os.environ if environ is None else environ)
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return None if self._process is None else self._process.pid

    def ensure(self) -> bool:
        """Start it unless it runs or was stopped; whether it had to be started."""
        with self._lock:
            return self._ensure()

    def _ensure(self) -> bool:
        if self._is_stopped:
            return False
        if self._process is not None:
            if self._process.poll() is None:
                return False
            self._close_input(self._process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "visiondyno.executors.supervisor_process"],
            stdin=subprocess.PIPE,
            env=self._environ,
            start_new_session=True,  # Ctrl-C is the server's to handle
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: the next `ensure` sees it
            self._process.stdin.write(json.dumps(asdict(self._workers)).encode() + b"\n")
            self._process.stdin.flush()
        return True

    def stop(self, drain_s: float = 0.0) -> None:
        """Let running jobs end for `drain_s`, give back the rest, and wait until it has ended."""
        with self._lock:
            self._is_stopped = True
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{drain_s}\n".encode())
        self._close_input(self._process)
        try:
            self._process.wait(timeout=drain_s + 15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @staticmethod
    def _close_input(process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def serve(stdin: IO[bytes]) -> None:
    """Supervise until standard input ends; a number on its second line is the time to drain."""
    workers = QueueWorkers(**json.loads(stdin.readline()))
    supervisor = Supervisor(
        lambda: open_queue(workers.queue, workers.retention_s),
        SupervisorOptions(
            name=workers.name,
            entry=workers.entry,
            scale=ScaleLimits(workers.least, workers.most, workers.idle_timeout_s),
            lease_s=workers.lease_s,
            gpu_memory_fraction=workers.gpu_memory_fraction,
            patient=True,  # the server says what is wrong to whoever asks, and may be mended
        ),
    )

    def stop_at_end() -> None:
        said = stdin.read().strip()
        supervisor.stop(drain_s=float(said or 0))

    threading.Thread(target=stop_at_end, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
    supervisor.run()


if __name__ == "__main__":
    is_json = os.environ.get("VISIONDYNO_LOG_FORMAT") == "json"
    configure_logging("json" if is_json else "text", logging.INFO)
    serve(sys.stdin.buffer)
