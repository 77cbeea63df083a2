"""A real `dyno serve` in a process of its own, and what can be seen of it from outside."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from services import free_port

START_S = 60.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a server holds: of the front its memory and file descriptors, of all the processes."""

    front_rss_mb: float
    front_fds: int
    replicas: int


class ServedModel:
    """A started server."""

    def __init__(self, model: str, log: Path, *flags: str, most_files: int | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        command = [sys.executable, "-c", "import sys; from visiondyno.cli import main; main()"]
        command += ["serve", model, "--port", str(self.port), "--threads", "1", *flags]
        if most_files is not None:
            command = ["sh", "-c", f'ulimit -n {most_files}; exec "$@"', "sh", *command]
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        self.wait_for(self.is_ready, START_S, "become ready")

    @property
    def replicas(self) -> list[psutil.Process]:
        """Processes that hold the model."""
        with contextlib.suppress(psutil.Error):
            return [
                one
                for one in psutil.Process(self.process.pid).children()
                if "visiondyno.serving.replica" in " ".join(one.cmdline())
            ]
        return []

    def footprint(self) -> Footprint:
        """As it is now."""
        front = psutil.Process(self.process.pid)
        return Footprint(front.memory_info().rss / 1e6, front.num_fds(), len(self.replicas))

    def post(self, image: bytes, timeout_s: float = 30.0) -> tuple[int, Any]:
        """Status and answer of one request."""
        asked = urllib.request.Request(f"{self.url}/predict", image, {"Content-Type": "image/jpeg"})
        try:
            with urllib.request.urlopen(asked, timeout=timeout_s) as answer:
                return answer.status, json.loads(answer.read())["predictions"][0]
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def replicas_ready(self) -> int:
        """How many take batches, as the server says."""
        with urllib.request.urlopen(f"{self.url}/ready", timeout=10) as answer:
            return int(json.loads(answer.read())["replicas"]["ready"])

    def is_ready(self) -> bool:
        """Whether /ready says so."""
        try:
            with urllib.request.urlopen(f"{self.url}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = [
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith((name + " ", name + "{"))
        ]
        assert found, name
        return sum(found)

    def wait_for(self, reached: Any, limit_s: float, what: str) -> float:
        """Wait until it is so; seconds that it took."""
        begin = time.monotonic()
        while time.monotonic() - begin < limit_s:
            if reached():
                return time.monotonic() - begin
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"didn't {what} in {limit_s} s:\n{self.log.read_text()[-3000:]}")

    def close(self) -> int:
        """SIGTERM, and its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise


@contextlib.contextmanager
def served(model: str, log: Path, flags: Sequence[str], **options: Any) -> Iterator[ServedModel]:
    """A server, ended afterwards."""
    server = ServedModel(model, log, *flags, **options)
    try:
        yield server
    finally:
        server.close()
