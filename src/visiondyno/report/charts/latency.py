"""Where the time goes: distributions of latency, and the parts of it."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from visiondyno.report.comparison import ModelReport
from visiondyno.report.format import number, shorten
from visiondyno.report.layout import PHASES
from visiondyno.report.plots import (
    Canvas,
    Frame,
    Scale,
    dash,
    draw_x_axis,
    draw_y_axis,
    fit_scale,
    series_class,
    text_width,
)

PHASE_TITLES = ("decode", "pre-process", "inference", "post-process")
PERCENTILES = (50, 90, 99)

_ROW = 66
_BINS = 64
_MOST_POINTS = 300
_SHORTEST_MS = 1e-6
"""A clock may read 0, which a log axis can't show."""


def samples_of(model: ModelReport, scenario: str = "single-stream") -> NDArray[np.float64]:
    """All latencies of a scenario in ms, in order of query; empty where there are none."""
    result = model.scenarios.get(scenario)
    return np.asarray(result.samples_ms if result else (), np.float64)


def latency_ridges(models: Sequence[ModelReport], names: dict[str, str], width: float) -> Markup:
    """One histogram a model on a shared axis, with p50, p90 and p99; the slowest query shows."""
    rows = [(index, model, samples_of(model)) for index, model in enumerate(models)]
    rows = [row for row in rows if len(row[2])]
    canvas = Canvas(width, 44 + _ROW * len(rows), "Histograms of end-to-end latency for each model")
    frame = Frame(8, 6, width - 12, 6 + _ROW * len(rows))
    everything = np.concatenate([samples for _, _, samples in rows])
    scale = fit_scale(everything.tolist(), frame.left + 4, frame.right, log=None)
    draw_x_axis(canvas, frame, scale, "end-to-end latency, ms", count=6 if width < 450 else 9)
    for place, (index, model, samples) in enumerate(rows):
        base = frame.top + _ROW * (place + 1) - 14
        _ridge(canvas, scale, base, index, names[model.reference], samples)
        _percentile_marks(canvas, scale, base, model)
    return canvas.svg()


def _ridge(
    canvas: Canvas, scale: Scale, base: float, index: int, name: str, samples: NDArray[np.float64]
) -> None:
    edges_of = np.geomspace if scale.log else np.linspace
    edges = edges_of(scale.low, scale.high, _BINS + 1)
    counts, _ = np.histogram(samples, edges)
    highest = float(counts.max())
    points = [(scale(float(edges[0])), base)]
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        # A lone query must stay visible beside a peak of thousands.
        height = 0.0 if count == 0 else max(1.5, 32 * float(count) / highest)
        points += [(scale(float(left)), base - height), (scale(float(right)), base - height)]
    points.append((scale(float(edges[-1])), base))
    css = f"ridge {series_class(index)}"
    title = f"{name}: {len(samples):,} queries, slowest {number(float(samples.max()))} ms"
    canvas.area(points, css, title)
    right_half = float(np.median(samples)) > (scale.low + scale.high) / 2 and not scale.log
    if scale.log:
        right_half = scale(float(np.median(samples))) > (scale.start + scale.end) / 2
    text = f"{shorten(name, 34)}  · n {len(samples):,}"
    if right_half:
        canvas.text(scale.start, base - 36, text, "series-label")
    else:
        canvas.text(scale.end, base - 36, text, "series-label", "end")


def _percentile_marks(canvas: Canvas, scale: Scale, base: float, model: ModelReport) -> None:
    edge = -1e9
    for percent in PERCENTILES:
        measure = model.measures.get(f"latency_p{percent}_ms")
        if measure is None or measure.value is None:
            continue
        x = scale(measure.value)
        canvas.line(x, base - 30, x, base + 3, "percentile")
        label = f"p{percent} {number(measure.value)}"
        half = text_width(label, 10.5) / 2
        x = min(max(x, edge + half, scale.start + half), scale.end - half)
        if x - half < edge - 0.1:
            continue
        canvas.text(x, base + 13, label, "small", "middle")
        edge = x + half + 6


def latency_ecdf(models: Sequence[ModelReport], width: float) -> Markup:
    """The share of queries answered within a time, one line a model."""
    height = width * 0.62 if width < 450 else width * 0.5
    canvas = Canvas(width, height, "Share of queries answered within a time, for each model")
    frame = Frame(44, 26, width - 12, height - 42)
    rows = [(index, np.sort(samples_of(model))) for index, model in enumerate(models)]
    rows = [row for row in rows if len(row[1])]
    everything = [float(v) for _, samples in rows for v in (samples[0], samples[-1])]
    x_scale = fit_scale(everything, frame.left, frame.right, log=None)
    y_scale = Scale(0, 100, frame.bottom, frame.top)
    draw_x_axis(canvas, frame, x_scale, "end-to-end latency, ms", count=5 if width < 450 else 8)
    draw_y_axis(canvas, frame, y_scale, "% of queries within")
    for index, samples in rows:
        points = _steps(samples, x_scale, y_scale)
        pattern = f' stroke-dasharray="{dash(index)}"' if dash(index) else ""
        canvas.path(points, f"curve {series_class(index)}", pattern)
    return canvas.svg()


