"""How a metric moved from epoch to epoch of a training."""

from collections.abc import Sequence

from markupsafe import Markup

from visiondyno.report.format import number
from visiondyno.report.plots import (
    Canvas,
    Frame,
    Scale,
    draw_y_axis,
    fit_scale,
    linear_ticks,
    series_class,
)

Series = tuple[str, Sequence[tuple[int, float]]]
"""What a line is called, and its (epoch, value) pairs; only finite values."""

MOST_MARKERS = 40
"""Markers of a line with more epochs would run into each other: only some are drawn."""


def training_curve(metric: str, series: Sequence[Series], best_epoch: int, width: float) -> Markup:
    """A metric over the epochs: one line for training, one for validation.

    Args:
        metric: its name, for the label.
        series: at least one with a value. The order gives colour, dash and marker.
        best_epoch: marked by a vertical line; 0 marks none.
        width: in pixels.
    """
    height = width * 0.62 if width < 450 else width * 0.5
    canvas = Canvas(width, height, f"{metric} of each epoch")
    frame = Frame(52, 24, width - 14, height - 40)
    epochs = [epoch for _, points in series for epoch, _ in points]
    values = [value for _, points in series for _, value in points]
    log = None if min(values) > 0 and metric == "loss" else False
    y_scale = fit_scale(values, frame.bottom, frame.top, log=log, margin=0.08)
    x_scale = _epoch_scale(min(epochs), max(epochs), frame)
    draw_y_axis(canvas, frame, y_scale, "log scale" if y_scale.log else "")
    _epoch_axis(canvas, frame, x_scale)
    if best_epoch in epochs:
        x = x_scale(best_epoch)
        canvas.line(x, frame.top, x, frame.bottom, "guide")
    for index, (name, points) in enumerate(series):
        _line(canvas, index, name, [(x_scale(e), y_scale(v), e, v) for e, v in points])
    return canvas.svg()


def _line(
    canvas: Canvas, index: int, name: str, places: Sequence[tuple[float, float, int, float]]
) -> None:
    pattern = ' stroke-dasharray="7 3"' if index else ""
    canvas.path([(x, y) for x, y, _, _ in places], f"curve {series_class(index)}", pattern)
    every = -(-len(places) // MOST_MARKERS)
    last = len(places) - 1
    for place, (x, y, epoch, value) in enumerate(places):
        if place % every == 0 or place == last:
            canvas.marker(x, y, index, f"epoch {epoch}, {name}: {number(value, 4)}", 3.5)


def _epoch_scale(first: int, last: int, frame: Frame) -> Scale:
    room = 0.5 if first == last else (last - first) * 0.03
    return Scale(first - room, last + room, frame.left, frame.right)


def _epoch_axis(canvas: Canvas, frame: Frame, scale: Scale) -> None:
    """Whole epochs only: there is nothing between two of them."""
    ticks = {round(tick) for tick in linear_ticks(scale.low, scale.high, 8)}
    for tick in sorted(tick for tick in ticks if scale.low <= tick <= scale.high):
        x = scale(tick)
        canvas.text(x, frame.bottom + 16, f"{tick:,}", "tick", "middle")
    canvas.line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")
    canvas.text((frame.left + frame.right) / 2, frame.bottom + 34, "epoch", "axis-title", "middle")
