"""The plots of a load test's page, each in a narrow and a wide drawing."""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from visiondyno.report.charts.load_bars import cold_start_bars, search_tries
from visiondyno.report.charts.load_course import (
    bucket_s,
    ends_course,
    latency_course,
    rate_course,
    resource_course,
)
from visiondyno.report.charts.load_percentiles import percentile_curves
from visiondyno.report.figures import NARROW, WIDE, Figure
from visiondyno.report.format import MIB
from visiondyno.report.load_test import ColdStart, LoadTestResult, TargetResult
from visiondyno.report.load_test_strategies import strategy_starts

MOST_TARGETS = 8
"""Targets that are drawn one by one."""


def percentile_figures(result: LoadTestResult) -> list[Figure]:
    """Latency over percentiles of all targets."""
    targets = [target for target in result.targets if _has_good(target)]
    if not targets:
        return []
    limit_ms = result.spec.get("latency_limit_ms")
    caption = "The tail has as much room as the rest. Marks are percentiles with 95 % intervals."
    if any(one.outcomes.get("timeout") for target in targets for one in target.rounds):
        caption += " A curve that ends early ran into the time limit there."
    return [
        _figure(
            "Latency over percentiles",
            caption,
            lambda width: percentile_curves(targets, limit_ms, width),
            legend=len(targets) > 1,
        )
    ]


def course_figures(result: LoadTestResult) -> list[Figure]:
    """Latency, rates and endings over time."""
    ran = [target for target in result.targets if any(one.seconds for one in target.rounds)]
    if not ran:
        return []
    figures = [
        _latency_figure(target, result.targets.index(target), result)
        for target in ran[:MOST_TARGETS]
        if _has_good(target)
    ]
    figures.append(
        _figure(
            "Arrivals and answers",
            f"Dotted: requests of the schedule. Line: answers as they came.{_step(ran)}",
            lambda width: rate_course(ran, width),
            legend=len(ran) > 1,
        )
    )
    return figures + [_ends_figure(target, len(ran) > 1) for target in ran[:MOST_TARGETS]]


def resource_figures(targets: Sequence[TargetResult]) -> list[Figure]:
    """Processor, memory and replicas of the targets over time."""
    return [
        _figure(
            heading,
            _source(targets),
            _resource_drawer(targets, field, title, scaled),
            legend=len(targets) > 1,
        )
        for field, heading, title, scaled in (
            ("cpu_cores", "Processor", "cores in use", 1.0),
            ("memory_bytes", "Memory", "MiB", float(MIB)),
            ("replicas", "Replicas", "ready", 1.0),
        )
        if _has_readings(targets, field)
    ]


def cold_start_figures(result: LoadTestResult) -> list[Figure]:
    """Cold starts of targets and strategies."""
    owners = [(target.name, target.cold_starts) for target in result.targets]
    owners += [part for row in result.strategies for part in strategy_starts(row)]
    rows: list[tuple[str, ColdStart]] = [
        (name if len(starts) == 1 else f"{name}, {place}", one)
        for name, starts in owners
        for place, one in enumerate(starts, 1)
    ]
    if not rows:
        return []
    warm = [one.warm_ms for _, one in rows if one.warm_ms is not None]
    caption = "From the start, or the first request after idling, to the first good answer."
    if warm:
        caption += f" The same request right after took {min(warm):.3g} to {max(warm):.3g} ms."
    return [_figure("Cold start", caption, lambda width: cold_start_bars(rows, width))]


def search_figures(targets: Sequence[TargetResult]) -> list[Figure]:
    """The tries of each search."""
    several = len(targets) > 1
    return [
        _figure(
            f"Rates tried: {target.name}" if several else "Rates tried",
            "Numbered in their order. At the top: no bound, since too few had a good answer.",
            _search_drawer(target),
        )
        for target in targets[:MOST_TARGETS]
        if target.search is not None and target.search.tries
    ]


def _figure(
    heading: str, caption: str, draw: Callable[[float], Markup], *, legend: bool = False
) -> Figure:
    return Figure(heading, caption, draw(NARROW), draw(WIDE), legend)


def _has_good(target: TargetResult) -> bool:
    return any(one.outcomes.get("good") for one in target.rounds)


def _latency_figure(target: TargetResult, index: int, result: LoadTestResult) -> Figure:
    limit_ms = result.spec.get("latency_limit_ms")
    heading = "Latency over time"
    heading += f": {target.name}" if len(result.targets) > 1 else ""
    caption = "Strong: p50 of each step, thin: p99, by when requests were scheduled."
    if all(one.singles is not None for one in target.rounds):
        caption += " Behind: every good answer."
    return _figure(
        heading,
        caption + _step([target]),
        lambda width: latency_course(target, index, limit_ms, width),
    )


def _ends_figure(target: TargetResult, several: bool) -> Figure:
    heading = "How requests ended"
    return _figure(
        f"{heading}: {target.name}" if several else heading,
        f"By the second they were scheduled in.{_step([target])}",
        lambda width: ends_course(target, width),
    )


def _step(targets: Sequence[TargetResult]) -> str:
    step = bucket_s(targets)
    return f" A step is {step} s: p50 is its median, p99 its highest." if step > 1 else ""


def _source(targets: Sequence[TargetResult]) -> str:
    sources = {one.resources.source for target in targets for one in target.rounds if one.resources}
    return "; ".join(sorted(sources))


def _has_readings(targets: Sequence[TargetResult], field: str) -> bool:
    return any(
        getattr(sample, field) is not None
        for target in targets
        for one in target.rounds
        if one.resources is not None
        for sample in one.resources.samples
    )


def _resource_drawer(
    targets: Sequence[TargetResult], field: str, title: str, scaled: float
) -> Callable[[float], Markup]:
    return lambda width: resource_course(targets, field, title, scaled, width)


def _search_drawer(target: TargetResult) -> Callable[[float], Markup]:
    search = target.search
    assert search is not None
    return lambda width: search_tries(search, width)
