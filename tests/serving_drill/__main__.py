"""`make chaos-serving`: the whole of it against YOLOX-nano; the last line is the figures."""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from serving_drill import attacks
from serving_drill.known import Known, find_known
from serving_drill.server import ServedModel, served

TESTDATA = Path(__file__).resolve().parents[3] / "shared" / "testdata"
TIME_LIMIT_S = 5.0
FLAGS = ("--replicas", "2", "--queue", "100", "--time-limit", str(TIME_LIMIT_S))
OVERLOAD, OVERLOAD_S = 5, 30.0
KILLS_S, KILL_EVERY_S = 60.0, 2.0
CROWD = 10_000
FILES_SPARE = 500
SLOW_CLIENTS, SLOW_S = 100, 40.0


def main() -> int:
    """0 if every promise was kept."""
    if not TESTDATA.is_dir():
        sys.exit(f"The drill needs {TESTDATA}, which isn't here.")
    known = find_known(TESTDATA)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="visiondyno-drill-") as folder:
        log = Path(folder) / "log"
        with served(known.model, log, FLAGS) as server:
            attacks.capacity(server, known, 2.0)  # all is loaded and warm before it is weighed
            before = server.footprint()
            for name, attack in (
                ("overload", overload),
                ("kills", kills),
                ("slow_clients", slow_clients),
                ("crowd", crowd),
                ("overload_again", overload),
            ):
                figures[name] = attack(server, known)
                figures[name]["recovered_after_s"] = round(attacks.recover(server, known), 2)
                print(f"{name}: {figures[name]}", flush=True)
            server.wait_for(
                lambda: server.footprint().front_fds <= before.front_fds + 5, 120, "close files"
            )
            figures["left"] = left(server, before)
            print(f"left: {figures['left']}", flush=True)
            os.kill(server.process.pid, signal.SIGKILL)
            _, orphans = psutil.wait_procs(server.replicas, 5)
            figures["orphans"] = len(orphans)
    figures["clean"] = all(one["right"] for one in figures.values() if isinstance(one, dict))
    figures["clean"] = figures["clean"] and not figures["orphans"]
    print(json.dumps(figures))
    return 0 if figures["clean"] else 1


def overload(server: ServedModel, known: Known) -> dict[str, Any]:
    """Five times what it can do, for half a minute."""
    rate = attacks.capacity(server, known, 3.0)
    found = attacks.load(server, known, OVERLOAD * rate, OVERLOAD_S)
    return {
        **_figures(found),
        "capacity_per_s": round(rate, 1),
        "good_per_s": round(found.good / found.seconds, 1),
        "right": found.is_right and max(found.accepted_ms) < 1e3 * TIME_LIMIT_S + 2000,
    }


def kills(server: ServedModel, known: Known) -> dict[str, Any]:
    """A third of what it can do, while replicas are killed again and again."""
    rate = attacks.capacity(server, known, 3.0) / 3
    found, killed = attacks.load_with_kills(server, known, rate, KILLS_S, KILL_EVERY_S)
    return {**_figures(found), "killed": killed, "right": found.is_right}


def slow_clients(server: ServedModel, known: Known) -> dict[str, Any]:
    """A hundred clients that send a byte a second, half of them in the body."""
    from concurrent.futures import ThreadPoolExecutor

    headers = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    image = Path(known.images[0]).read_bytes()
    ending = b"Content-Length: %d\r\n\r\n" % len(image)
    messages = [headers + b"X-Slow: " + b"a" * 100, headers + ending + image]
    running = attacks.begin_load(server, known, 20.0, SLOW_S)
    with ThreadPoolExecutor(SLOW_CLIENTS) as pool:
        ended = list(
            pool.map(
                lambda number: attacks.drip(
                    server, messages[number % 2], SLOW_S, len(headers + ending) * (number % 2)
                ),
                range(SLOW_CLIENTS),
            )
        )
    found = attacks.end_load(running)
    held = [one for one in ended if one is not None]
    return {
        **_figures(found),
        "ended": len(held),
        "ended_after_s": round(max(held, default=0.0), 1),
        "right": found.is_right and len(held) == SLOW_CLIENTS,
    }


def crowd(server: ServedModel, known: Known) -> dict[str, Any]:
    """Ten thousand connections that do nothing, beside a load; then each asks."""
    running = attacks.crowd(server, CROWD, hold_s=10.0)
    assert running.stdout is not None
    begin = time.monotonic()
    running.stdout.readline()
    opened_s = time.monotonic() - begin
    footprint = server.footprint()
    found = attacks.load(server, known, 20.0, 5.0)
    answered = attacks.end_crowd(running)
    return {
        **_figures(found),
        "crowd": answered,
        "opened_in_s": round(opened_s, 2),
        "front_rss_mb": round(footprint.front_rss_mb),
        "front_fds": footprint.front_fds,
        "right": found.is_right and answered["answered"] == {"200": CROWD},
    }


def left(server: ServedModel, before: Any) -> dict[str, Any]:
    """What it holds more than in the beginning."""
    after = server.footprint()
    return {
        "front_rss_mb": [round(before.front_rss_mb), round(after.front_rss_mb)],
        "front_fds": [before.front_fds, after.front_fds],
        "replicas": [before.replicas, after.replicas],
        "queue_depth": server.metric("visiondyno_inference_queue_depth"),
        "right": after.replicas == before.replicas
        and after.front_rss_mb < before.front_rss_mb + 150,
    }


def _figures(found: attacks.Loaded) -> dict[str, Any]:
    return {
        "statuses": found.statuses,
        "wrong": found.wrong,
        "undocumented": found.unexplained,
        "slowest_accepted_ms": round(max(found.accepted_ms, default=float("nan"))),
    }


if __name__ == "__main__":
    sys.exit(main())
