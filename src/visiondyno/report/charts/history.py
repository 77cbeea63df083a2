"""How a measure moved from run to run."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from visiondyno.report.charts.tradeoff import shown_bounds
from visiondyno.report.format import in_shown_unit, measure_text, title, unit_label
from visiondyno.report.history import History
from visiondyno.report.origins import dates_of
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


def history_plot(
    histories: Sequence[History], places: Mapping[str, int], measure: str, width: float
) -> Markup:
    """A measure of each run with its 95 % interval, the runs of a model joined by a line.

    Args:
        histories: at least one that has the measure; runs stand in order of date, evenly spaced.
        places: the index of a model's newest run by its reference, for its colour and mark.
        measure: its name.
        width: in pixels.
    """
    height = width * 0.62 if width < 450 else width * 0.5
    canvas = Canvas(width, height, f"{title(measure)} of each run")
    frame = Frame(52, 24, width - 14, height - 30)
    dates = dates_of(origin for found in histories for origin in found.origins)
    moments = sorted(dates)
    able = [
        (found, run, run.measures[measure])
        for found in histories
        for run in found.runs
        if measure in run.measures and run.measures[measure].value is not None
    ]
    ends = [end for _, _, value in able for end in shown_bounds(measure, value)]
    x_scale = Scale(-0.5, len(moments) - 0.5, frame.left, frame.right)
    y_scale = fit_scale(ends, frame.bottom, frame.top, margin=0.12)
    draw_y_axis(canvas, frame, y_scale, unit_label(measure))
    canvas.line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")
    _date_labels(canvas, frame, x_scale, [dates[moment] for moment in moments])
    for number, found in enumerate(histories):
        index = places[found.runs[-1].reference]
        # Runs of one moment stand beside each other, so that their whiskers don't hide each other.
        aside = 7.0 * (number - (len(histories) - 1) / 2)
        points = []
        for _, run, value in (row for row in able if row[0] is found):
            assert run.origin is not None
            x = x_scale(moments.index(run.origin.created_at)) + aside
            low, high = (y_scale(end) for end in shown_bounds(measure, value))
            if low - high > 1:
                canvas.line(x, low, x, high, f"whisker {series_class(index)}")
            points.append((x, y_scale(in_shown_unit(measure, value.value or 0.0)), run, value))
        pattern = f' stroke-dasharray="{dash(index)}"' if dash(index) else ""
        canvas.path([(x, y) for x, y, _, _ in points], f"curve {series_class(index)}", pattern)
        for x, y, run, value in points:
            canvas.marker(x, y, index, f"{run.name}: {measure_text(measure, value)}", 4.5)
    return canvas.svg()


def _date_labels(canvas: Canvas, frame: Frame, scale: Scale, dates: Sequence[str]) -> None:
    """As many dates as there is room for, the newest always."""
    of_one_year = len({date[:4] for date in dates}) == 1
    shown = [date[5:] if of_one_year else date for date in dates]
    edge = float("inf")
    for place in reversed(range(len(shown))):
        half = text_width(shown[place], 11) / 2
        x = min(max(scale(place), frame.left + half), frame.right - half)
        if x + half < edge:
            canvas.text(x, frame.bottom + 16, shown[place], "tick", "middle")
            edge = x - half - 8
