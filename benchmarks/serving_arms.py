"""The arms of `make bench-serving`: how each server is started, posted to, looked at and ended."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import psutil

PEERS = Path(__file__).parent / "serving_peers"
BIN = Path(__file__).resolve().parents[1] / ".venv-peers" / "bin"
START_LIMIT_S = 60.0
_LOOK_EVERY_S = 0.02
_STOP_LIMIT_S = 15.0

COMMANDS: dict[str, Sequence[str]] = {
    "dyno_serve": (
        "dyno", "serve", "{model}", "--replicas", "2", "--threads", "1", "--port", "{port}",
    ),
    "mosec": (
        "python", "mosec_server.py", "--address", "127.0.0.1", "--port", "{port}",
        "--timeout", "30000", "--log-level", "error",
    ),
    "litserve": ("python", "litserve_server.py", "{port}"),
    "bentoml": (
        "bentoml", "serve", "bentoml_service:Detector", "--host", "127.0.0.1", "--port", "{port}",
    ),
    "fastapi_def": ("python", "fastapi_server.py", "{port}"),
    "flask_gunicorn": (
        "gunicorn", "--workers", "1", "--threads", "2", "--bind", "127.0.0.1:{port}",
        "--keep-alive", "75", "--log-level", "error", "flask_server:app",
    ),
}  # fmt: skip
"""Each with two replicas, workers or threads, but FastAPI, which is left as it mostly runs."""


@dataclass(frozen=True, slots=True)
class Given:
    """What every arm is given.

    Attributes:
        model: the detector's file.
        jpeg: the image's file.
        folder: for what the servers print and write.
    """

    model: Path
    jpeg: Path
    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        """For the processes of an arm."""
        return os.environ | {
            "SERVING_BENCHMARK_MODEL": str(self.model),
            "SERVING_BENCHMARK_JPEG": str(self.jpeg),
            "PYTHONPATH": os.pathsep.join(
                [str(PEERS), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "BENTOML_DO_NOT_TRACK": "true",
            "DO_NOT_TRACK": "1",
            "BENTOML_HOME": str(self.folder / "bentoml"),
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        }


@dataclass(frozen=True, slots=True)
class Posted:
    """What one run of wrk found."""

    rate: float
    p50_ms: float
    p99_ms: float
    requests: int


class Server:
    """A started server of one arm.

    Attributes:
        name: of the arm.
        first_answer_s: from its start to its first 200.
        answer: that answer's prediction.
    """

    def __init__(self, name: str, given: Given) -> None:
        self.name = name
        self._given = given
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}/predict"
        command = [part.format(port=port, model=given.model) for part in COMMANDS[name]]
        self._log = (given.folder / f"{name}.log").open("ab")
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            cwd=PEERS,
            env=given.environ,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self.answer = self._first_answer(started + START_LIMIT_S)
        self.first_answer_s = time.perf_counter() - started

    def post(self, connections: int, seconds: float) -> Posted:
        """Keep so many connections busy for so long.

        Raises:
            RuntimeError: a request failed.
        """
        done = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s",
             "-s", str(PEERS / "post.lua"), self._url],
            env=self._given.environ, capture_output=True, text=True, check=True,
        )  # fmt: skip
        told = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
        if told["failed"] or not told["requests"]:
            raise RuntimeError(f"{self.name}: {told}\n{done.stdout}")
        rate = told["requests"] / told["seconds"]
        return Posted(rate, told["p50_ms"], told["p99_ms"], told["requests"])

    def cpu_s(self) -> float:
        """Processor time of all its processes so far."""
        spent = 0.0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                spent += times.user + times.system
        return spent

    def pss_mb(self) -> float:
        """Memory of all its processes, what they share counted once (PSS)."""
        total_kb = 0
        for process in self._processes():
            with contextlib.suppress(OSError):
                rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                line = next(one for one in rollup.splitlines() if one.startswith("Pss:"))
                total_kb += int(line.split()[1])
        return total_kb / 1024

    def close(self) -> None:
        """End it and all that it started."""
        processes = self._processes()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)
        _, left = psutil.wait_procs(processes, _STOP_LIMIT_S)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()
        self._log.close()

    def _processes(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.Error:
            return []

    def _first_answer(self, end: float) -> Any:
        jpeg = self._given.jpeg.read_bytes()
        asked = urllib.request.Request(  # noqa: S310 - our own http://127.0.0.1
            self._url, jpeg, {"Content-Type": "image/jpeg"}, method="POST"
        )
        while time.perf_counter() < end and self._process.poll() is None:
            # A refusal or a closed port: it isn't ready yet.
            with (
                contextlib.suppress(URLError, OSError, ValueError),
                urllib.request.urlopen(asked, timeout=START_LIMIT_S) as answer,  # noqa: S310
            ):
                told = json.loads(answer.read())
                return told["predictions"][0] if "predictions" in told else told
            time.sleep(_LOOK_EVERY_S)
        self.close()
        log = Path(self._log.name).read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.name} gave no answer:\n{log}")


class Raw:
    """The loop without a server, in two processes that wait between their turns.

    Attributes:
        answer: its prediction.
    """

    def __init__(self, given: Given, environ: Mapping[str, str]) -> None:
        command = [str(BIN / "python"), str(PEERS / "raw.py"), str(given.jpeg)]
        self._processes = [
            subprocess.Popen(
                command,
                env=dict(environ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        self.answer, _ = [self._line(one) for one in self._processes]

    def run(self, processes: int, seconds: float) -> tuple[float, list[float]]:
        """Images a second of so many processes together, and the time of each image, ms."""
        used = self._processes[:processes]
        for one in used:
            assert one.stdin is not None
            print(seconds, file=one.stdin, flush=True)
        found = [self._line(one) for one in used]
        rate = sum(len(one["each_ms"]) / one["seconds"] for one in found)
        return rate, [each for one in found for each in one["each_ms"]]

    def close(self) -> None:
        """End the processes."""
        for one in self._processes:
            assert one.stdin is not None
            one.stdin.close()
            one.wait()
            if one.stdout is not None:
                one.stdout.close()

    @staticmethod
    def _line(process: "subprocess.Popen[str]") -> Any:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            sys.exit(f"The raw loop ended with exit code {process.wait()}.")
        return json.loads(line)


@contextlib.contextmanager
def started(name: str, given: Given) -> Iterator[Server]:
    """A server of that arm, ended afterwards."""
    server = Server(name, given)
    try:
        yield server
    finally:
        server.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
