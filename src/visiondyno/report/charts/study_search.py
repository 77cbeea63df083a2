"""What a study searched: how it went on, which parameters mattered, and what was traded off."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from visiondyno.report.format import number, shorten
from visiondyno.report.plots import (
    Canvas,
    Frame,
    Scale,
    draw_x_axis,
    draw_y_axis,
    fit_scale,
    linear_ticks,
)
from visiondyno.report.study_trials import (
    COMPLETED,
    FAILED,
    MARKS,
    PRUNED,
    StudyTrial,
    is_better,
    objective_title,
)

Objective = Mapping[str, str]
"""`name` and `direction`."""

MOST_LINES = 300
"""Trials of a plot of parallel coordinates: the best, and evenly many of the others."""


def optimisation_history(
    trials: Sequence[StudyTrial], index: int, objective: Objective, width: float
) -> Markup:
    """Each trial's value by its number, and the best up to it.

    Args:
        trials: by number; at least one has a value.
        index: of the objective among those of the study.
        objective: that one.
        width: in pixels.
    """
    height = width * 0.6 if width < 450 else width * 0.48
    title = objective_title(objective["name"])
    canvas = Canvas(width, height, f"{title} of each trial")
    frame = Frame(56, 28, width - 14, height - 42)
    valued = [trial for trial in trials if trial.values]
    y_scale = _value_scale([trial.values[index] for trial in valued], objective, frame)
    x_scale = whole_scale(trials[0].number, trials[-1].number, frame)
    draw_y_axis(canvas, frame, y_scale, title)
    draw_whole_axis(canvas, frame, x_scale, "trial")
    _draw_best_so_far(canvas, valued, index, objective, (x_scale, y_scale, frame.right))
    size = 4.5 if len(trials) <= 80 else 3
    for trial in trials:
        x = x_scale(trial.number)
        if trial.state == FAILED:
            canvas.marker(x, frame.bottom - 6, MARKS[FAILED], f"trial {trial.number}: failed", size)
        elif trial.values:
            text = f"trial {trial.number}, {trial.state}: {number(trial.values[index], 4)}"
            mark = MARKS.get(trial.state, MARKS[PRUNED])
            canvas.marker(x, y_scale(trial.values[index]), mark, text, size)
    return canvas.svg()


def _draw_best_so_far(
    canvas: Canvas,
    valued: Sequence[StudyTrial],
    index: int,
    objective: Objective,
    place: tuple[Scale, Scale, float],
) -> None:
    x_scale, y_scale, end = place
    points: list[tuple[float, float]] = []
    best: float | None = None
    for trial in valued:
        if trial.state != COMPLETED:
            continue
        value = trial.values[index]
        if best is None or is_better(value, best, objective["direction"]):
            if best is not None:
                points.append((x_scale(trial.number), y_scale(best)))
            best = value
            points.append((x_scale(trial.number), y_scale(value)))
    if best is not None:
        canvas.path([*points, (end, y_scale(best))], "front")


def importance_bars(shares: Mapping[str, float], label: str, width: float) -> Markup:
    """A bar for each parameter, the longest first.

    Args:
        shares: by parameter, from 0 to 1.
        label: what they are shares of.
        width: in pixels.
    """
    row = 26
    names = {name: shorten(name, 18 if width < 450 else 30) for name in shares}
    left = min(width * 0.45, 24 + max(len(name) for name in names.values()) * 7)
    canvas = Canvas(width, row * len(shares) + 8, f"Importances for {label}")
    longest = max(shares.values())
    room = width - left - 56
    for place, (name, share) in enumerate(sorted(shares.items(), key=lambda item: -item[1])):
        y = place * row + 6
        canvas.text(left - 8, y + 13, names[name], "t", "end")
        length = room * share / longest
        canvas.rect((left, y, length, 17), "bar s0", f"{name}: {100 * share:.1f} %")
        canvas.text(left + length + 6, y + 13, f"{100 * share:.0f} %", "value")
    return canvas.svg()


def trade_off(
    trials: Sequence[StudyTrial],
    pair: tuple[int, int],
    objectives: Sequence[Objective],
    front: frozenset[int],
    width: float,
) -> Markup:
    """Two objectives of the completed trials; a line joins those of the front.

    Args:
        trials: at least one completed.
        pair: of the objectives' places: across, and upwards.
        objectives: of the study.
        front: numbers of the trials that no other one dominates.
        width: in pixels.
    """
    height = width * 0.72 if width < 450 else width * 0.55
    across, upwards = (objective_title(objectives[place]["name"]) for place in pair)
    canvas = Canvas(width, height, f"{upwards} against {across}")
    frame = Frame(56, 28, width - 18, height - 42)
    done = [trial for trial in trials if trial.state == COMPLETED and trial.values]
    scales = [
        fit_scale(
            [trial.values[place] for trial in done],
            *ends,
            log=None if objectives[place]["direction"] == "minimize" else False,
        )
        for place, ends in zip(
            pair, ((frame.left, frame.right), (frame.bottom, frame.top)), strict=True
        )
    ]
    x_scale, y_scale = scales
    draw_y_axis(canvas, frame, y_scale, upwards)
    draw_x_axis(canvas, frame, x_scale, across)
    ends = sorted(
        (x_scale(one.values[pair[0]]), y_scale(one.values[pair[1]]))
        for one in done
        if one.number in front
    )
    canvas.path(ends, "front")
    for trial in sorted(done, key=lambda one: one.number in front):
        in_front = trial.number in front
        x, y = x_scale(trial.values[pair[0]]), y_scale(trial.values[pair[1]])
        first, second = (number(trial.values[place], 4) for place in pair)
        text = f"trial {trial.number}: {second} at {first}"
        canvas.marker(x, y, 0 if in_front else 7, text, 5.5 if in_front else 4)
        if in_front and len(front) <= 12:
            canvas.text(x + 8, y - 6, str(trial.number), "point-label")
    return canvas.svg()


def _value_scale(values: Sequence[float], objective: Objective, frame: Frame) -> Scale:
    log = None if objective["direction"] == "minimize" else False
    return fit_scale(values, frame.bottom, frame.top, log=log, margin=0.08)


def whole_scale(first: int, last: int, frame: Frame) -> Scale:
    """From whole numbers, with a little room, to the frame's width."""
    room = 0.5 if first == last else (last - first) * 0.03
    return Scale(first - room, last + room, frame.left, frame.right)


