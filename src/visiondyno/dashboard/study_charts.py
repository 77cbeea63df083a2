"""A study's history as inline SVG."""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from visiondyno.dashboard.study_reading import EndedTrial
from visiondyno.report.format import number
from visiondyno.report.plots import Canvas, Frame, Scale, draw_x_axis, draw_y_axis, fit_scale
from visiondyno.tuning.objectives import Objective

_SIZES = {"wide": (760, 240), "narrow": (380, 220)}
_MOST_DOTS = 600


def history_plot(ended: Sequence[EndedTrial], objective: Objective) -> Markup | None:
    """The values of trials in the order of their ends, and the best up to each.

    Args:
        ended: trials.
        objective: which of their values.

    Returns:
        Two drawings, of which the page shows the one that fits; None before any value.
    """
    ordered = sorted((t for t in ended if t.state == "completed"), key=lambda trial: trial.at)
    points = [
        (trial.number, trial.values[objective.name])
        for trial in ordered
        if math.isfinite(trial.values.get(objective.name, math.nan))
    ]
    if not points:
        return None
    drawn = [_drawing(points, objective, size, *_SIZES[size]) for size in _SIZES]
    return Markup("").join(drawn)


def _drawing(
    points: Sequence[tuple[int, float]], objective: Objective, css: str, width: int, height: int
) -> Markup:
    best = _best_so_far([value for _, value in points], objective)
    label = f"{objective.name} of {len(points)} completed trials; the best is {number(best[-1], 4)}"
    canvas = Canvas(width, height, label)
    frame = Frame(56, 24, width - 12, height - 40)
    x = Scale(0, len(points) + 1, frame.left, frame.right)
    y = fit_scale([value for _, value in points], frame.bottom, frame.top, margin=0.08)
    draw_x_axis(canvas, frame, x, "completed trials", count=min(6, len(points) + 1))
    draw_y_axis(canvas, frame, y, objective.name)
    canvas.path(_steps(best, x, y), "curve s0")
    for place in _thinned(len(points)):
        trial, value = points[place]
        at = x(place + 1), y(value)
        is_best = place == 0 or best[place] != best[place - 1]
        text = f"trial {trial}: {objective.name} {number(value, 4)}"
        canvas.marker(*at, 0 if is_best else 7, text, size=4.5 if is_best else 3.2)
    head = f'<div class="{css}"><svg viewBox="0 0 {width} {height}" role="img" aria-label='
    return Markup(  # noqa: S704  # every text in it was escaped as it was drawn
        f'{head}"{escape(label)}">{"".join(canvas.parts)}</svg></div>'
    )


def _best_so_far(values: Sequence[float], objective: Objective) -> list[float]:
    best: list[float] = []
    for value in values:
        best.append(value if not best or objective.is_better(value, best[-1]) else best[-1])
    return best


def _steps(best: Sequence[float], x: Scale, y: Scale) -> list[tuple[float, float]]:
    """Corners of the line: level until a better one comes, then straight to it."""
    corners = [(x(1), y(best[0]))]
    for place in range(1, len(best)):
        if best[place] != best[place - 1]:
            corners += [(x(place + 1), y(best[place - 1])), (x(place + 1), y(best[place]))]
    return [*corners, (x(len(best)), y(best[-1]))]


def _thinned(count: int) -> range:
    return range(0, count, max(1, math.ceil(count / _MOST_DOTS)))
