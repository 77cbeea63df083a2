"""Small static plots as inline SVG: scales, ticks, marks and a frame with axes.

Colours come from the page's style sheet (classes `s0` … `s7` for models), so that a plot follows
the light or dark theme and prints well. Every text is escaped. A mark carries a `<title>`, which
browsers show as a tooltip and screen readers can read.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup, escape

from visiondyno.report.format import decimals_for

SERIES = 8
"""Colours in the palette; later models reuse them with another marker and dash."""

DASHES = ("", "7 3", "2 3", "8 3 2 3")
_MARKERS = ("circle", "square", "triangle", "diamond", "down", "plus", "cross", "star")
_CHARACTER_WIDTH = 0.56
"""Mean width of a character over the font size, for a sans-serif face."""


def series_class(index: int) -> str:
    """The class that colours the model at `index`."""
    return f"s{index % SERIES}"


def dash(index: int) -> str:
    """The dash pattern of a line: colour alone must not tell models apart."""
    return DASHES[index % len(DASHES)]


def text_width(text: str, size: float = 12) -> float:
    """About how wide a text is, in pixels."""
    return len(text) * size * _CHARACTER_WIDTH


@dataclass(frozen=True, slots=True)
class Scale:
    """From data to pixels, linear or logarithmic.

    Attributes:
        low: data value at `start`; > 0 if `log`.
        high: data value at `end`.
        start: pixel of `low`.
        end: pixel of `high`; smaller than `start` on an upward axis.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of `value`."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the range, about `count` of them."""
        if self.log:
            return log_ticks(self.low, self.high, count)
        return linear_ticks(self.low, self.high, count)


def fit_scale(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    from_zero: bool = False,
    log: bool | None = False,
    margin: float = 0.06,
) -> Scale:
    """A scale that holds all values with a margin; nothing is ever clipped.

    Args:
        values: at least one, finite.
        start: pixel of the low end.
        end: pixel of the high end.
        from_zero: a linear scale starts at 0 (bars must).
        log: None takes a logarithmic scale where positive values span more than a factor of 8.
        margin: share of the range added at both ends.
    """
    low, high = min(values), max(values)
    if log is None:
        # Beyond what numbers can tell apart there is no ratio to draw.
        log = low > sys.float_info.min and 8 < high / low < 1e300
    if log:
        room = max((high / low) ** margin, 1.02)
        return Scale(low / room, high * room, start, end, log=True)
    if from_zero:
        low = min(0.0, low)
        return Scale(low, high * (1 + margin) or 1.0, start, end)
    room = (high - low) * margin or abs(high) * 0.05 or 0.5
    return Scale(low - room, high + room, start, end)


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    ticks = [round(index * step, 12) for index in range(first, last + 1)]
    # A range that starts just above one multiple and ends just below the next holds none.
    return ticks or linear_ticks(low, high, count + 1)


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """1, 2, 5 times powers of ten, thinned; linear ones where a decade has too few of them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [
            factor * 10.0**decade
            for decade in decades
            for factor in factors
            if low <= factor * 10.0**decade <= high
        ]
        if len(ticks) <= count + 1:
            break
    if len(ticks) >= 3:
        return ticks
    return [tick for tick in linear_ticks(low, high, count) if tick > 0]


def tick_label(value: float, step: float) -> str:
    """A tick's number with the decimals that its spacing needs."""
    places = min(6, decimals_for(step, 1)) if step else 0
    text = f"{value:,.{places}f}"
    return text.replace("-", "−")


