"""MLPerf's server scenario: queries arrive by themselves, and waiting counts.

Arrivals are a Poisson process: independent exponential gaps, drawn before the run from a seed. One
image is one query. The model answers them one after the other in order of arrival, so a query that
finds it busy waits; its latency runs from the moment it was **scheduled** to arrive. A generator
that waits for answers before it sends (a closed loop) leaves that waiting out ("coordinated
omission") and is wrong by orders of magnitude in an overload.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visiondyno.measurements.early_stopping import early_stopping_estimate, minimum_queries
from visiondyno.measurements.rate_search import RateBisection
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.single_stream import Clock, StageTimes, run_query
from visiondyno.runtimes.base import LoadedModel

LIMIT_PERCENTILE = 0.99
"""MLPerf's for vision models: 99 % of the queries must be answered within the limit."""

Sleep = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class ServerRun:
    """What one run at one rate did.

    Attributes:
        latencies_ms: of each query in order of arrival, from its scheduled moment.
        waits_ms: how much of it was spent waiting for the model.
        elapsed_s: from the first scheduled moment to the last answer.
    """

    latencies_ms: tuple[float, ...]
    waits_ms: tuple[float, ...]
    elapsed_s: float

    def holds(self, limit_ms: float) -> bool:
        """Whether LoadGen's bound on p99 is within `limit_ms` (few queries never pass)."""
        bound = early_stopping_estimate(self.latencies_ms, LIMIT_PERCENTILE).value
        return bound is not None and bound <= limit_ms


@dataclass(frozen=True, slots=True)
class RateSearch:
    """The highest rate whose p99 keeps the limit.

    Attributes:
        best_rate_per_s: that rate; None if even the lowest rate tried breaks the limit.
        best: the run at that rate.
        probes: every rate tried with whether it held, in order.
    """

    best_rate_per_s: float | None
    best: ServerRun | None
    probes: tuple[tuple[float, bool], ...]


def poisson_arrivals(rate_per_s: float, queries: int, seed: int) -> NDArray[np.float64]:
    """Seconds of each arrival from the start, (queries,) ascending; the first one is at 0."""
    gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, queries)
    gaps[0] = 0.0
    return np.cumsum(gaps)


def queries_for(rate_per_s: float, duration_s: float) -> int:
    """How many queries a run has: what arrives in `duration_s`, and the 662 of p99 at least."""
    return max(minimum_queries(LIMIT_PERCENTILE), round(rate_per_s * duration_s))


def run_server(
    model: LoadedModel,
    images: EncodedImages,
    order: Iterator[int],
    arrivals_s: NDArray[np.float64],
    *,
    on_query: Callable[[int], None] = lambda _: None,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> ServerRun:
    """Answer a query for each arrival, in order, none dropped.

    One thread both keeps the schedule and runs the model: with a single server in order of arrival
    that is exactly a queue, and no generator competes with the model for the processor.
    """
    latencies_ms: list[float] = []
    waits_ms: list[float] = []
    times = StageTimes()
    start = clock()
    for number, arrival_s in enumerate(arrivals_s, 1):
        scheduled = start + round(arrival_s * 1e9)
        _wait_until(scheduled, clock, sleep)
        waits_ms.append((clock() - scheduled) / 1e6)
        run_query(model, images, next(order), times, clock)
        latencies_ms.append((clock() - scheduled) / 1e6)
        on_query(number)
    return ServerRun(tuple(latencies_ms), tuple(waits_ms), (clock() - start) / 1e9)


def find_highest_rate(
    run_at: Callable[[float], ServerRun], *, limit_ms: float, capacity_per_s: float
) -> RateSearch:
    """Search for the highest rate that `holds` the limit, by bisection.

    Args:
        run_at: runs the scenario at a rate.
        limit_ms: that p99 must keep.
        capacity_per_s: queries a second one after the other; no steady rate above it can hold, and
            with any limit over the service time some rate below it does.
    """
    search = RateBisection(capacity_per_s=capacity_per_s)
    probes: list[tuple[float, bool]] = []
    best: ServerRun | None = None
    while (rate := search.next_rate()) is not None:
        run = run_at(rate)
        held = run.holds(limit_ms)
        probes.append((rate, held))
        search.tell(rate, held=held)
        best = run if held else best
    return RateSearch(search.best_per_s, best, tuple(probes))


def _wait_until(moment_ns: int, clock: Clock, sleep: Sleep) -> None:
    """Sleep most of the way, then spin: a sleep alone wakes up to a millisecond late."""
    while (left_ns := moment_ns - clock()) > 0:
        if left_ns > 2_000_000:
            sleep((left_ns - 1_000_000) / 1e9)
