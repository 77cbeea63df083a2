"""The measures of a load test: titles, units, and which direction is better."""

from visiondyno.measurements.measure import Interval, Measure, MeasureKind
from visiondyno.report.format import MIB, NOT_MEASURED, decimals_for, number

PERCENTILES = {
    "latency_p50_ms": 0.5,
    "latency_p90_ms": 0.9,
    "latency_p95_ms": 0.95,
    "latency_p99_ms": 0.99,
    "latency_p999_ms": 0.999,
}

LOAD_MEASURES: dict[str, MeasureKind] = {
    "latency_p50_ms": MeasureKind(
        "p50", "ms", "lower", "Half of the requests were answered within this, from the schedule."
    ),
    "latency_p90_ms": MeasureKind("p90", "ms", "lower", "90 % were answered within this."),
    "latency_p95_ms": MeasureKind("p95", "ms", "lower", "95 % were answered within this."),
    "latency_p99_ms": MeasureKind("p99", "ms", "lower", "99 % were answered within this."),
    "latency_p999_ms": MeasureKind("p99.9", "ms", "lower", "99.9 % were answered within this."),
    "latency_max_ms": MeasureKind("Slowest", "ms", "lower", "The slowest good answer."),
    "latency_mean_ms": MeasureKind("Mean", "ms", "lower", "Mean latency from the schedule."),
    "service_p50_ms": MeasureKind(
        "p50 from sending", "ms", "lower", "Without the wait before a request could be sent."
    ),
    "service_p99_ms": MeasureKind(
        "p99 from sending", "ms", "lower", "Without the wait before a request could be sent."
    ),
    "first_byte_p50_ms": MeasureKind(
        "First byte p50", "ms", "lower", "From sending to the answer's first byte."
    ),
    "throughput_requests_per_s": MeasureKind(
        "Good answers", "requests/s", "higher", "Good answers over the whole round's time."
    ),
    "offered_requests_per_s": MeasureKind(
        "Offered", "requests/s", None, "Requests that the schedule held, over its length."
    ),
    "error_fraction": MeasureKind(
        "Errors", "fraction", "lower", "Requests without a good answer, of those sent."
    ),
    "new_connections": MeasureKind(
        "New connections", "connections", None, "Connections that were opened."
    ),
    "cpu_cores_mean": MeasureKind(
        "CPU", "cores", "lower", "Processor time of the target over the round's time."
    ),
    "peak_memory_bytes": MeasureKind(
        "Peak memory", "bytes", "lower", "Highest memory of the target's processes."
    ),
    "cost_usd_per_1000_requests": MeasureKind(
        "Cost",
        "USD/1000 requests",
        "lower",
        "What a thousand good answers cost at the given price.",
    ),
    "startup_ms": MeasureKind("Start-up", "ms", "lower", "From the start of the process to ready."),
    "cold_first_answer_ms": MeasureKind(
        "First answer, cold", "ms", "lower", "The first request after idling, to its good answer."
    ),
    "warm_latency_p50_ms": MeasureKind("Warm p50", "ms", "lower", "With replicas running."),
    "warm_latency_p99_ms": MeasureKind("Warm p99", "ms", "lower", "With replicas running."),
    "burst_latency_p50_ms": MeasureKind("Burst p50", "ms", "lower", "While the load jumps."),
    "burst_latency_p99_ms": MeasureKind("Burst p99", "ms", "lower", "While the load jumps."),
    "burst_error_fraction": MeasureKind(
        "Burst errors", "fraction", "lower", "Of the burst, without a good answer."
    ),
    "idle_memory_bytes": MeasureKind("Memory idle", "bytes", "lower", "Without any request."),
    "idle_cpu_cores": MeasureKind("CPU idle", "cores", "lower", "Without any request."),
    "busy_cpu_cores": MeasureKind("CPU busy", "cores", "lower", "Under the load."),
    "replica_seconds": MeasureKind(
        "Replica time", "s", "lower", "Ready replicas times time, over the whole pattern."
    ),
}
"""All names that a record of a load test uses, in the order of its tables."""

_SHOWN_UNITS = {"bytes": "MiB", "fraction": "%", "connections": ""}


def load_title(name: str) -> str:
    """A measure's title for people."""
    return LOAD_MEASURES[name].title if name in LOAD_MEASURES else name.replace("_", " ")


def load_measure(
    name: str,
    value: float | None,
    method: str,
    *,
    interval: Interval | None = None,
    n: int | None = None,
    reason: str | None = None,
) -> Measure:
    """The measure `name` with the unit of its kind; without a value it needs a reason."""
    return Measure(
        value=None if value is None else float(value),
        unit=LOAD_MEASURES[name].unit,
        interval=interval,
        n=n,
        method=method,
        reason=reason,
    )


def shown_unit(unit: str) -> str:
    """The unit that people read; empty where the number stands for itself."""
    return _SHOWN_UNITS.get(unit, unit)


def in_shown_unit(unit: str, value: float) -> float:
    """Bytes as MiB, fractions as percent, all else as it is."""
    return value / MIB if unit == "bytes" else 100 * value if unit == "fraction" else value


def measure_value(measure: Measure | None) -> str:
    """The value with its unit, or that it wasn't measured."""
    if measure is None or measure.value is None:
        return NOT_MEASURED
    text = number(in_shown_unit(measure.unit, measure.value))
    if measure.unit == "connections":
        text = f"{measure.value:,.0f}"
    unit = shown_unit(measure.unit)
    text = f"{text} {unit}" if unit else text
    return f"≈ {text}" if measure.estimated else text


def measure_interval(measure: Measure | None) -> str:
    """`[low, high]` in the shown unit, `?` for a side that is unknown; else empty."""
    if measure is None or measure.interval in (None, (None, None)):
        return ""
    assert measure.interval is not None
    return interval_in(measure.unit, measure.interval)


def interval_in(unit: str, interval: Interval) -> str:
    """An interval in the shown unit of `unit`."""
    shown = [None if bound is None else in_shown_unit(unit, bound) for bound in interval]
    known = [bound for bound in shown if bound is not None]
    if not known:
        return ""
    places = decimals_for(max(abs(bound) for bound in known))
    width = known[-1] - known[0]
    # A narrow interval around a large number needs digits of its own, or both ends look equal.
    if 0 < width < 10.0 ** (1 - places):
        places = min(places + 2, decimals_for(width, 2))
    low, high = (
        "?" if bound is None else f"{bound:,.{places}f}".replace("-", "−") for bound in shown
    )
    return f"[{low}, {high}]"
