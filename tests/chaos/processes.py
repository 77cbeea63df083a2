"""The processes under attack: server, supervisors, workers; each killed for real."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from services import free_port

TESTS = Path(__file__).resolve().parents[1]
ENTRY = "chaos.operations:run"
START_S = 60.0


@dataclass
class Program:
    """`python -m chaos.MODULE` with options as JSON, in a folder."""

    module: str
    options: dict[str, Any]
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; its output goes to `MODULE.log`."""
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
        environ = {**os.environ, "PYTHONPATH": path, "VISIONDYNO_HOME": str(self.folder)}
        with (self.folder / f"{self.module}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"chaos.{self.module}", json.dumps(self.options)],
                cwd=self.folder,
                env=environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL this process alone: what it started must notice by itself."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it in good order."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()


@dataclass
class Server(Program):
    """The HTTP server, on the same port after each restart."""

    port: int = field(default_factory=free_port)

    def start(self) -> None:
        self.options = {**self.options, "port": self.port}
        super().start()
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError((self.folder / "server.log").read_text())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def descendants(folder: Path) -> list[psutil.Process]:
    """Every living process that was started for the run in `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("VISIONDYNO_HOME") == str(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def worker_pids(folder: Path) -> list[int]:
    """The processes that run operations."""
    pids = []
    for process in descendants(folder):
        try:
            if "visiondyno.executors.worker_process" in process.cmdline():
                pids.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return sorted(pids)
