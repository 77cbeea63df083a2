"""What a strategy's pattern showed, as measures for the table."""

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from visiondyno.measurements.measure import Measure, Measures
from visiondyno.report.load_test import ColdStart, ResourceSample


class Moments:
    """When each part of the pattern began and ended, in seconds of the watcher's window."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._began_s = 0.0
        self._parts: dict[str, tuple[float, float]] = {}

    def start(self) -> None:
        """The watcher's window opened now."""
        self._began_s = self._now_s()

    @contextlib.contextmanager
    def of(self, part: str) -> Iterator[None]:
        """The block is this part."""
        began_s = self._now_s() - self._began_s
        yield
        self._parts[part] = began_s, self._now_s() - self._began_s

    def within(self, samples: Sequence[ResourceSample], part: str) -> list[ResourceSample]:
        """The samples of a part, without the first: its processor time reaches back before it."""
        began_s, ended_s = self._parts[part]
        inside = [one for one in samples if began_s <= one.at_s <= ended_s]
        return inside[1:]

    def length_s(self) -> float:
        """From the watcher's start to the last part's end."""
        return max(ended_s for _, ended_s in self._parts.values())


def with_replicas(
    samples: Sequence[ResourceSample], seen: Sequence[ResourceSample]
) -> tuple[ResourceSample, ...]:
    """The samples with the number of ready replicas that was seen last before each."""
    found = []
    for one in samples:
        before = [other.replicas for other in seen if other.at_s <= one.at_s + 0.5]
        replicas = next((n for n in reversed(before) if n is not None), None)
        found.append(one.model_copy(update={"replicas": replicas}))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a strategy did on its way through the pattern.

    Attributes:
        starts: cold starts of the whole server.
        firsts: first requests after idling.
        steady: measures of the steady rate's round.
        burst: measures of the burst's round.
        samples: over the whole pattern.
        memory_method: how their memory was read.
        moments: of the parts "steady", "idle" and "burst".
        good_requests: that were answered well while the samples were taken.
    """

    starts: Sequence[ColdStart]
    firsts: Sequence[ColdStart]
    steady: Measures
    burst: Measures
    samples: Sequence[ResourceSample]
    memory_method: str
    moments: Moments
    good_requests: int


def strategy_measures(pattern: Pattern, usd_per_replica_hour: float | None) -> Measures:
    """The columns of the table (see `report.load_test.StrategyRow`); no price: no cost."""
    samples, method = pattern.samples, pattern.memory_method
    idle = pattern.moments.within(samples, "idle")
    busy = pattern.moments.within(samples, "steady")
    found = {
        "startup_ms": _median(pattern.starts, "from the server's process to its first good answer"),
        "cold_first_answer_ms": _median(pattern.firsts, "first request after idling"),
        "warm_latency_p50_ms": pattern.steady["latency_p50_ms"],
        "warm_latency_p99_ms": pattern.steady["latency_p99_ms"],
        "burst_latency_p50_ms": pattern.burst["latency_p50_ms"],
        "burst_latency_p99_ms": pattern.burst["latency_p99_ms"],
        "idle_memory_bytes": _memory(idle, statistics.fmean, "mean", method),
        "peak_memory_bytes": _memory(samples, max, "highest", method),
        "idle_cpu_cores": _cores(idle, "idle"),
        "busy_cpu_cores": _cores(busy, "under the steady rate"),
        "error_fraction": pattern.steady["error_fraction"],
        "burst_error_fraction": pattern.burst["error_fraction"],
        "replica_seconds": _replica_seconds(samples),
    }
    if usd_per_replica_hour is not None:
        found["cost_usd_per_1000_requests"] = _cost(
            found["replica_seconds"], usd_per_replica_hour, pattern.good_requests
        )
    return found


def _median(starts: Sequence[ColdStart], what: str) -> Measure:
    totals = [one.total_ms for one in starts]
    spread = f"; from {min(totals):.0f} to {max(totals):.0f} ms" if len(totals) > 1 else ""
    return Measure(
        value=statistics.median(totals),
        unit="ms",
        n=len(totals),
        method=f"median, {what}{spread}",
    )


def _memory(
    samples: Sequence[ResourceSample],
    fold: Callable[[list[int]], float],
    name: str,
    method: str,
) -> Measure:
    read = [one.memory_bytes for one in samples if one.memory_bytes is not None]
    if not read:
        return Measure(
            value=None, unit="bytes", method="none", reason="memory couldn't be read in this part"
        )
    # The watcher's method is of its own peak: what was read stands after "samples of".
    size = method.partition("samples of ")[2] or method
    method = f"{name} of {len(read)} samples: {size}"
    return Measure(value=float(fold(read)), unit="bytes", n=len(read), method=method)


def _cores(samples: Sequence[ResourceSample], when: str) -> Measure:
    """Mean weighted by the time between samples."""
    used = length_s = 0.0
    count = 0
    before_s: float | None = None
    for one in samples:
        if one.cpu_cores is not None and before_s is not None:
            used += one.cpu_cores * (one.at_s - before_s)
            length_s += one.at_s - before_s
            count += 1
        before_s = one.at_s
    if not length_s:
        reason = "processor time couldn't be read in this part"
        return Measure(value=None, unit="cores", method="none", reason=reason)
    method = f"processor time over {length_s:.1f} s {when}, server and replicas"
    return Measure(value=used / length_s, unit="cores", n=count, method=method)


def _replica_seconds(samples: Sequence[ResourceSample]) -> Measure:
    """Ready replicas times time, each sample standing until the next."""
    if any(one.replicas is None for one in samples) or len(samples) < 2:
        reason = "the server's metrics couldn't be read all the time"
        return Measure(value=None, unit="s", method="none", reason=reason)
    total = sum(
        (one.replicas or 0) * (after.at_s - one.at_s) for one, after in itertools.pairwise(samples)
    )
    return Measure(
        value=total,
        unit="s",
        n=len(samples),
        method="ready replicas by the server's metrics, over the whole pattern",
    )


def _cost(replica_s: Measure, usd_per_hour: float, requests: int) -> Measure:
    unit = "USD/1000 requests"
    if replica_s.value is None or not requests:
        reason = replica_s.reason or "no request was answered well"
        return Measure(value=None, unit=unit, method="none", reason=reason)
    return Measure(
        value=replica_s.value / 3600 * usd_per_hour / requests * 1000,
        unit=unit,
        n=requests,
        method=f"replica seconds of the whole pattern at {usd_per_hour:g} USD a replica hour",
    )
