"""From a round's recording to its result: percentiles with intervals, counts, the course."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from visiondyno.loadtest.bottleneck import generator_facts
from visiondyno.loadtest.recording import Outcome, Recording
from visiondyno.measurements.hdr import HOUR_US, Histogram
from visiondyno.measurements.measure import Interval, Measure, Measures
from visiondyno.measurements.percentiles import (
    mean_interval,
    percentile,
    percentile_interval,
    proportion_interval,
)
from visiondyno.report.format import plural
from visiondyno.report.load_test import Resources, RoundResult, Second, SingleRequests
from visiondyno.report.load_test_measures import PERCENTILES, load_measure
from visiondyno.specs.load_test import Load

MOST_SINGLES = 3000
"""Requests up to which a record keeps each by itself: about 100 kB of JSON."""

_MOST_ERRORS = 20
_WINDOWS = 30
"""Stretches of a round whose answers are counted apart, for the interval of the throughput."""
_FEWEST_A_WINDOW = 5
_WHOLE = (Outcome.GOOD, Outcome.BAD_STATUS, Outcome.BAD_BODY)
_UNCONNECTED = (Outcome.CONNECT_FAILED, Outcome.CUT)


@dataclass(frozen=True, slots=True)
class RoundSetting:
    """How a round was sent.

    Attributes:
        load: what was sent when.
        timeout_s: from sending.
        connections: most at once; None: no limit.
        processes: that sent.
    """

    load: Load
    timeout_s: float
    connections: int | None = None
    processes: int = 1


def round_result(
    recording: Recording,
    setting: RoundSetting,
    *,
    number: int,
    started_at: str,
    resources: Resources | None = None,
) -> RoundResult:
    """What a round showed; its cost is left out.

    Args:
        recording: with at least one request, in order of schedule.
        setting: how it was sent.
        number: of the round, from 1.
        started_at: UTC, ISO 8601.
        resources: of the target.
    """
    return RoundResult(
        number=number,
        started_at=started_at,
        elapsed_s=recording.elapsed_s,
        requests=len(recording),
        outcomes=_outcomes(recording),
        status_codes=_status_codes(recording),
        status_classes=_status_classes(recording),
        errors=dict(Counter(recording.errors).most_common(_MOST_ERRORS)),
        measures=_measures(recording, setting),
        stages=_stages(recording),
        hdr=_histogram(recording).encode(),
        seconds=_seconds(recording),
        singles=_singles(recording),
        resources=resources,
        generator=generator_facts(
            recording,
            is_open=setting.load.kind != "closed",
            processes=setting.processes,
            connections=setting.connections,
        ),
        cost_usd_per_1000_requests=None,
    )


def _histogram(recording: Recording) -> Histogram:
    good = recording.having(Outcome.GOOD)
    latencies_us = (recording.done_ns[good] - recording.scheduled_ns[good]) // 1000
    histogram = Histogram(highest=max(HOUR_US, int(latencies_us.max(initial=0))))
    histogram.record_many(latencies_us)
    return histogram


# ---- counts


def _outcomes(recording: Recording) -> dict[str, int]:
    counts = Counter(recording.outcome.tolist())
    return {one.name.lower(): counts[one] for one in Outcome if counts[one]}


def _status_codes(recording: Recording) -> dict[str, int]:
    counts = Counter(recording.status[recording.having(*_WHOLE)].tolist())
    return {str(status): count for status, count in sorted(counts.items())}


def _status_classes(recording: Recording) -> dict[str, int]:
    classes = {"2xx": 0, "3xx": 0, "4xx": 0, "5xx": 0}
    for status, count in _status_codes(recording).items():
        name = f"{status[0]}xx"
        classes[name] = classes.get(name, 0) + count
    return {
        **classes,
        "timeouts": int(recording.having(Outcome.TIMEOUT).sum()),
        "connection_errors": int(recording.having(*_UNCONNECTED).sum()),
        "not_sent": int(recording.having(Outcome.NOT_SENT).sum()),
    }


# ---- measures


def _measures(recording: Recording, setting: RoundSetting) -> Measures:
    is_good = recording.having(Outcome.GOOD)
    ranked = is_good | recording.having(Outcome.TIMEOUT) | recording.unanswered
    censored, why = ~is_good[ranked], _censored(recording, setting.timeout_s)
    is_open = setting.load.kind != "closed"
    since = "the scheduled moment" if is_open else "sending (a closed loop has no schedule)"
    latency = _Samples(recording.latency_ms[ranked], censored, why, f"from {since}")
    service = _Samples(
        _from_sending(recording, recording.done_ns)[ranked], censored, why, "from sending"
    )
    first = _Samples(
        _from_sending(recording, recording.first_byte_ns)[ranked],
        censored & (recording.first_byte_ns[ranked] < 0),
        why,
        "from sending to the answer's first byte",
    )
    return {
        **{name: latency.quantile(name, q) for name, q in PERCENTILES.items()},
        "latency_max_ms": latency.slowest(),
        "latency_mean_ms": latency.mean(),
        "service_p50_ms": service.quantile("service_p50_ms", 0.5),
        "service_p99_ms": service.quantile("service_p99_ms", 0.99),
        "first_byte_p50_ms": first.quantile("first_byte_p50_ms", 0.5),
        "throughput_requests_per_s": _throughput(recording, setting.load),
        "offered_requests_per_s": _offered(recording, setting.load),
        "error_fraction": _error_fraction(recording),
        "new_connections": load_measure(
            "new_connections", int(recording.connected.sum()), "counted"
        ),
    }


def _from_sending(recording: Recording, until_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray((until_ns - recording.sent_ns) / 1e6, np.float64)


def _censored(recording: Recording, limit_s: float) -> str:
    """Why the latency of some requests isn't known."""
    late = int(recording.having(Outcome.TIMEOUT).sum())
    unanswered = int(recording.unanswered.sum())
    parts = []
    if late:
        parts.append(
            f"{plural(late, 'request')} ran into the time limit: it is at least "
            f"{1000 * limit_s:g} ms"
        )
    if unanswered:
        parts.append(f"{plural(unanswered, 'request')} had no answer yet when the test was stopped")
    return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class _Samples:
    """Times in ms in order of schedule; those without an answer rank last.

    A time that was cut off, at the limit or when the test was stopped, is known to be at least
    that: it is right-censored, and only order statistics below the first such one are known.
    """

    times_ms: NDArray[np.float64]
    is_censored: NDArray[np.bool_]
    why: str
    since: str

    def quantile(self, name: str, q: float) -> Measure:
        if not len(self.times_ms):
            return self._nothing(name)
        ranked = np.where(self.is_censored, np.inf, self.times_ms)
        value = percentile(ranked, q)
        low, high = percentile_interval(ranked, q, in_order=True)
        interval = (_finite(low), _finite(high))
        method = (
            f"{self.since}; order statistic, binomial interval widened for samples that depend on "
            "each other; requests that ran into the time limit, or had no answer when the test was "
            "stopped, rank last"
        )
        n = len(ranked)
        if np.isfinite(value):
            return load_measure(name, value, method, interval=interval, n=n)
        return load_measure(name, None, method, interval=interval, n=n, reason=self.why)

    def mean(self) -> Measure:
        name = "latency_mean_ms"
        if not len(self.times_ms):
            return self._nothing(name)
        method, n = f"{self.since}; batch means", len(self.times_ms)
        if self.is_censored.any():
            return load_measure(name, None, method, n=n, reason=self.why)
        interval = mean_interval(self.times_ms)
        return load_measure(name, float(self.times_ms.mean()), method, interval=interval, n=n)

    def slowest(self) -> Measure:
        name = "latency_max_ms"
        if not len(self.times_ms):
            return self._nothing(name)
        if self.is_censored.any():
            return load_measure(name, None, self.since, reason=self.why)
        return load_measure(name, float(self.times_ms.max()), self.since, n=len(self.times_ms))

    def _nothing(self, name: str) -> Measure:
        return load_measure(name, None, self.since, reason="no request had a good answer")