@dataclass(slots=True)
class Canvas:
    """An SVG image being drawn."""

    width: float
    height: float
    label: str
    parts: list[str] = field(default_factory=list)

    def add(self, markup: str) -> None:
        """Append markup; texts in it must be escaped already."""
        self.parts.append(markup)

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str, extra: str = "") -> None:
        """A straight line."""
        self.add(
            f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{extra}/>'
        )

    def rect(self, box: tuple[float, float, float, float], css: str, title: str = "") -> None:
        """A rectangle: x, y, width, height."""
        x, y, width, height = box
        inner = f"<title>{escape(title)}</title>" if title else ""
        self.add(
            f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" '
            f'height="{max(0.0, height):.1f}">{inner}</rect>'
        )

    def text(self, x: float, y: float, text: str, css: str = "t", anchor: str = "start") -> None:
        """A text whose baseline starts, centres or ends at x."""
        self.add(
            f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def path(self, points: Sequence[tuple[float, float]], css: str, extra: str = "") -> None:
        """A line through points."""
        steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.add(f'<polyline class="{css}" points="{steps}"{extra}/>')

    def area(self, points: Sequence[tuple[float, float]], css: str, title: str = "") -> None:
        """A filled polygon."""
        steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        inner = f"<title>{escape(title)}</title>" if title else ""
        self.add(f'<polygon class="{css}" points="{steps}">{inner}</polygon>')

    def marker(self, x: float, y: float, index: int, title: str, size: float = 5) -> None:
        """The mark of the model at `index`: its own shape as well as its own colour."""
        shape = _MARKERS[index % len(_MARKERS)]
        steps = _marker_path(shape, x, y, size)
        self.add(
            f'<path class="marker {series_class(index)}" d="{steps}">'
            f"<title>{escape(title)}</title></path>"
        )

    def svg(self) -> Markup:
        """The whole image."""
        return Markup(  # noqa: S704  # every text in it was escaped as it was drawn
            f'<svg viewBox="0 0 {self.width:.0f} {self.height:.0f}" role="img" '
            f'style="max-width:{self.width * 1.25:.0f}px" aria-label="{escape(self.label)}">'
            f"{''.join(self.parts)}</svg>"
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """The plotting area inside a canvas: left, top, right, bottom in pixels."""

    left: float
    top: float
    right: float
    bottom: float


def draw_x_axis(canvas: Canvas, frame: Frame, scale: Scale, title: str, count: int = 6) -> None:
    """Ticks, grid lines and title of a horizontal axis."""
    ticks = scale.ticks(count)
    step = _smallest_gap(ticks)
    for tick in ticks:
        x = scale(tick)
        canvas.line(x, frame.top, x, frame.bottom, "gridline")
        canvas.text(x, frame.bottom + 16, tick_label(tick, step), "tick", "middle")
    canvas.line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")
    note = f"{title} · log scale" if scale.log else title
    canvas.text((frame.left + frame.right) / 2, frame.bottom + 34, note, "axis-title", "middle")


def draw_y_axis(canvas: Canvas, frame: Frame, scale: Scale, title: str, count: int = 5) -> None:
    """Ticks, grid lines and title (above the axis, where it needs no turning of the head)."""
    ticks = scale.ticks(count)
    step = _smallest_gap(ticks)
    for tick in ticks:
        y = scale(tick)
        canvas.line(frame.left, y, frame.right, y, "gridline")
        canvas.text(frame.left - 7, y + 4, tick_label(tick, step), "tick", "end")
    canvas.text(4, frame.top - 10, title, "axis-title")


def _smallest_gap(ticks: Sequence[float]) -> float:
    gaps = [b - a for a, b in pairwise(ticks)]
    smallest = min(gaps, default=0.0)
    # 1.5 between 1 and 2 needs its decimal, which the power of ten of a gap of 0.5 gives.
    return smallest or (abs(ticks[0]) if ticks else 0.0)


def _marker_path(shape: str, x: float, y: float, size: float) -> str:
    if shape == "circle":
        return (
            f"M{x - size:.1f},{y:.1f}a{size},{size} 0 1,0 {2 * size},0a{size},{size} 0 1,0 "
            f"{-2 * size},0z"
        )
    corners = [(x + size * a, y + size * b) for a, b in _OUTLINES[shape]]
    return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in corners) + "z"


_ARM = ((-0.35, -0.35), (-0.35, -1.1), (0.35, -1.1))
_PLUS = tuple(
    point
    for turn in ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))
    for point in ((x * turn[0] + y * turn[1], x * turn[2] + y * turn[3]) for x, y in _ARM)
)
_OUTLINES: dict[str, Sequence[tuple[float, float]]] = {
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "down": ((0, 1.15), (1.1, -0.85), (-1.1, -0.85)),
    "plus": _PLUS,
    "cross": tuple(((a - b) * 0.75, (a + b) * 0.75) for a, b in _PLUS),
    "star": tuple(
        (
            (1.3 if i % 2 == 0 else 0.6) * math.sin(math.pi * i / 5),
            -(1.3 if i % 2 == 0 else 0.6) * math.cos(math.pi * i / 5),
        )
        for i in range(10)
    ),
}