def draw_whole_axis(canvas: Canvas, frame: Frame, scale: Scale, title: str) -> None:
    """A horizontal axis of whole numbers: there is nothing between two of them."""
    ticks = {round(tick) for tick in linear_ticks(scale.low, scale.high, 7)}
    for tick in sorted(tick for tick in ticks if scale.low <= tick <= scale.high):
        canvas.text(scale(tick), frame.bottom + 16, f"{tick:,}", "tick", "middle")
    canvas.line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")
    canvas.text((frame.left + frame.right) / 2, frame.bottom + 34, title, "axis-title", "middle")


def thinned(trials: Sequence[StudyTrial], index: int, direction: str) -> list[StudyTrial]:
    """At most `MOST_LINES` completed trials, the worst first: the best, and some of all others."""
    sign = -1.0 if direction == "minimize" else 1.0
    done = [trial for trial in trials if trial.state == COMPLETED and trial.values]
    done.sort(key=lambda trial: sign * trial.values[index])
    if len(done) <= MOST_LINES:
        return done
    half = MOST_LINES // 2
    others = done[:-half]
    return [others[place * len(others) // half] for place in range(half)] + done[-half:]


def label_of(value: Any) -> str:
    """A parameter's value for people."""
    if isinstance(value, float):
        return number(value, 3)
    return str(value)
