"""Cold starts split by phase, and the tries of a search for the highest rate."""

from collections.abc import Sequence

from markupsafe import Markup

from visiondyno.report.format import number, shorten
from visiondyno.report.load_test import ColdStart, RateSearch
from visiondyno.report.plots import (
    Canvas,
    Frame,
    draw_x_axis,
    draw_y_axis,
    fit_scale,
    text_width,
)

COLD_PHASES = (
    ("process_start_ms", "process start", "p0"),
    ("model_load_ms", "model load", "p1"),
    ("first_inference_ms", "first inference", "p2"),
    ("rest_ms", "the rest", "p3"),
)
"""Field of `ColdStart`, words, class of its colour."""

HELD, BROKE = 0, 1
"""Places of the marks of tries that held and that didn't."""
_ROW = 44


def cold_start_bars(rows: Sequence[tuple[str, ColdStart]], width: float) -> Markup:
    """From zero to the first good answer: a bar each, split where somebody told the parts.

    Args:
        rows: at least one, with what to call it.
        width: in pixels.
    """
    canvas = Canvas(width, 44 + _ROW * len(rows), "Cold starts by phase")
    frame = Frame(8, 4, width - 80, 4 + _ROW * len(rows))
    totals = [one.total_ms for _, one in rows]
    scale = fit_scale(totals, frame.left, frame.right, from_zero=True, margin=0.02)
    draw_x_axis(canvas, frame, scale, "ms to the first good answer", count=5)
    for place, (name, one) in enumerate(rows):
        top = frame.top + _ROW * place
        canvas.text(frame.left, top + 14, shorten(name, int(width / 7)), "series-label")
        start = 0.0
        for words, css, part in _parts(one):
            left, right = scale(start), scale(start + part)
            canvas.rect(
                (left, top + 20, right - left, 17), css, f"{name}, {words}: {number(part)} ms"
            )
            label = number(part)
            if right - left > text_width(label, 10.5) + 8:
                canvas.text((left + right) / 2, top + 32.5, label, "in-bar", "middle")
            start += part
        canvas.text(scale(one.total_ms) + 6, top + 33, f"{number(one.total_ms)} ms", "value")
    return canvas.svg()


def search_tries(search: RateSearch, width: float) -> Markup:
    """p99 of each rate tried, in which order, and whether it held.

    Args:
        search: with at least one try.
        width: in pixels.
    """
    height = width * 0.66 if width < 450 else width * 0.48
    canvas = Canvas(width, height, "Rates tried")
    frame = Frame(54, 28, width - 18, height - 42)
    measured = [one.p99_ms for one in search.tries if one.p99_ms is not None]
    y_scale = fit_scale([*measured, search.limit_ms], frame.bottom, frame.top, log=None)
    rates = [one.rate_per_s for one in search.tries]
    x_scale = fit_scale(rates, frame.left, frame.right, log=None)
    draw_y_axis(canvas, frame, y_scale, "p99 is at most, ms")
    draw_x_axis(canvas, frame, x_scale, "requests/s")
    limit = y_scale(search.limit_ms)
    canvas.line(frame.left, limit, frame.right, limit, "guide")
    canvas.text(frame.left + 4, limit - 4, f"limit {number(search.limit_ms)} ms", "small")
    for place, one in enumerate(search.tries, 1):
        y = frame.top if one.p99_ms is None else y_scale(one.p99_ms)
        text = f"try {place}, {number(one.rate_per_s)} requests/s: {one.why_not or 'held'}"
        canvas.marker(x_scale(one.rate_per_s), y, HELD if one.held else BROKE, text)
        canvas.text(x_scale(one.rate_per_s) + 8, y - 5, str(place), "on-line")
    return canvas.svg()


def _parts(one: ColdStart) -> list[tuple[str, str, float]]:
    told = [
        (words, f"phase {css}", getattr(one, field))
        for field, words, css in COLD_PHASES
        if getattr(one, field) is not None
    ]
    return told or [("in all", "bar s7", one.total_ms)]
