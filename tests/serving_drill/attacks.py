"""What is done to a server, and what is seen of it: each attack gives its figures."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving_drill.known import Known
from serving_drill.server import ServedModel
from visiondyno.measurements.percentiles import percentile

TESTS = Path(__file__).resolve().parents[1]
RECOVERY_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load found; see `client.Found`."""

    statuses: dict[str, int]
    wrong: int
    unexplained: int
    accepted_ms: list[float]
    good_at_s: list[float]
    seconds: float
    surprises: list[str]

    @property
    def good(self) -> int:
        """Requests answered with 200."""
        return self.statuses.get("200", 0)

    @property
    def is_right(self) -> bool:
        """Every answer right, or a refusal as documented; no connection cut."""
        refusals = {"200", "429", "503", "504"}
        return not self.wrong and not self.unexplained and set(self.statuses) <= refusals

    def line(self) -> str:
        """For people."""
        p50 = percentile(self.accepted_ms, 0.5) if self.accepted_ms else float("nan")
        slowest = max(self.accepted_ms, default=float("nan"))
        return (
            f"{self.statuses}, wrong {self.wrong}, undocumented {self.unexplained}; accepted: "
            f"p50 {p50:.0f} ms, slowest {slowest:.0f} ms {self.surprises}"
        )


def begin_load(
    server: ServedModel, known: Known, rate: float, seconds: float
) -> "subprocess.Popen[str]":
    """Start the load's process."""
    order = {
        "port": server.port,
        "rate": rate,
        "seconds": seconds,
        "images": known.images,
        "known": known.answers,
    }
    return _module("serving_drill.client", order)


def end_load(process: "subprocess.Popen[str]") -> Loaded:
    """Wait for it."""
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    told = json.loads(out.splitlines()[-1])
    names = ("statuses", "wrong", "unexplained", "accepted_ms", "good_at_s", "seconds", "surprises")
    return Loaded(**{name: told[name] for name in names})


def load(server: ServedModel, known: Known, rate: float, seconds: float) -> Loaded:
    """One load from its beginning to its end."""
    return end_load(begin_load(server, known, rate, seconds))


def capacity(server: ServedModel, known: Known, seconds: float) -> float:
    """Requests a second that the server can do: eight clients that ask again and again."""
    images = [Path(one).read_bytes() for one in known.images]
    end = time.monotonic() + seconds

    def ask(number: int) -> int:
        done = 0
        while time.monotonic() < end:
            status, _ = server.post(images[number % len(images)])
            done += status == 200
        return done

    begin = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        done = sum(pool.map(ask, range(8)))
    return done / (time.monotonic() - begin)


def recover(server: ServedModel, known: Known, rate: float = 5.0, seconds: float = 2.0) -> float:
    """Seconds until a light load is answered in full, each answer right."""
    begin = time.monotonic()
    while time.monotonic() - begin < RECOVERY_LIMIT_S:
        before = time.monotonic() - begin
        found = load(server, known, rate, seconds)
        if found.statuses == {"200": int(rate * seconds)} and not found.wrong:
            return before
    raise AssertionError(f"no recovery: {found.line()}")


def load_with_kills(
    server: ServedModel, known: Known, rate: float, seconds: float, every_s: float
) -> tuple[Loaded, int]:
    """A load, while now and then a replica is SIGKILLed; and how many were."""
    running = begin_load(server, known, rate, seconds)
    chosen = random.Random(8)
    killed = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(every_s)
        if server.replicas_ready() > 1:  # the last one's replacement works: now this one may die
            with suppress(ProcessLookupError):
                os.kill(chosen.choice(server.replicas).pid, signal.SIGKILL)
                killed += 1
    return end_load(running), killed


def drip(server: ServedModel, message: bytes, seconds: float, at_once: int = 0) -> float | None:
    """Send it a byte a second; after how many seconds the server ended that, None: it didn't.

    `at_once`: so many bytes are sent in the beginning.
    """
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(1.0)
        for place in (0, *range(max(1, at_once), len(message))):
            try:
                client.sendall(message[place : max(place + 1, at_once)])
                client.recv(1000)  # an answer, or the end: whichever, it is over
                return time.monotonic() - begin
            except TimeoutError:
                pass
            except OSError:
                return time.monotonic() - begin
            if time.monotonic() - begin > seconds:
                return None
    return None


def crowd(server: ServedModel, connections: int, hold_s: float) -> "subprocess.Popen[str]":
    """Start the process of idle connections; its first line tells when all are open."""
    order = {"port": server.port, "connections": connections, "hold_s": hold_s}
    return _module("serving_drill.crowd", order)


def end_crowd(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What they were answered in the end."""
    out, _ = process.communicate(timeout=200)
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def _module(name: str, order: dict[str, Any]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", name, json.dumps(order)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    )