def _finite(bound: float | None) -> float | None:
    return bound if bound is not None and np.isfinite(bound) else None


def round_length_s(recording: Recording, load: Load) -> float:
    """Seconds that a round took: to the last end, and no less than the schedule is long.

    The last request is due before its schedule ends: ten at 10 requests/s are over after 0.9 s, and
    the second that they stand for isn't.
    """
    was_stopped = bool(recording.having(Outcome.NOT_SENT).any())
    if load.kind == "closed" or was_stopped:
        return recording.elapsed_s
    return max(recording.elapsed_s, load.duration_s)


def _throughput(recording: Recording, load: Load) -> Measure:
    name, method = "throughput_requests_per_s", "good answers over the round's time"
    length_s = round_length_s(recording, load)
    if length_s <= 0:
        return load_measure(name, None, method, reason="the round was over at once")
    done_ns = recording.done_ns[recording.having(Outcome.GOOD)]
    value = len(done_ns) / length_s
    interval: Interval | None = None
    if len(done_ns) >= _FEWEST_A_WINDOW * _WINDOWS:
        windows = max(_WINDOWS, int(length_s))
        places = (done_ns - recording.scheduled_ns[0]) / (length_s * 1e9) * windows
        counts = np.bincount(np.clip(places.astype(np.int64), 0, windows - 1), minlength=windows)
        rates = np.asarray(counts * (windows / length_s), np.float64)
        interval = mean_interval(rates)
        method += "; batch means of equal stretches of time"
    return load_measure(name, value, method, interval=interval, n=len(done_ns))


