"""A study's parameters: all of them at once in parallel, and each by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from visiondyno.report.charts.study_search import Objective, label_of, thinned
from visiondyno.report.format import number, shorten
from visiondyno.report.plots import Canvas, Frame, Scale, draw_y_axis, fit_scale, tick_label
from visiondyno.report.study_trials import COMPLETED, MARKS, StudyTrial, finite, objective_title

_MOST_CHOICES = 12


@dataclass(frozen=True, slots=True)
class ParameterAxis:
    """Where the values of a parameter lie between two pixels.

    Attributes:
        name: of the parameter.
        scale: of numbers; of choices their places 0, 1, 2 …
        choices: labels, where it isn't a number.
    """

    name: str
    scale: Scale
    choices: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, name: str, trials: Sequence[StudyTrial], start: float, end: float
    ) -> "ParameterAxis":
        """An axis that holds the parameter's values in all the trials; at least one has it."""
        values = [trial.params[name] for trial in trials if name in trial.params]
        numbers = [finite(value) for value in values]
        known = [value for value in numbers if value is not None]
        if len(known) == len(values) and len(set(known)) > 4:
            log = name in trials[0].log and min(known) > 0
            return cls(name, fit_scale(known, start, end, log=log, margin=0.04))
        if len(known) == len(values):
            found: list[Any] = sorted(set(values))
        else:
            found = list(dict.fromkeys(sorted(values, key=str)))
        choices = tuple(dict.fromkeys(label_of(value) for value in found))
        return cls(name, Scale(-0.5, len(choices) - 0.5, start, end), choices)

    def place(self, params: Mapping[str, Any]) -> float | None:
        """The pixel of the trial's value; None where the trial hasn't this parameter."""
        if self.name not in params:
            return None
        value = params[self.name]
        if self.choices:
            return self.scale(self.choices.index(label_of(value)))
        return self.scale(float(value))

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """Pixels and labels."""
        if self.choices:
            step = -(-len(self.choices) // _MOST_CHOICES)
            return [
                (self.scale(place), choice)
                for place, choice in enumerate(self.choices)
                if place % step == 0
            ]
        ticks = self.scale.ticks(count)
        if self.scale.log:
            return [(self.scale(tick), f"{tick:g}") for tick in ticks]
        gap = min((b - a for a, b in pairwise(ticks)), default=ticks[0])
        return [(self.scale(tick), tick_label(tick, gap)) for tick in ticks]


def parallel_coordinates(
    trials: Sequence[StudyTrial],
    names: Sequence[str],
    objective: Objective,
    width: float,
    *,
    index: int = 0,
) -> Markup:
    """A line for each completed trial, across an axis for each parameter, to its value.

    The better a trial, the stronger its line; the best one has another colour.

    Args:
        trials: of the study; at least one completed.
        names: of the parameters, in the axes' order.
        objective: that is best where the lines are strong.
        width: in pixels.
        index: of the objective in the study.
    """
    height = width * 0.8 if width < 450 else width * 0.42
    canvas = Canvas(width, height, "Parameters and values of the completed trials")
    frame = Frame(46, 34, width - 46, height - 14)
    shown = thinned(trials, index, objective["direction"])
    axes = [ParameterAxis.of(name, shown, frame.bottom, frame.top) for name in names]
    values = fit_scale([one.values[index] for one in shown], frame.bottom, frame.top)
    gap = (frame.right - frame.left) / len(axes)
    for rank, trial in enumerate(shown):
        places = [axis.place(trial.params) for axis in axes]
        points = [(frame.left + gap * at, y) for at, y in enumerate(places) if y is not None]
        points.append((frame.right, values(trial.values[index])))
        is_best = rank == len(shown) - 1
        share = (rank + 1) / len(shown)
        css = f"thread {'s1' if is_best else 's0'}"
        strength = 1.0 if is_best else 0.06 + 0.6 * share**3
        extra = f' stroke-opacity="{strength:.2f}"' + (' stroke-width="2.6"' if is_best else "")
        canvas.path(points, css, extra)
    for at, axis in enumerate(axes):
        _draw_axis(canvas, frame, frame.left + gap * at, axis, gap)
    last = ParameterAxis(objective_title(objective["name"]), values)
    _draw_axis(canvas, frame, frame.right, last, gap)
    return canvas.svg()


def _draw_axis(canvas: Canvas, frame: Frame, x: float, axis: ParameterAxis, gap: float) -> None:
    canvas.line(x, frame.top, x, frame.bottom, "upright")
    at_end = x >= frame.right - 1
    room = int(gap / 6.4) if not at_end else int((gap + 40) / 6.4)
    anchor = "end" if at_end else "middle" if x > frame.left + 1 else "start"
    edge = {"end": x + 44, "middle": x, "start": 2.0}[anchor]
    canvas.text(edge, frame.top - 16, shorten(axis.name, max(6, room)), "small", anchor)
    for y, label in axis.ticks(5):
        canvas.text(x + 5, y + 3.5, shorten(label, 9), "on-line")


def parameter_slice(
    trials: Sequence[StudyTrial], name: str, objective: Objective, index: int, width: float
) -> Markup:
    """The objective by one parameter; a mark for each trial with a value.

    Args:
        trials: of the study; at least one with this parameter and a value.
        name: of the parameter.
        objective: upwards.
        index: of the objective in the study.
        width: in pixels.
    """
    height = width * 0.62
    canvas = Canvas(width, height, f"{objective_title(objective['name'])} by {name}")
    frame = Frame(52, 26, width - 14, height - 40)
    shown = [trial for trial in trials if trial.values and name in trial.params]
    values = [trial.values[index] for trial in shown]
    log = None if objective["direction"] == "minimize" else False
    y_scale = fit_scale(values, frame.bottom, frame.top, log=log)
    axis = ParameterAxis.of(name, shown, frame.left, frame.right)
    draw_y_axis(canvas, frame, y_scale, objective_title(objective["name"]))
    for x, label in axis.ticks(5):
        canvas.line(x, frame.top, x, frame.bottom, "gridline")
        room = (frame.right - frame.left) / (6.2 * max(1, len(axis.choices) or 5))
        canvas.text(x, frame.bottom + 16, shorten(label, max(4, int(room))), "tick", "middle")
    canvas.line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")
    title = f"{name} · log scale" if axis.scale.log else name
    centre = (frame.left + frame.right) / 2
    canvas.text(centre, frame.bottom + 34, title, "axis-title", "middle")
    slot = (frame.right - frame.left) / max(1, len(axis.choices))
    for trial in sorted(shown, key=lambda one: one.state == COMPLETED):
        place = axis.place(trial.params)
        assert place is not None, "only trials with this parameter are shown"
        x = place
        if axis.choices:  # marks of one choice side by side, and the same in every drawing
            x += slot * 0.5 * ((trial.number * 0.618034) % 1 - 0.5)
        text = (
            f"trial {trial.number}, {trial.state}: {number(trial.values[index], 4)} at "
            f"{label_of(trial.params[name])}"
        )
        canvas.marker(x, y_scale(trial.values[index]), MARKS.get(trial.state, 4), text, 3.6)
    return canvas.svg()
