"""What it costs to hand out a job: ours, with a durable record, beside plain SAQ and Celery.

A no-op job goes from the caller to one of two worker processes and its answer comes back. Ours goes
through the service's `submit` and `watch`: the job and each of its events are committed to the
store (a SQLite file) on the way. SAQ and Celery keep nothing but what lies in Redis.

- throughput: 4,000 jobs submitted at once, until the last answer is there.
- idle dispatch: 100 jobs one after another, from asking to the answer.

Each round starts every arm anew, one after another in changing order, and warms it with 1,000 jobs.
"""

import asyncio
import gc
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker import SETTINGS as REDIS_SETTINGS
from broker import own_redis
from dispatch_arms import (
    SAQ_JOB,
    SAQ_SWEEP_S,
    WORKERS,
    Arm,
    SaqArm,
    celery_arm,
    our_arm,
    saq_arm,
)
from record import Figure, Ratio, record
from visiondyno.api import listening
from visiondyno.measurements.percentiles import percentile
from visiondyno.probes.quiet import QuietMonitor

ROUNDS = 7
JOBS = 4000
IN_TURN = 100
WARM_UP = 1000

Start = Callable[[str], AbstractAsyncContextManager[Arm]]
Run = Callable[[Coroutine[Any, Any, None]], None]


def plain_run(work: Coroutine[Any, Any, None]) -> None:
    """On asyncio's own loop, with Python's own thresholds of the garbage collector."""
    gc.set_threshold(700, 10, 10)
    asyncio.run(work)


ARMS: dict[str, tuple[Start, Run]] = {
    "local": (lambda _: our_arm(None), listening.run),
    "redis": (our_arm, listening.run),
    "saq": (saq_arm, plain_run),
    "saq_uvloop": (saq_arm, listening.run),
    "celery": (celery_arm, plain_run),
}
"""Ours run as the server does, the peers as they come; SAQ also on the server's loop."""


@dataclass
class Found:
    """What one arm's rounds gave: jobs a second, and dispatch in milliseconds."""

    rates: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p95_ms: list[float] = field(default_factory=list)


async def measure(start: Start, found: Found) -> None:
    """One round of one arm."""
    with own_redis() as url:
        async with start(url) as arm:
            await arm.many(range(WARM_UP))
            spent_ms = await arm.in_turn(range(WARM_UP, WARM_UP + IN_TURN))
            first = WARM_UP + IN_TURN
            start_s = time.perf_counter()
            await arm.many(range(first, first + JOBS))
            found.rates.append(JOBS / (time.perf_counter() - start_s))
    found.p50_ms.append(percentile(spent_ms, 0.50))
    found.p95_ms.append(percentile(spent_ms, 0.95))


def run_rounds() -> dict[str, Found]:
    """All arms, round by round."""
    found = {name: Found() for name in ARMS}
    for number in range(ROUNDS):
        shift = number % len(ARMS)
        for name in [*ARMS][shift:] + [*ARMS][:shift]:
            start, run = ARMS[name]
            run(measure(start, found[name]))
            rate, p50 = found[name].rates[-1], found[name].p50_ms[-1]
            print(f"round {number + 1}: {name:10} {rate:7.0f} jobs/s, p50 {p50:.2f} ms", flush=True)
    return found


def ratio(found: dict[str, Found], ours: str, target: str) -> Ratio:
    """Throughput over SAQ's, round by round."""
    pairs = list(zip(found[ours].rates, found["saq"].rates, strict=True))
    return Ratio(pairs, "jobs/s", f"throughput of {ours} over plain SAQ's", target)


def main() -> None:
    """Measure, print and record."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # our workers find dispatch_noop there
    monitor = QuietMonitor()
    monitor.start()
    found = run_rounds()
    ratios = {
        "redis_rate_vs_saq": ratio(found, "redis", ">= 0.9"),
        "local_rate_vs_saq": ratio(found, "local", ">= 2"),
        "local_rate_vs_saq_uvloop": Ratio(
            list(zip(found["local"].rates, found["saq_uvloop"].rates, strict=True)),
            "jobs/s",
            "throughput of local over SAQ's with its client on the server's event loop",
            "none",
        ),
        "celery_rate_vs_saq": ratio(found, "celery", "none"),
    }
    figures = {}
    for name, one in found.items():
        target = "<= 4" if name == "local" else "none"
        figures[f"{name}_p50_ms"] = Figure(one.p50_ms, "ms", "idle dispatch, median", target)
        figures[f"{name}_p95_ms"] = Figure(one.p95_ms, "ms", "idle dispatch, 95th percentile")
        figures[f"{name}_rate"] = Figure(one.rates, "jobs/s", "throughput, end to end")
    settings = {
        "jobs": JOBS,
        "jobs_in_turn": IN_TURN,
        "rounds": ROUNDS,
        "workers": WORKERS,
        "event_loop": "local, redis, saq_uvloop: the server's (uvloop, gc thresholds"
        " 100000/50/100); saq, celery: Python's own (700/10/10)",
        "saq_jobs_without_result": SaqArm.without_result,
        "store": "SQLite, WAL, synchronous=NORMAL",
        "local_queue": "SQLite, WAL, synchronous=NORMAL",
        "redis": REDIS_SETTINGS,
        "saq": {**SAQ_JOB, "concurrency": 1, "sweep_s": SAQ_SWEEP_S, "waits_by": "listen"},
        "celery": {
            "pool": "prefork",
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "worker_prefetch_multiplier": 1,
            "visibility_timeout_s": 30,
            "off": ["gossip", "mingle", "heartbeat"],
        },
    }
    record("dispatch", ratios, settings, monitor, figures)


if __name__ == "__main__":
    main()