def _offered(recording: Recording, load: Load) -> Measure:
    name = "offered_requests_per_s"
    sent = ~recording.having(Outcome.NOT_SENT)
    if load.kind != "closed" and bool(sent.all()):
        method = "requests of the schedule over its length"
        return load_measure(name, len(recording) / load.duration_s, method, n=len(recording))
    method = "requests that were sent over the time to the last end"
    if recording.elapsed_s <= 0:
        return load_measure(name, None, method, reason="the round was over at once")
    count = int((sent | recording.unanswered).sum())
    return load_measure(name, count / recording.elapsed_s, method, n=count)


def _error_fraction(recording: Recording) -> Measure:
    name, method = "error_fraction", "requests without a good answer, of those sent; Wilson"
    sent = len(recording) - int(recording.having(Outcome.NOT_SENT).sum())
    if not sent:
        return load_measure(name, None, method, reason="no request was sent")
    failed = sent - int(recording.having(Outcome.GOOD).sum())
    interval = proportion_interval(failed, sent)
    return load_measure(name, failed / sent, method, interval=interval, n=sent)


def _stages(recording: Recording) -> Measures:
    stages = {}
    good = recording.having(Outcome.GOOD)
    for stage, times_ms in recording.stages_ms.items():
        told = times_ms[good & ~np.isnan(times_ms)]
        if len(told):
            stages[stage] = Measure(
                value=float(told.mean()),
                unit="ms",
                interval=mean_interval(told),
                n=len(told),
                method="mean of what good answers told in Server-Timing; batch means",
            )
    return stages


# ---- the course


def _seconds(recording: Recording) -> tuple[Second, ...]:
    start_ns = recording.scheduled_ns[0]
    sent = ~recording.having(Outcome.NOT_SENT)
    whole = recording.having(*_WHOLE)
    at_s = (recording.scheduled_ns - start_ns) // 10**9
    done_s = (recording.done_ns[whole] - start_ns) // 10**9
    last = max(int(at_s[sent].max(initial=0)), int(done_s.max(initial=0)))
    answered = np.bincount(np.clip(done_s, 0, last), minlength=last + 1)
    bounds = np.searchsorted(at_s, np.arange(last + 2))
    latency_ms = recording.latency_ms
    return tuple(
        _second(second, recording.outcome[begin:end], latency_ms[begin:end], int(answered[second]))
        for second, (begin, end) in enumerate(pairwise(bounds.tolist()))
    )


def _second(
    second: int, outcome: NDArray[np.uint8], latency_ms: NDArray[np.float64], answered: int
) -> Second:
    counts = Counter(outcome.tolist())
    latencies_ms = latency_ms[outcome == Outcome.GOOD]
    return Second(
        at_s=second,
        scheduled=len(outcome) - counts[Outcome.NOT_SENT],
        answered=answered,
        good=counts[Outcome.GOOD],
        bad_status=counts[Outcome.BAD_STATUS] + counts[Outcome.BAD_BODY],
        timeouts=counts[Outcome.TIMEOUT],
        connection_errors=counts[Outcome.CONNECT_FAILED] + counts[Outcome.CUT],
        p50_ms=percentile(latencies_ms, 0.5) if len(latencies_ms) else None,
        p99_ms=percentile(latencies_ms, 0.99) if len(latencies_ms) else None,
    )


def _singles(recording: Recording) -> SingleRequests | None:
    if len(recording) > MOST_SINGLES:
        return None
    at_s = (recording.scheduled_ns - recording.scheduled_ns[0]) / 1e9
    latencies = np.round(recording.latency_ms, 3).tolist()
    unsent = recording.having(Outcome.NOT_SENT).tolist()
    return SingleRequests(
        at_s=tuple(np.round(at_s, 4).tolist()),
        latency_ms=tuple(
            None if never else value for value, never in zip(latencies, unsent, strict=True)
        ),
        outcome=tuple(recording.outcome.tolist()),
    )
