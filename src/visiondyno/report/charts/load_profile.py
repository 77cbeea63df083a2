"""Processor, memory and replicas of scaling strategies over the pattern that they went through."""

from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

from visiondyno.report.load_test import StrategyRow
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

Reading = tuple[float, float | None]


def profile_course(
    rows: Sequence[StrategyRow], field: str, title: str, scaled: float, width: float
) -> Markup:
    """One reading of each strategy over time; a gap is a reading that failed.

    Args:
        rows: of which at least one has readings of it.
        field: of `ResourceSample`.
        title: of the axis, with the unit.
        scaled: what a reading is divided by.
        width: in pixels.
    """
    height = width * 0.62 if width < 450 else width * 0.42
    canvas, frame = Canvas(width, height, title), Frame(54, 28, width - 14, height - 42)
    lines = [_readings(row, field, scaled) for row in rows]
    values = [value for line in lines for _, value in line if value is not None]
    y_scale = fit_scale(values, frame.bottom, frame.top, from_zero=True)
    last = max(at for line in lines for at, _ in line)
    x_scale = Scale(0, last or 1, frame.left, frame.right)
    draw_y_axis(canvas, frame, y_scale, title)
    draw_x_axis(canvas, frame, x_scale, "time since the start, s")
    for index, line in enumerate(lines):
        pattern = f' stroke-dasharray="{dash(index)}"' if dash(index) else ""
        for is_read, stretch in groupby(line, key=lambda one: one[1] is not None):
            if is_read:
                points = [
                    (x_scale(at), y_scale(value)) for at, value in stretch if value is not None
                ]
                canvas.path(points, f"thread strong {series_class(index)}", pattern)
    return canvas.svg()


def _readings(row: StrategyRow, field: str, scaled: float) -> list[Reading]:
    return [
        (one.at_s, None if (value := getattr(one, field)) is None else value / scaled)
        for one in row.samples
    ]
