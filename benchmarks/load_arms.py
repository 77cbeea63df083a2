"""Servers and load generators of `load.py`: each a process of its own, each run once."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.loadtest.processes import run_in_processes
from visiondyno.loadtest.recording import Outcome, Recording
from visiondyno.loadtest.targets import prepare_target
from visiondyno.specs.load_test import Load, TargetSpec

HERE = Path(__file__).parent
LOCUST = HERE.parent / ".venv-peers" / "bin" / "locust"
WRK_SCRIPT = """
done = function(summary, latency, requests)
  io.write(string.format("P %f %f\\n", latency:percentile(95), latency:percentile(99)))
end
"""


@dataclass(slots=True)
class Server:
    """A server process; `log` is complete once it has ended.

    Attributes:
        process: its process.
        port: where it listens.
        log: the path of its log.
    """

    process: "subprocess.Popen[str]"
    port: int
    log: Path

    @property
    def url(self) -> str:
        """What to ask."""
        return f"http://127.0.0.1:{self.port}/"


@contextlib.contextmanager
def server(script: str) -> Iterator[Server]:
    """One of the servers beside this file; ended by SIGTERM, or killed."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        process = subprocess.Popen(
            [sys.executable, str(HERE / script), str(log)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        started = Server(process, int(process.stdout.readline()), log)
        try:
            yield started
        finally:
            end(started)
            process.stdout.close()


def end(started: Server) -> None:
    """End it, so that its log is whole."""
    started.process.terminate()
    try:
        started.process.wait(10)
    except subprocess.TimeoutExpired:
        started.process.kill()
        started.process.wait()


def ours(url: str, load: Load, connections: int | None = None) -> Recording:
    """One round of ours, of which every request had a good answer."""
    recording = run_in_processes(prepare_target(TargetSpec(url=url)), load, connections=connections)
    assert recording.having(Outcome.GOOD).all(), recording.errors
    return recording


def locust(url: str, user: str, users: int, rate_per_s: float, duration_s: float) -> Any:
    """What `load_locust.py` wrote; the rate is each user's, 0 as fast as it can."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [
            *(str(LOCUST), "-f", str(HERE / "load_locust.py"), "--headless", "--host", url[:-1]),
            *("-u", str(users), "-r", str(users), "-t", f"{duration_s:g}s", "--only-summary"),
            *("--stop-timeout", "5", "--loglevel", "ERROR"),
        ]
        environment = {
            **os.environ,
            "LOAD_OUT": str(out),
            "LOAD_USER": user,
            "LOAD_RATE": str(rate_per_s),
        }
        subprocess.run(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=duration_s + 60,
            check=False,  # it exits with 1 where a request failed; that is looked at below
        )
        found = json.loads(out.read_text())
    assert found["requests"] > found["failures"] == 0, found
    return found


def wrk_ms(url: str, duration_s: float) -> tuple[float, float]:
    """p95 and p99 of one connection, one request after the other."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WRK_SCRIPT)
        script.flush()
        command = ["wrk", "-t1", "-c1", f"-d{duration_s:g}s", "--timeout", "30s", "-s", script.name]
        text = _output([*command, url], duration_s)
    found = re.search(r"^P (\S+) (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1]) / 1e3, float(found[2]) / 1e3


def ab_ms(url: str, duration_s: float) -> tuple[float, float]:
    """p95 and p99 of one connection, one request after the other; whole ms."""
    text = _output(["ab", "-c1", f"-t{duration_s:.0f}", "-n1000000", "-s30", url], duration_s)
    table = dict(re.findall(r"^ +(\d+)% +(\d+)", text, re.MULTILINE))
    return float(table["95"]), float(table["99"])


def arrivals_ns(log: Path) -> NDArray[np.int64]:
    """What `load_server.py` logged, in order."""
    return np.sort(np.fromfile(log, np.int64))


def peer_versions() -> dict[str, str]:
    """By their own words."""
    return {
        "locust": _output([str(LOCUST), "--version"], 60).split(" from ")[0],
        "wrk": _output(["wrk", "-v"], 10).split(" [")[0],
        "ab": _output(["ab", "-V"], 10).split("<")[0].strip(),
    }


def _output(command: list[str], duration_s: float) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=duration_s + 60,
        check=False,  # wrk -v exits with 1
    )
    return done.stdout
