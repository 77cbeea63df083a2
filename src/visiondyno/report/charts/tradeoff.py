"""What is paid for what: Pareto plots, bars with intervals, differences."""

from collections.abc import Sequence

from markupsafe import Markup

from visiondyno.measurements.measure import Measure
from visiondyno.report.comparison import Difference, ModelReport, ParetoFront
from visiondyno.report.differences import higher_is_better, tie_text
from visiondyno.report.format import (
    in_shown_unit,
    interval_text,
    measure_text,
    shorten,
    signed_text,
    title,
    unit_label,
    value_text,
)
from visiondyno.report.plots import (
    Canvas,
    Frame,
    Scale,
    draw_x_axis,
    draw_y_axis,
    fit_scale,
    series_class,
    text_width,
)

_Point = tuple[int, ModelReport, Measure, Measure]
_Box = tuple[float, float, float, float]


def axis_title(name: str) -> str:
    """The measure's title with its unit."""
    unit = unit_label(name)
    return f"{title(name)}, {unit}" if unit else title(name)


def shown_bounds(name: str, measure: Measure) -> tuple[float, float]:
    """The interval in shown units; the value itself where a side is unknown."""
    value = measure.value or 0.0
    low, high = measure.interval or (None, None)
    return (
        in_shown_unit(name, value if low is None else low),
        in_shown_unit(name, value if high is None else high),
    )


def pareto_plot(
    models: Sequence[ModelReport], names: dict[str, str], front: ParetoFront, width: float
) -> Markup:
    """Two measures against each other with interval bars, and the front as a stepped line."""
    height = width * 0.82 if width < 450 else width * 0.62
    text = f"{title(front.y)} against {title(front.x)}, with the Pareto front"
    canvas = Canvas(width, height, text)
    frame = Frame(46, 28, width - 14, height - 42)
    points: list[_Point] = [
        (index, model, model.measures[front.x], model.measures[front.y])
        for index, model in enumerate(models)
        if all(
            n in model.measures and model.measures[n].value is not None for n in (front.x, front.y)
        )
    ]
    xs = [bound for _, _, x, _ in points for bound in shown_bounds(front.x, x)]
    ys = [bound for _, _, _, y in points for bound in shown_bounds(front.y, y)]
    x_scale = fit_scale(xs, frame.left, frame.right, log=None, margin=0.1)
    y_scale = fit_scale(ys, frame.bottom, frame.top, margin=0.1)
    draw_x_axis(canvas, frame, x_scale, axis_title(front.x), count=5 if width < 450 else 7)
    draw_y_axis(canvas, frame, y_scale, axis_title(front.y))
    _front_line(canvas, frame, points, front, (x_scale, y_scale))
    taken: list[_Box] = []
    for point in points:
        x, y = _place(point, front, (x_scale, y_scale))
        taken.append((x - 7, y - 7, x + 7, y + 7))
        _interval_cross(canvas, point, front, (x_scale, y_scale))
    for index, model, x_measure, y_measure in points:
        x, y = _place((index, model, x_measure, y_measure), front, (x_scale, y_scale))
        name = names[model.reference]
        what = f"{name}: {title(front.x)} {measure_text(front.x, x_measure)}; {title(front.y)} "
        canvas.marker(x, y, index, what + measure_text(front.y, y_measure), 6)
        _label(canvas, frame, (x, y), shorten(name, 18 if width < 450 else 28), taken)
    return canvas.svg()


def _place(point: _Point, front: ParetoFront, scales: tuple[Scale, Scale]) -> tuple[float, float]:
    return (
        scales[0](in_shown_unit(front.x, point[2].value or 0.0)),
        scales[1](in_shown_unit(front.y, point[3].value or 0.0)),
    )


def _front_line(
    canvas: Canvas,
    frame: Frame,
    points: Sequence[_Point],
    front: ParetoFront,
    scales: tuple[Scale, Scale],
) -> None:
    places = {p[1].reference: _place(p, front, scales) for p in points}
    on_front = [places[reference] for reference in front.references if reference in places]
    if not on_front:
        return
    on_front.sort()
    # What is dominated lies right of and below the steps (x: less is better, y: more is).
    steps = [(on_front[0][0], frame.bottom)]
    for x, y in on_front:
        steps += [(x, steps[-1][1]), (x, y)]
    steps.append((frame.right, on_front[-1][1]))
    canvas.area([*steps, (frame.right, frame.bottom)], "dominated")
    css = "front estimated" if front.estimated else "front"
    canvas.path(steps[2:], css)


def _interval_cross(
    canvas: Canvas, point: _Point, front: ParetoFront, scales: tuple[Scale, Scale]
) -> None:
    x, y = _place(point, front, scales)
    css = f"whisker {series_class(point[0])}"
    low, high = (scales[0](bound) for bound in shown_bounds(front.x, point[2]))
    if high - low > 1:
        canvas.line(low, y, high, y, css)
    low, high = (scales[1](bound) for bound in shown_bounds(front.y, point[3]))
    if low - high > 1:
        canvas.line(x, low, x, high, css)


