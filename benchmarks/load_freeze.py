"""The freeze test: a serial server stands still for a while; who sees what its users would see?

The truth is computed: an open loop's arrivals, a queue, the service times that the server logged,
and the moments at which it was stopped and went on.
"""

import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from load_arms import Server, ab_ms, locust, ours, server, wrk_ms
from visiondyno.measurements.percentiles import percentile
from visiondyno.specs.load_test import ConstantLoad

RATE_PER_S = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """How long it runs, and when and for how long the server is stopped; seconds."""

    duration_s: float = 30.0
    stop_at_s: float = 10.0
    stopped_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Percentiles in ms: by a generator, and in truth."""

    p95_ms: float
    p99_ms: float
    true_p95_ms: float
    true_p99_ms: float


def truth_ms(
    arrivals_ns: NDArray[np.int64], log: NDArray[np.int64], stopped_ns: int, going_on_ns: int
) -> list[float]:
    """Latencies of these arrivals at one server that takes them in order.

    Args:
        arrivals_ns: (n,) when requests are due.
        log: (m, 2) begin and end of each request that was served.
        stopped_ns: when the server was stopped.
        going_on_ns: when it went on.

    The k-th arrival takes the k-th logged time (from the first again if there are more); the one
    that the stop fell into takes the median of the others. A request that is being served at the
    stop, asleep, ends when it would have or when the server goes on, whichever is later.
    """
    stopped = (log[:, 0] < going_on_ns) & (log[:, 1] > stopped_ns)
    service_ns = log[:, 1] - log[:, 0]
    service_ns[stopped] = round(statistics.median(service_ns[~stopped].tolist()))
    free_ns, found = 0, []
    for number, arrival_ns in enumerate(arrivals_ns.tolist()):
        begin_ns = max(arrival_ns, free_ns)
        if stopped_ns <= begin_ns < going_on_ns:
            begin_ns = going_on_ns
        free_ns = begin_ns + int(service_ns[number % len(service_ns)])
        if begin_ns < stopped_ns < free_ns:
            free_ns = max(free_ns, going_on_ns)
        found.append((free_ns - arrival_ns) / 1e6)
    return found


def seen_by(name: str, plan: Plan) -> Seen:
    """One run of one generator (`ours`, `locust`, `wrk`, `ab`) on a server of its own."""
    with server("load_serial.py") as serial:
        moments: list[int] = []
        freezing = threading.Thread(target=freeze, args=(serial, plan, moments))
        freezing.start()
        p95_ms, p99_ms, due_ns = ARMS[name](serial.url, plan)
        freezing.join()
        log = np.loadtxt(serial.log, dtype=np.int64, ndmin=2)
    if due_ns is None:  # it has no schedule: that of the load it stands for
        gap_ns = 10**9 // RATE_PER_S
        due_ns = log[0, 0] + gap_ns * np.arange(round(plan.duration_s * RATE_PER_S))
    true_ms = truth_ms(due_ns, log, moments[0], moments[1])
    return Seen(p95_ms, p99_ms, percentile(true_ms, 0.95), percentile(true_ms, 0.99))


def freeze(serial: Server, plan: Plan, moments: list[int]) -> None:
    """Stop the server some time after its first request, and have it go on."""
    while not serial.log.stat().st_size:
        time.sleep(0.005)
    time.sleep(plan.stop_at_s)
    os.kill(serial.process.pid, signal.SIGSTOP)
    moments.append(time.monotonic_ns())
    time.sleep(plan.stopped_s)
    moments.append(time.monotonic_ns())
    os.kill(serial.process.pid, signal.SIGCONT)


Percentiles = tuple[float, float, NDArray[np.int64] | None]


def _ours(url: str, plan: Plan) -> Percentiles:
    recording = ours(url, ConstantLoad(rate_per_s=RATE_PER_S, duration_s=plan.duration_s))
    found_ms = recording.latency_ms
    return percentile(found_ms, 0.95), percentile(found_ms, 0.99), recording.scheduled_ns


def _locust(url: str, plan: Plan) -> Percentiles:
    found_ms = locust(url, "FastHttpUser", RATE_PER_S, 1.0, plan.duration_s)["latencies_ms"]
    return percentile(found_ms, 0.95), percentile(found_ms, 0.99), None


ARMS: dict[str, Callable[[str, Plan], Percentiles]] = {
    "ours": _ours,
    "locust": _locust,
    "wrk": lambda url, plan: (*wrk_ms(url, plan.duration_s), None),
    "ab": lambda url, plan: (*ab_ms(url, plan.duration_s), None),
}
