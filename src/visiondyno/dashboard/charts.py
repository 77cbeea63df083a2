"""The two small drawings of the pages as inline SVG: throughput, and scores with intervals."""

from collections.abc import Sequence

from markupsafe import Markup

from visiondyno.report.plots import Scale

_WIDTH, _HEIGHT = 240, 44


def sparkline(bars: Sequence[int | None], label: str) -> Markup:
    """One bar an entry, from 0 to the highest; a dotted ground line where nothing was counted.

    Args:
        bars: counts, oldest first; None: not counted.
        label: what a screen reader says instead.
    """
    top = max((bar for bar in bars if bar is not None), default=0) or 1
    step = _WIDTH / max(1, len(bars))
    ground = _HEIGHT - 1
    parts = []
    for place, bar in enumerate(bars):
        x = place * step
        if bar is None:
            parts.append(
                f'<rect class="unknown" x="{x + step / 3:.1f}" y="{ground}" '
                f'width="{step / 3:.1f}" height="1"/>'
            )
            continue
        height = max(1.0 if bar else 0.4, (_HEIGHT - 4) * bar / top)
        parts.append(
            f'<rect class="bar" x="{x + 0.4:.1f}" y="{ground - height:.1f}" '
            f'width="{step - 0.8:.1f}" height="{height:.1f}"/>'
        )
    return _drawing(_WIDTH, _HEIGHT, label, parts, "spark", "none")


def score_scale(intervals: Sequence[tuple[float, float]]) -> Scale | None:
    """One scale for all rows of a board, so that their bars can be compared; None of no rows."""
    if not intervals:
        return None
    low = min(interval[0] for interval in intervals)
    high = max(interval[1] for interval in intervals)
    room = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
    return Scale(low - room, high + room, 4, _WIDTH - 4)


def score_bar(
    scale: Scale, score: float, low: float | None, high: float | None, label: str
) -> Markup:
    """A score as a dot on its interval."""
    middle = 8
    parts = [f'<line class="rail" x1="4" y1="{middle}" x2="{_WIDTH - 4}" y2="{middle}"/>']
    if low is not None and high is not None:
        parts.append(
            f'<line class="span" x1="{scale(low):.1f}" y1="{middle}" '
            f'x2="{scale(high):.1f}" y2="{middle}"/>'
        )
    parts.append(f'<circle class="dot" cx="{scale(score):.1f}" cy="{middle}" r="4"/>')
    return _drawing(_WIDTH, 16, label, parts, "interval-bar", "xMinYMid")


def _drawing(
    width: int, height: int, label: str, parts: list[str], css: str, aspect: str
) -> Markup:
    head = Markup(
        '<svg class="{}" viewBox="0 0 {} {}" preserveAspectRatio="{}" role="img" aria-label="{}">'
    )
    return head.format(css, width, height, aspect, label) + Markup(  # noqa: S704  # ours: numbers
        "".join(parts) + "</svg>"
    )