def _label(
    canvas: Canvas, frame: Frame, place: tuple[float, float], text: str, taken: list[_Box]
) -> None:
    """Write a name where it covers least: right, left, above or below its point."""
    x, y = place
    width = text_width(text, 11.5)
    spots = [(x + 11, y - 6), (x + 11, y + 16), (x - 11 - width, y - 6), (x - 11 - width, y + 16)]
    spots += [(x - width / 2, y + step) for step in (-16, 26, -30, 40)]

    def cost(spot: tuple[float, float]) -> float:
        left, base = spot
        box = (left, base - 10, left + width, base + 3)
        overlap = sum(_overlap(box, other) for other in taken)
        outside = max(0.0, 2 - box[0]) + max(0.0, box[2] - frame.right - 8)
        outside += max(0.0, frame.top - 8 - box[1]) + max(0.0, box[3] - frame.bottom)
        return overlap + 100 * outside

    left, base = min(spots, key=cost)
    taken.append((left, base - 10, left + width, base + 3))
    canvas.text(left, base, text, "point-label")


def _overlap(a: _Box, b: _Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def bars(
    models: Sequence[ModelReport], names: dict[str, str], measure: str, width: float
) -> Markup:
    """One bar a model from 0, with its interval; estimates are hatched, gaps say why."""
    canvas = Canvas(width, 2 + 40 * len(models), f"{title(measure)} of each model")
    present = [model.measures.get(measure) for model in models]
    highs = [
        max(in_shown_unit(measure, m.value), shown_bounds(measure, m)[1])
        for m in present
        if m is not None and m.value is not None
    ]
    scale = fit_scale(highs or [1.0], 4, width - 96, from_zero=True, margin=0.0)
    for place, (model, found) in enumerate(zip(models, present, strict=True)):
        top = 4.0 + 40 * place
        name = names[model.reference]
        canvas.text(4, top + 12, shorten(name, int(width / 7.5)), "series-label")
        if found is None or found.value is None:
            canvas.text(4, top + 29, measure_text(measure, found)[: int(width / 6)], "small")
            continue
        end = scale(in_shown_unit(measure, found.value))
        css = f"bar {series_class(place)}" + (" estimated" if found.estimated else "")
        box = (scale(0), top + 18, max(1.5, end - scale(0)), 13)
        canvas.rect(box, css, f"{name}: {measure_text(measure, found)}")
        low, high = (scale(bound) for bound in shown_bounds(measure, found))
        if high - low > 1:
            canvas.line(low, top + 24.5, high, top + 24.5, "whisker-bar")
        mark = "≈ " if found.estimated else ""
        text = f"{mark}{value_text(measure, found.value)}"
        canvas.text(max(end, high) + 7, top + 29, text, "value")
    return canvas.svg()


def difference_forest(
    differences: Sequence[Difference], names: dict[str, str], measure: str, width: float
) -> Markup:
    """Each pair's difference with its interval around zero: what crosses zero is a tie."""
    rows = [found for found in differences if found.measure == measure]
    canvas = Canvas(width, 54 + 44 * len(rows), f"Differences in {title(measure)} between models")
    frame = Frame(10, 6, width - 12, 8 + 44 * len(rows))
    ends = [0.0]
    for found in rows:
        low, high = found.interval or (None, None)
        ends += [in_shown_unit(measure, v) for v in (found.value, low, high) if v is not None]
    scale = fit_scale(ends, frame.left + 4, frame.right - 4)
    unit = unit_label(measure)
    draw_x_axis(
        canvas, frame, scale, f"difference in {title(measure)}{f', {unit}' if unit else ''}"
    )
    canvas.line(scale(0), frame.top, scale(0), frame.bottom, "zero")
    for place, found in enumerate(rows):
        y = frame.top + 44 * place + 32
        a, b = names.get(found.a, found.a), names.get(found.b, found.b)
        value = signed_text(measure, found.value)
        half = int(width / 16)
        label = f"{shorten(a, half)} − {shorten(b, half)}"
        canvas.text(frame.left, y - 12, label, "series-label")
        wins = (found.value > 0) == higher_is_better(measure)
        css = "tie" if found.tie else "better" if wins else "worse"
        text = f"{a} − {b}: {value} {unit} {interval_text(measure, found.interval)}"
        canvas.text(frame.right, y - 12, f"{value} · {tie_text(found)}", f"value {css}", "end")
        low, high = found.interval or (None, None)
        x = scale(in_shown_unit(measure, found.value))
        left = x if low is None else scale(in_shown_unit(measure, low))
        right = x if high is None else scale(in_shown_unit(measure, high))
        canvas.rect((left, y - 2, max(2, right - left), 4), f"forest {css}", text)
        canvas.rect((x - 3.5, y - 5, 7, 10), f"forest-mark {css}", text)
    return canvas.svg()


def interval_glyph(
    measure: str, found: Measure, all_found: Sequence[Measure], index: int
) -> Markup:
    """A small dot with its interval, on a scale that the whole column of a table shares."""
    bounds = [bound for m in all_found if m.value is not None for bound in shown_bounds(measure, m)]
    canvas = Canvas(84, 8, f"{title(measure)} on the column's scale")
    scale = fit_scale(bounds, 4, 80, log=None, margin=0.02)
    canvas.line(2, 4, 82, 4, "glyph-axis")
    low, high = (scale(bound) for bound in shown_bounds(measure, found))
    css = series_class(index)
    if high - low > 1:
        canvas.line(low, 4, high, 4, f"glyph-interval {css}")
    x = scale(in_shown_unit(measure, found.value or 0.0))
    canvas.add(f'<circle class="glyph-dot {css}" cx="{x:.1f}" cy="4" r="2.8"/>')
    return canvas.svg()