def scenario_ecdf(
    models: Sequence[ModelReport], scenario: str, limit_ms: float | None, width: float
) -> Markup:
    """The share of a scenario's queries answered within a time, on a log axis.

    The axis is the same for every scenario of the comparison, so that the plots can be compared.

    Args:
        models: at least one with samples of `scenario`.
        scenario: its name.
        limit_ms: drawn as a line where given.
        width: in pixels.
    """
    height = width * 0.62 if width < 450 else width * 0.5
    canvas = Canvas(width, height, f"Share of {scenario} queries answered within a time")
    frame = Frame(44, 26, width - 12, height - 42)
    everything = [float(v) for m in models for name in m.scenarios for v in _ends(m, name)]
    everything += [limit_ms] if limit_ms is not None else []
    x_scale = fit_scale(everything, frame.left, frame.right, log=True)
    y_scale = Scale(0, 100, frame.bottom, frame.top)
    draw_x_axis(canvas, frame, x_scale, "latency, ms", count=5 if width < 450 else 8)
    draw_y_axis(canvas, frame, y_scale, "% of queries within")
    canvas.line(frame.left, y_scale(99), frame.right, y_scale(99), "guide")
    canvas.text(frame.left + 4, y_scale(99) + 12, "99 %", "small")
    if limit_ms is not None:
        x = x_scale(limit_ms)
        canvas.line(x, frame.top, x, frame.bottom, "guide")
        canvas.text(x, frame.top - 6, f"limit {number(limit_ms)} ms", "small", "middle")
    for index, model in enumerate(models):
        samples = np.sort(np.maximum(samples_of(model, scenario), _SHORTEST_MS))
        if len(samples):
            pattern = f' stroke-dasharray="{dash(index)}"' if dash(index) else ""
            points = _steps(samples, x_scale, y_scale)
            canvas.path(points, f"curve {series_class(index)}", pattern)
    return canvas.svg()


def _ends(model: ModelReport, scenario: str) -> list[float]:
    samples = samples_of(model, scenario)
    if not len(samples):
        return []
    return [max(float(end), _SHORTEST_MS) for end in (samples.min(), samples.max())]


def _steps(
    samples: NDArray[np.float64], x_scale: Scale, y_scale: Scale
) -> list[tuple[float, float]]:
    n = len(samples)
    ranks = np.arange(n)
    if n > _MOST_POINTS:
        # The tail matters most and is short: the 40 slowest queries are all drawn.
        body = np.linspace(0, n - 41, _MOST_POINTS - 40).astype(int)
        ranks = np.unique(np.concatenate([body, np.arange(n - 40, n)]))
    points = [(x_scale(float(samples[0])), y_scale(0))]
    for rank in ranks:
        x = x_scale(float(samples[rank]))
        points += [(x, points[-1][1]), (x, y_scale(100 * (rank + 1) / n))]
    points.append((x_scale.end, y_scale(100)))
    return points


def latency_split(models: Sequence[ModelReport], names: dict[str, str], width: float) -> Markup:
    """Mean time of decode, pre-process, inference and post-process as stacked bars."""
    rows = []
    for model in models:
        parts = [model.measures[name].value if name in model.measures else None for name in PHASES]
        if any(part is not None for part in parts):
            rows.append((model, parts))
    canvas = Canvas(width, 44 + 46 * len(rows), "Mean latency of each model by stage")
    frame = Frame(8, 4, width - 74, 4 + 46 * len(rows))
    totals = [sum(part or 0.0 for part in parts) for _, parts in rows]
    scale = fit_scale(totals, frame.left, frame.right, from_zero=True, margin=0.02)
    draw_x_axis(canvas, frame, scale, "mean time of one image, ms", count=5)
    for place, (model, parts) in enumerate(rows):
        top = frame.top + 46 * place
        name = names[model.reference]
        canvas.text(frame.left, top + 14, shorten(name, int(width / 7)), "series-label")
        start = 0.0
        for phase, part in enumerate(parts):
            if part is None:
                continue
            left, right = scale(start), scale(start + part)
            share = part / totals[place] if totals[place] else 0.0
            title = f"{name}, {PHASE_TITLES[phase]}: {number(part)} ms, {share:.0%}"
            canvas.rect((left, top + 20, right - left, 18), f"phase p{phase}", title)
            label = number(part)
            if right - left > text_width(label, 10.5) + 8:
                canvas.text((left + right) / 2, top + 33, label, "in-bar", "middle")
            start += part
        canvas.text(scale(start) + 6, top + 33, f"{number(totals[place])} ms", "value")
    return canvas.svg()
