"""What a comparison of scaling strategies says: its answer, its table, its plots."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from visiondyno.report.charts.load_profile import profile_course
from visiondyno.report.figures import NARROW, WIDE, Figure
from visiondyno.report.format import MIB, number, plural
from visiondyno.report.load_test import ColdStart, StrategyRow
from visiondyno.report.load_test_measures import measure_value

Card = tuple[str, str, str]

STRATEGY_TABLE = (
    "startup_ms",
    "cold_first_answer_ms",
    "warm_latency_p50_ms",
    "warm_latency_p99_ms",
    "burst_latency_p50_ms",
    "burst_latency_p99_ms",
    "idle_memory_bytes",
    "peak_memory_bytes",
    "idle_cpu_cores",
    "busy_cpu_cores",
    "replica_seconds",
    "cost_usd_per_1000_requests",
    "error_fraction",
    "burst_error_fraction",
)
"""Rows of the table: what a visitor waits, what it takes, what goes wrong."""

_PROFILES = (
    ("cpu_cores", "Processor", "cores in use", 1.0),
    ("memory_bytes", "Memory", "MiB", float(MIB)),
    ("replicas", "Replicas", "ready", 1.0),
)
_COURSE = "After the start: steady rate, first visitors after idling, idling, a burst."


def strategy_names(rows: Sequence[StrategyRow]) -> list[str]:
    """The measures that any strategy has, in the order of the table."""
    return [name for name in STRATEGY_TABLE if any(name in row.measures for row in rows)]


def strategy_starts(row: StrategyRow) -> list[tuple[str, tuple[ColdStart, ...]]]:
    """Starts of the server, and first visitors after idling, apart."""
    startup = row.measures.get("startup_ms")
    starts = 0 if startup is None else startup.n or 0
    parts = (
        (f"{row.strategy}, start", row.cold_starts[:starts]),
        (f"{row.strategy}, first visitor", row.cold_starts[starts:]),
    )
    return [part for part in parts if part[1]]


def strategy_cards(rows: Sequence[StrategyRow]) -> list[Card]:
    """What scaling to zero costs a visitor and what it saves; nothing where either is missing."""
    by_name = {row.strategy: row.measures for row in rows}
    warm, zero = by_name.get("always-warm"), by_name.get("scale-to-zero")
    if warm is None or zero is None:
        return []
    waits = (
        ("cold_first_answer_ms", "Scale to zero: first visitor after idling"),
        ("burst_latency_p99_ms", "Scale to zero: burst out of idleness, p99"),
        ("warm_latency_p50_ms", "Scale to zero: once warm, p50"),
        ("idle_memory_bytes", "Scale to zero: memory at rest"),
        ("cost_usd_per_1000_requests", "Scale to zero: cost"),
    )
    found = []
    for name, title in waits:
        mine, other = zero.get(name), warm.get(name)
        if mine is not None and other is not None and None not in (mine.value, other.value):
            found.append((title, measure_value(mine), f"always-warm: {measure_value(other)}"))
    return found


def strategy_lead(spec: Mapping[str, Any]) -> str:
    """What both strategies went through; empty where the spec isn't of strategies."""
    if "model" not in spec:
        return ""
    replicas = spec["replicas"]
    visitors = plural(spec["cold_starts"], "time")
    return (
        f"Both served {spec['model']} on this machine, one after the other: always-warm with "
        f"{plural(replicas, 'replica')} all the time, scale-to-zero with 0 to {replicas} and none "
        f"after {number(spec['idle_timeout_s'])} s without a request. Each was started {visitors}, "
        f"got {number(spec['rate_per_s'])} requests/s for {number(spec['steady_s'])} s, was left "
        f"alone and asked once, {visitors}, was left alone again, and then got "
        f"{number(spec['burst_rate_per_s'])} requests/s for {number(spec['burst_s'])} s at once. "
        "Figures of the processor hold the reading of metrics, four times a second."
    )


def strategy_figures(rows: Sequence[StrategyRow]) -> list[Figure]:
    """Processor, memory and replicas over the pattern."""
    return [
        _figure(heading, _drawer(rows, field, title, scaled))
        for field, heading, title, scaled in _PROFILES
        if any(getattr(one, field) is not None for row in rows for one in row.samples)
    ]


def _drawer(
    rows: Sequence[StrategyRow], field: str, title: str, scaled: float
) -> Callable[[float], Markup]:
    return lambda width: profile_course(rows, field, title, scaled, width)


def _figure(heading: str, draw: Callable[[float], Markup]) -> Figure:
    return Figure(heading, _COURSE, draw(NARROW), draw(WIDE), True)
