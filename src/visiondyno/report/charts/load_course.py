"""How a load test went on over time: latency, arrivals and answers, how requests ended, resources.

Rounds stand one after the other on one axis of seconds under load.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from visiondyno.report.format import number
from visiondyno.report.load_test import RoundResult, Second, TargetResult
from visiondyno.report.plots import (
    Canvas,
    Frame,
    Scale,
    dash,
    draw_x_axis,
    draw_y_axis,
    fit_scale,
    series_class,
)

MOST_BUCKETS = 120
"""Steps of time in a drawing; longer tests have several seconds in one."""
ENDS = (
    ("good", "good", "p2"),
    ("bad_status", "wrong status or body", "p1"),
    ("timeouts", "no answer in time", "p3"),
    ("connection_errors", "no connection", "p0"),
)
"""How requests end: field of `Second`, words, class of its colour."""

_HEAT_ROWS = 26
_GOOD, _TIMEOUT = 0, 3
"""Of `Outcome`: the record holds the numbers."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Some seconds together.

    Attributes:
        at_s: its begin on the axis.
        length_s: of it.
        scheduled, answered, good, bad_status, timeouts, connection_errors: added up.
        p50_ms: median of the seconds' p50.
        p99_ms: the highest p99 of its seconds.
    """

    at_s: float
    length_s: float
    scheduled: int
    answered: int
    good: int
    bad_status: int
    timeouts: int
    connection_errors: int
    p50_ms: float | None
    p99_ms: float | None


def begins_s(rounds: Sequence[RoundResult]) -> list[int]:
    """Where each round begins on the axis, and the end of the last."""
    found = [0]
    for one in rounds:
        found.append(found[-1] + len(one.seconds))
    return found


def bucket_s(targets: Sequence[TargetResult]) -> int:
    """Seconds that one step of the drawings holds."""
    longest = max(begins_s(target.rounds)[-1] for target in targets)
    return max(1, math.ceil(longest / MOST_BUCKETS))


def buckets(target: TargetResult, step: int) -> list[Bucket]:
    """The course of a target in steps of so many seconds."""
    seconds = [second for one in target.rounds for second in one.seconds]
    return [_bucket(place, seconds[place : place + step]) for place in range(0, len(seconds), step)]


def latency_course(
    target: TargetResult, index: int, limit_ms: float | None, width: float
) -> Markup:
    """p50 and p99 of each step; behind them every request where they were kept.

    Args:
        target: with a good answer.
        index: of its colour.
        limit_ms: drawn as a line where given.
        width: in pixels.
    """
    canvas, frame = _canvas(width, f"Latency of {target.name} over time")
    steps = buckets(target, bucket_s([target]))
    dots = _dots(target)
    values = [ms for step in steps for ms in (step.p50_ms, step.p99_ms) if ms]
    values += [ms for _, ms, outcome in dots if outcome == _GOOD and ms > 0]
    values += [limit_ms] if limit_ms is not None else []
    y_scale = fit_scale(values, frame.bottom, frame.top, log=True)
    x_scale = Scale(0, begins_s(target.rounds)[-1], frame.left, frame.right)
    draw_y_axis(canvas, frame, y_scale, "latency, ms · log scale")
    _draw_time(canvas, frame, x_scale, target.rounds)
    _draw_heat(canvas, (x_scale, y_scale), dots, index)
    if limit_ms is not None:
        canvas.line(frame.left, y_scale(limit_ms), frame.right, y_scale(limit_ms), "guide")
    for name, css in (("p50_ms", "thread strong"), ("p99_ms", "thread")):
        _draw_line(canvas, steps, name, (x_scale, y_scale), f"{css} {series_class(index)}")
    for at_s, _, outcome in dots:
        if outcome == _TIMEOUT:
            canvas.line(x_scale(at_s), frame.top - 7, x_scale(at_s), frame.top, "whisker s1")
    return canvas.svg()


def rate_course(targets: Sequence[TargetResult], width: float) -> Markup:
    """Arrivals (dotted) and whole answers (line) a second."""
    canvas, frame = _canvas(width, "Arrivals and answers a second")
    length = bucket_s(targets)
    courses = [buckets(target, length) for target in targets]
    rates = [
        count / step.length_s for steps in courses for step in steps
        for count in (step.scheduled, step.answered)
    ]  # fmt: skip
    y_scale = fit_scale(rates, frame.bottom, frame.top, from_zero=True)
    longest = max(targets, key=lambda target: begins_s(target.rounds)[-1])
    x_scale = Scale(0, begins_s(longest.rounds)[-1], frame.left, frame.right)
    draw_y_axis(canvas, frame, y_scale, "requests/s")
    _draw_time(canvas, frame, x_scale, longest.rounds)
    for index, steps in enumerate(courses):
        colour = series_class(index)
        for name, extra in (("scheduled", ' stroke-dasharray="1.5 3"'), ("answered", "")):
            points = []
            for step in steps:
                y = y_scale(getattr(step, name) / step.length_s)
                points += [(x_scale(step.at_s), y), (x_scale(step.at_s + step.length_s), y)]
            canvas.path(points, f"thread {'strong ' if not extra else ''}{colour}", extra)
    return canvas.svg()


def ends_course(target: TargetResult, width: float) -> Markup:
    """How the requests of each step ended, stacked."""
    canvas, frame = _canvas(width, f"How requests to {target.name} ended, over time")
    steps = buckets(target, bucket_s([target]))
    highest = max(_count(step) / step.length_s for step in steps)
    y_scale = fit_scale([highest], frame.bottom, frame.top, from_zero=True)
    x_scale = Scale(0, begins_s(target.rounds)[-1], frame.left, frame.right)
    draw_y_axis(canvas, frame, y_scale, "requests/s by their scheduled second")
    _draw_time(canvas, frame, x_scale, target.rounds)
    for step in steps:
        left, right = x_scale(step.at_s), x_scale(step.at_s + step.length_s)
        base = 0.0
        for name, words, css in ENDS:
            count = getattr(step, name)
            if not count:
                continue
            top = base + count / step.length_s
            title = f"{number(step.at_s)} s: {count:,} {words}"
            box = (left, y_scale(top), right - left, y_scale(base) - y_scale(top))
            canvas.rect(box, f"stretch {css}", title)
            base = top
    return canvas.svg()


def resource_course(
    targets: Sequence[TargetResult], field: str, title: str, scaled: float, width: float
) -> Markup:
    """One reading of the watched targets over time; a gap is a reading that failed.

    Args:
        targets: of which at least one has readings of it.
        field: of `ResourceSample`.
        title: of the axis, with the unit.
        scaled: what a reading is divided by.
        width: in pixels.
    """
    canvas, frame = _canvas(width, title)
    lines = [[_readings(one, field, scaled) for one in _placed(target)] for target in targets]
    values = [value for line in lines for part in line for _, value in part if value is not None]
    y_scale = fit_scale(values, frame.bottom, frame.top, from_zero=True)
    longest = max(targets, key=lambda target: begins_s(target.rounds)[-1])
    last = max(at for line in lines for part in line for at, _ in part)
    x_scale = Scale(0, max(begins_s(longest.rounds)[-1], last) or 1, frame.left, frame.right)
    draw_y_axis(canvas, frame, y_scale, title)
    _draw_time(canvas, frame, x_scale, longest.rounds)
    for index, line in enumerate(lines):
        pattern = f' stroke-dasharray="{dash(index)}"' if dash(index) else ""
        for part in line:
            for run in _unbroken(part):
                points = [(x_scale(at), y_scale(value)) for at, value in run]
                canvas.path(points, f"thread strong {series_class(index)}", pattern)
    return canvas.svg()


# ---- parts


def _canvas(width: float, label: str) -> tuple[Canvas, Frame]:
    height = width * 0.62 if width < 450 else width * 0.42
    return Canvas(width, height, label), Frame(54, 28, width - 14, height - 42)


def _bucket(place: int, seconds: Sequence[Second]) -> Bucket:
    def added(name: str) -> int:
        return sum(getattr(second, name) for second in seconds)

    middles = sorted(second.p50_ms for second in seconds if second.p50_ms is not None)
    tails = [second.p99_ms for second in seconds if second.p99_ms is not None]
    return Bucket(
        at_s=float(place),
        length_s=float(len(seconds)),
        scheduled=added("scheduled"),
        answered=added("answered"),
        good=added("good"),
        bad_status=added("bad_status"),
        timeouts=added("timeouts"),
        connection_errors=added("connection_errors"),
        p50_ms=middles[len(middles) // 2] if middles else None,
        p99_ms=max(tails, default=None),
    )


def _count(bucket: Bucket) -> int:
    return sum(int(getattr(bucket, name)) for name, _, _ in ENDS)


def _dots(target: TargetResult) -> list[tuple[float, float, int]]:
    """Moment, latency and outcome of each request; none where a round has too many."""
    found: list[tuple[float, float, int]] = []
    for one, begin in zip(target.rounds, begins_s(target.rounds), strict=False):
        if one.singles is None:
            return []
        found += [
            (begin + at_s, ms, outcome)
            for at_s, ms, outcome in zip(
                one.singles.at_s, one.singles.latency_ms, one.singles.outcome, strict=True
            )
            if ms is not None
        ]
    return found


def _draw_heat(
    canvas: Canvas,
    scales: tuple[Scale, Scale],
    dots: Sequence[tuple[float, float, int]],
    index: int,
) -> None:
    """Good answers in cells of time and latency: the more, the stronger."""
    x_scale, y_scale = scales
    columns = max(1, min(MOST_BUCKETS // 2, int((x_scale.end - x_scale.start) / 7)))
    wide = (x_scale.end - x_scale.start) / columns
    high = (y_scale.start - y_scale.end) / _HEAT_ROWS
    cells: Counter[tuple[int, int]] = Counter()
    for at_s, ms, outcome in dots:
        if outcome == _GOOD and ms > 0:
            column = int((x_scale(at_s) - x_scale.start) / wide)
            row = int((y_scale.start - y_scale(ms)) / high)
            cells[min(column, columns - 1), min(row, _HEAT_ROWS - 1)] += 1
    most = max(cells.values(), default=1)
    for (column, row), count in sorted(cells.items()):
        strength = 0.12 + 0.5 * math.sqrt(count / most)
        x, y = x_scale.start + column * wide, y_scale.start - (row + 1) * high
        title = escape(f"{count:,} good answers")
        canvas.add(
            f'<rect class="bar {series_class(index)}" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" '
            f'height="{high:.1f}" fill-opacity="{strength:.2f}"><title>{title}</title></rect>'
        )


def _draw_time(canvas: Canvas, frame: Frame, scale: Scale, rounds: Sequence[RoundResult]) -> None:
    several = len(rounds) > 1
    title = "time under load, s" + (f" · {len(rounds)} rounds" if several else "")
    draw_x_axis(canvas, frame, scale, title)
    for begin in begins_s(rounds)[1:-1]:
        canvas.line(scale(begin), frame.top, scale(begin), frame.bottom, "guide")


def _draw_line(
    canvas: Canvas, steps: Sequence[Bucket], name: str, scales: tuple[Scale, Scale], css: str
) -> None:
    x_scale, y_scale = scales
    readings = [(step.at_s + step.length_s / 2, getattr(step, name)) for step in steps]
    for run in _unbroken(readings):
        points = [(x_scale(at), y_scale(max(value, y_scale.low))) for at, value in run]
        if len(points) == 1:  # a line of one point isn't seen
            points = [(points[0][0] - 2, points[0][1]), (points[0][0] + 2, points[0][1])]
        canvas.path(points, css)


def _placed(target: TargetResult) -> list[tuple[int, Any]]:
    return [
        (begin, one.resources)
        for one, begin in zip(target.rounds, begins_s(target.rounds), strict=False)
        if one.resources is not None
    ]


def _readings(
    placed: tuple[int, Any], field: str, scaled: float
) -> list[tuple[float, float | None]]:
    begin, resources = placed
    return [
        (begin + sample.at_s, None if (value := getattr(sample, field)) is None else value / scaled)
        for sample in resources.samples
    ]


def _unbroken(
    readings: Sequence[tuple[float, float | None]],
) -> list[list[tuple[float, float]]]:
    """The stretches between gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in readings:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((at, value))
    return [run for run in runs if run]
