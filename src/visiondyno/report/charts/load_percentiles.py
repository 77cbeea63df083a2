"""Latency over percentiles, as HdrHistogram's plots draw it: the tail has as much room as the rest.

The axis is 1 / (1 − q) on a log scale: 90 %, 99 % and 99.9 % lie equally far apart.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from visiondyno.measurements.hdr import Histogram
from visiondyno.report.format import number
from visiondyno.report.load_test import TargetResult
from visiondyno.report.load_test_measures import PERCENTILES, load_title
from visiondyno.report.plots import (
    Canvas,
    Frame,
    Scale,
    dash,
    draw_y_axis,
    fit_scale,
    series_class,
    text_width,
)

_MOST_POINTS = 400
_TICKS = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
_SHORTEST_MS = 1e-3
"""The histogram counts whole µs; what took less is drawn here, since a log axis has no 0."""

Points = list[tuple[float, float]]
"""(1 / (1 − q), latency in ms), ascending."""


def tail_points(target: TargetResult) -> tuple[Points, int, int]:
    """The curve of a target's rounds together.

    Returns:
        The points; how many requests it ranks; how many of them ran into the time limit, where
        the curve ends.
    """
    lows, counts = _pooled(target)
    late = sum(one.outcomes.get("timeout", 0) for one in target.rounds)
    total = int(counts.sum()) + late
    points: Points = []
    ranks = pairwise([0, *np.cumsum(counts).tolist()])
    for value, (before, after) in zip(lows.tolist(), ranks, strict=True):
        latency_ms = max(_SHORTEST_MS, value / 1000)
        # The last request would be the 100th percentile, which has no place on this axis.
        points += [(_place(rank, total), latency_ms) for rank in (before, min(after, total - 0.5))]
    return _thinned(points), total, late


def percentile_curves(
    targets: Sequence[TargetResult], limit_ms: float | None, width: float
) -> Markup:
    """A curve for each target, with the 95 % intervals of its percentiles.

    Args:
        targets: at least one with a good answer.
        limit_ms: of p99, drawn as a line where given.
        width: in pixels.
    """
    height = width * 0.72 if width < 450 else width * 0.52
    canvas = Canvas(width, height, "Latency over percentiles")
    frame = Frame(54, 28, width - 16, height - 42)
    curves = [(index, *tail_points(target)) for index, target in enumerate(targets)]
    curves = [curve for curve in curves if curve[1]]
    latencies = [ms for _, points, _, _ in curves for _, ms in (points[0], points[-1])]
    latencies += [bound for target in targets for bound in _bounds(target)]
    latencies += [limit_ms] if limit_ms is not None else []
    y_scale = fit_scale(latencies, frame.bottom, frame.top, log=None)
    furthest = max(points[-1][0] for _, points, _, _ in curves)
    x_scale = Scale(1, max(20.0, furthest) * 1.3, frame.left, frame.right, log=True)
    draw_y_axis(canvas, frame, y_scale, "latency, ms" + (" · log scale" if y_scale.log else ""))
    _draw_percentiles(canvas, frame, x_scale)
    if limit_ms is not None:
        y = y_scale(limit_ms)
        canvas.line(frame.left, y, frame.right, y, "guide")
        canvas.text(frame.right, y - 4, f"limit {number(limit_ms)} ms", "small", "end")
    for index, points, _, late in curves:
        _draw_curve(canvas, (frame, x_scale, y_scale), index, points, late)
        _draw_intervals(canvas, (x_scale, y_scale), index, targets[index], len(curves))
    return canvas.svg()


def _pooled(target: TargetResult) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lowest value (µs) and count of each bucket of all rounds, by value."""
    buckets = [Histogram.decode(one.hdr).buckets() for one in target.rounds]
    if not buckets:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    lows = np.concatenate([low for low, _, _ in buckets])
    counts = np.concatenate([count for _, _, count in buckets])
    order = np.argsort(lows, kind="stable")
    return lows[order], counts[order]


def _place(rank: float, total: int) -> float:
    return 1 / (1 - rank / total)


def _thinned(points: Points) -> Points:
    """Those that are seen: at most some hundred, evenly over the axis, and the two ends."""
    if len(points) <= _MOST_POINTS:
        return points
    step = math.log(points[-1][0]) / _MOST_POINTS
    kept, last = [points[0]], 0.0
    for point in points[1:-1]:
        if math.log(point[0]) - last >= step:
            kept.append(point)
            last = math.log(point[0])
    return [*kept, points[-1]]


def _bounds(target: TargetResult) -> list[float]:
    found = []
    for name in PERCENTILES:
        measure = target.measures.get(name)
        if measure is None or measure.value is None:
            continue
        low, high = measure.interval or (None, None)
        found += [bound for bound in (low, high, measure.value) if bound is not None and bound > 0]
    return found


def _draw_percentiles(canvas: Canvas, frame: Frame, scale: Scale) -> None:
    edge = -1e9
    for tick in _TICKS:
        if 1 / (1 - tick) > scale.high:
            break
        x = scale(1 / (1 - tick))
        canvas.line(x, frame.top, x, frame.bottom, "gridline")
        label = f"{100 * tick:.10g} %"
        half = text_width(label, 11) / 2
        if x - half > edge:
            canvas.text(x, frame.bottom + 16, label, "tick", "middle")
            edge = x + half + 4
    canvas.line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")
    middle = (frame.left + frame.right) / 2
    canvas.text(middle, frame.bottom + 34, "of requests answered within", "axis-title", "middle")


def _draw_curve(
    canvas: Canvas, place: tuple[Frame, Scale, Scale], index: int, points: Points, late: int
) -> None:
    frame, x_scale, y_scale = place
    drawn = [(x_scale(x), y_scale(ms)) for x, ms in points]
    steps = [drawn[0]]
    for (_, y), (x_next, y_next) in pairwise(drawn):
        steps += [(x_next, y), (x_next, y_next)]
    pattern = f' stroke-dasharray="{dash(index)}"' if dash(index) else ""
    canvas.path(steps, f"curve {series_class(index)}", pattern)
    if late:
        x, y = drawn[-1]
        canvas.line(x, y, x, frame.top, f"whisker {series_class(index)}",
                    ' stroke-dasharray="2 3"')  # fmt: skip
        anchor = "end" if x > (frame.left + frame.right) / 2 else "start"
        canvas.text(x, frame.top - 4, "time limit", "small", anchor)


def _draw_intervals(
    canvas: Canvas, scales: tuple[Scale, Scale], index: int, target: TargetResult, curves: int
) -> None:
    x_scale, y_scale = scales
    for name, q in PERCENTILES.items():
        measure = target.measures.get(name)
        if measure is None or measure.value is None or 1 / (1 - q) > x_scale.high:
            continue
        x = x_scale(1 / (1 - q)) + 5 * (index - (curves - 1) / 2)
        low, high = measure.interval or (None, None)
        top = y_scale(measure.value if high is None else high)
        bottom = y_scale(measure.value if low is None else max(low, y_scale.low))
        canvas.line(x, bottom, x, top, f"whisker {series_class(index)}")
        text = f"{target.name}, {load_title(name)}: {number(measure.value)} ms"
        canvas.marker(x, y_scale(measure.value), index, text, 3.5)
