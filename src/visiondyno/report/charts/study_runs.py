"""How a study's trials ran: when and where, and how each of them learned."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from visiondyno.report.charts.study_search import draw_whole_axis, whole_scale
from visiondyno.report.format import number, shorten
from visiondyno.report.plots import Canvas, Frame, Scale, draw_x_axis, draw_y_axis, fit_scale
from visiondyno.report.study_trials import COMPLETED, MARKS, PRUNED, StudyTrial

MOST_CURVES = 120
MOST_ROWS = 80


@dataclass(frozen=True, slots=True)
class Curve:
    """What a trial told from step to step; at least one point."""

    trial: StudyTrial
    points: Sequence[tuple[int, float]]
    is_best: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Trials that ran on a lane one after another."""

    lane: str
    is_first: bool
    trials: Sequence[StudyTrial]


def rows_of(trials: Sequence[StudyTrial]) -> list[Row]:
    """As many rows a lane as it had trials at once; each trial in the row that was free longest."""
    lanes: dict[str, list[StudyTrial]] = {}
    for trial in sorted(trials, key=lambda one: (one.began_s or 0.0, one.number)):
        if trial.began_s is not None and trial.ended_s is not None:
            lanes.setdefault(trial.lane, []).append(trial)
    found = []
    for lane, ran in lanes.items():
        rows: list[list[StudyTrial]] = []
        free: list[tuple[float, int]] = []
        for trial in ran:
            assert trial.began_s is not None
            assert trial.ended_s is not None
            if free and free[0][0] <= trial.began_s:
                _, place = heapq.heappop(free)
                rows[place].append(trial)
            else:
                place = len(rows)
                rows.append([trial])
            heapq.heappush(free, (trial.ended_s, place))
        found += [Row(lane, place == 0, row) for place, row in enumerate(rows)]
    return found


def timeline(rows: Sequence[Row], began_s: float, width: float) -> Markup:
    """Which trial ran when, and on which lane (its last attempt).

    Args:
        rows: at least one, at most `MOST_ROWS` are drawn.
        began_s: what time is counted from.
        width: in pixels.
    """
    rows = rows[:MOST_ROWS]
    thickness = 22 if len(rows) <= 12 else 14 if len(rows) <= 32 else 8
    lanes = sum(row.is_first for row in rows)
    height = 14 + len(rows) * thickness + lanes * 20 + 44
    canvas = Canvas(width, height, "When each trial ran, and where")
    frame = Frame(10, 8, width - 14, height - 42)
    ends = [trial.ended_s or 0.0 for row in rows for trial in row.trials]
    scale = Scale(0.0, max(max(ends) - began_s, 1e-3), frame.left, frame.right)
    draw_x_axis(canvas, frame, scale, "seconds since the study began", 5 if width < 450 else 8)
    y = frame.top
    for row in rows:
        if row.is_first:
            canvas.text(frame.left, y + 13, shorten(row.lane, int(width / 7)), "series-label")
            y += 20
        for trial in row.trials:
            _draw_span(canvas, trial, (scale, y, thickness, began_s))
        y += thickness
    return canvas.svg()


def _draw_span(canvas: Canvas, trial: StudyTrial, place: tuple[Scale, float, float, float]) -> None:
    scale, y, thickness, began_s = place
    assert trial.began_s is not None
    assert trial.ended_s is not None
    x, end = scale(max(0.0, trial.began_s - began_s)), scale(trial.ended_s - began_s)
    seconds = number(trial.ended_s - trial.began_s)
    text = f"trial {trial.number}, {trial.state}, {seconds} s"
    css = f"bar stretch s{MARKS.get(trial.state, MARKS[PRUNED])}"
    canvas.rect((x, y + 1, max(1.5, end - x), thickness - 2), css, text)
    label = str(trial.number)
    if thickness >= 14 and end - x > 8 + 7 * len(label):
        canvas.text((x + end) / 2, y + thickness / 2 + 4, label, "in-bar", "middle")


def learning_curves(curves: Sequence[Curve], title: str, width: float, *, log: bool) -> Markup:
    """A line for each trial; those that were pruned are faint, and the best one is strong.

    Args:
        curves: at least one.
        title: of what they show.
        width: in pixels.
        log: whether a logarithmic scale is taken where the values span orders of magnitude.
    """
    height = width * 0.62 if width < 450 else width * 0.5
    canvas = Canvas(width, height, f"{title} by epoch, of each trial")
    frame = Frame(56, 28, width - 14, height - 42)
    steps = [step for curve in curves for step, _ in curve.points]
    values = [value for curve in curves for _, value in curve.points]
    y_scale = fit_scale(values, frame.bottom, frame.top, log=None if log else False, margin=0.08)
    x_scale = whole_scale(min(steps), max(steps), frame)
    draw_y_axis(canvas, frame, y_scale, f"{title} · log scale" if y_scale.log else title)
    draw_whole_axis(canvas, frame, x_scale, "epoch")
    order = (False, True)
    for of_completed in order:
        for curve in curves:
            if (curve.trial.state == COMPLETED) is of_completed and not curve.is_best:
                _draw_curve(canvas, curve, x_scale, y_scale)
    for curve in curves:
        if curve.is_best:
            _draw_curve(canvas, curve, x_scale, y_scale)
    return canvas.svg()


def _draw_curve(canvas: Canvas, curve: Curve, x_scale: Scale, y_scale: Scale) -> None:
    trial = curve.trial
    mark = MARKS.get(trial.state, MARKS[PRUNED])
    done = trial.state == COMPLETED
    opacity = 1.0 if curve.is_best else 0.6 if done else 0.38
    line = "" if done else ' stroke-dasharray="4 3"'
    css = f"thread s{mark}{' strong' if curve.is_best else ''}"
    places = [(x_scale(step), y_scale(value)) for step, value in curve.points]
    canvas.path(places, css, f' stroke-opacity="{opacity}"{line}')
    step, value = curve.points[-1]
    text = f"trial {trial.number}, {trial.state}, epoch {step}: {number(value, 4)}"
    canvas.marker(*places[-1], mark, text, 4.5 if curve.is_best else 2.8)
