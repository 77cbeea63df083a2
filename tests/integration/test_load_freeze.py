"""A target that freezes: what is recorded is what a queue in front of it would give."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from visiondyno.loadtest.processes import run_in_processes
from visiondyno.loadtest.recording import Outcome
from visiondyno.loadtest.targets import prepare_target
from visiondyno.measurements.percentiles import percentile
from visiondyno.specs.load_test import ConstantLoad, TargetSpec

SERIAL_SERVER = """
import socket, sys, time
log = open(sys.argv[1], "w")
listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        begin_ns = time.monotonic_ns()
        if connection.recv(65536):
            time.sleep(0.005)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n"
                               b"Connection: close\\r\\n\\r\\n")
            print(begin_ns, time.monotonic_ns(), file=log, flush=True)
"""


TAIL = (0.9, 0.95, 0.99)


def latencies_ms(
    arrivals_ns: np.ndarray, service_ns: np.ndarray, stopped_ns: int, going_on_ns: int
) -> list[float]:
    """Of one server that takes one request after the other, and takes none while it is stopped."""
    free_ns, found = 0, []
    for arrival_ns, took_ns in zip(arrivals_ns.tolist(), service_ns.tolist(), strict=True):
        begin_ns = max(arrival_ns, free_ns)
        if stopped_ns <= begin_ns < going_on_ns:
            begin_ns = going_on_ns
        free_ns = begin_ns + took_ns
        found.append((free_ns - arrival_ns) / 1e6)
    return found


def test_the_wait_behind_a_frozen_target_counts(tmp_path: Path) -> None:
    # A second pause, of the generator or the whole machine, isn't the generator's error.
    assert any(is_counted_right(tmp_path / f"log-{number}") for number in range(3))


def is_counted_right(log: Path) -> bool:
    server = subprocess.Popen(
        [sys.executable, "-c", SERIAL_SERVER, str(log)], stdout=subprocess.PIPE, text=True
    )
    moments: list[int] = []

    def freeze() -> None:
        time.sleep(0.4)  # a part of the round
        moments.append(time.monotonic_ns())
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(0.5)
        os.kill(server.pid, signal.SIGCONT)

    freezing = threading.Thread(target=freeze)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        target = prepare_target(TargetSpec(url=f"http://127.0.0.1:{port}/"))
        load = ConstantLoad(rate_per_s=50, duration_s=2.5)
        recording = run_in_processes(target, load, when_ready=freezing.start)
        freezing.join()
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()
    assert recording.having(Outcome.GOOD).all()
    logged = np.loadtxt(log, dtype=np.int64)
    (stopped_ns,) = moments
    going_on_ns = int(logged[:, 0][logged[:, 0] > stopped_ns].min())
    service_ns = logged[:, 1] - logged[:, 0]
    truth_ms = latencies_ms(recording.scheduled_ns, service_ns, stopped_ns, going_on_ns)
    # A generator that waits for answers would have sent nothing meanwhile, and seen one slow one.
    assert (recording.latency_ms > 100).sum() >= 15
    ratios = [percentile(recording.latency_ms, q) / percentile(truth_ms, q) for q in TAIL]
    return all(0.85 < ratio < 1.15 for ratio in ratios)
