"""How a number is written for people: the one place for digits, units and "not measured"."""

import math
from collections.abc import Sequence

from visiondyno.measurements.measure import MEASURES, Interval, Measure

MIB = 2**20
NOT_MEASURED = "not measured"

_UNITLESS = frozenset({"fraction", "ratio", "confidence", "0–100"})
_SHOWN_UNITS = {"bytes": "MiB", "% of one core": "% of a core"}


def unit_label(name: str) -> str:
    """The unit that `name` is shown in; empty where the number stands for itself."""
    unit = MEASURES[name].unit if name in MEASURES else ""
    return "" if unit in _UNITLESS else _SHOWN_UNITS.get(unit, unit)


def title(name: str) -> str:
    """The measure's title for people, or its name where it isn't one of `MEASURES`."""
    return MEASURES[name].title if name in MEASURES else name.replace("_", " ")


def in_shown_unit(name: str, value: float) -> float:
    """`value` in the unit of `unit_label`: bytes become MiB, everything else stays."""
    return value / MIB if name in MEASURES and MEASURES[name].unit == "bytes" else value


def decimals_for(value: float, digits: int = 3) -> int:
    """Decimal places that show `digits` significant digits of `value`; never under 0."""
    if value == 0 or not math.isfinite(value):
        return 0
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def number(value: float, digits: int = 3) -> str:
    """`value` with at least `digits` significant digits: 0.338, 12.3, 1,234, 1.20e-07."""
    if not math.isfinite(value):
        return "–"
    if value != 0 and abs(value) < 1e-5:
        return _minus(f"{value:.{digits - 1}e}")
    # Rounding can carry into a new digit (9.996 is 10.0), so the places follow the rounded value.
    places = decimals_for(float(f"{value:.{digits - 1}e}"), digits)
    return _minus(f"{value:,.{places}f}")


def value_text(name: str, value: float) -> str:
    """`value` of the measure `name` in its shown unit, without the unit."""
    return number(in_shown_unit(name, value))


def signed_text(name: str, value: float) -> str:
    """A change or a difference: as `value_text` with its sign."""
    text = value_text(name, value)
    return text if value <= 0 else f"+{text}"


def interval_text(name: str, interval: Interval | None) -> str:
    """`[low, high]` in the shown unit, `?` for a side the sample couldn't bound; else empty."""
    if interval is None or interval == (None, None):
        return ""
    known = [in_shown_unit(name, bound) for bound in interval if bound is not None]
    places = decimals_for(max(abs(bound) for bound in known))
    width = known[-1] - known[0]
    # A narrow interval around a large number needs digits of its own, or both bounds look equal.
    if 0 < width < 10.0 ** (1 - places):
        places = min(places + 2, decimals_for(width, 2))
    low, high = (
        "?" if bound is None else _minus(f"{in_shown_unit(name, bound):,.{places}f}")
        for bound in interval
    )
    return f"[{low}, {high}]"


def measure_text(name: str, measure: Measure | None, *, unit: bool = True) -> str:
    """One measure in a line: value, unit, interval, whether estimated, or why it is missing."""
    if measure is None:
        return NOT_MEASURED
    if measure.value is None:
        return f"{NOT_MEASURED}: {measure.reason}" if measure.reason else NOT_MEASURED
    label = unit_label(name) if unit else ""
    parts = [value_text(name, measure.value), label, interval_text(name, measure.interval)]
    text = " ".join(part for part in parts if part)
    return f"≈ {text} (estimated)" if measure.estimated else text


def bytes_text(count: int) -> str:
    """A size for people: MiB, or GiB from 1024 MiB."""
    mib = count / MIB
    return f"{number(mib / 1024)} GiB" if mib >= 1024 else f"{number(mib)} MiB"


def shorten(text: str, length: int) -> str:
    """`text` in at most `length` characters, cut in the middle: both ends tell models apart."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def sentence(text: str) -> str:
    """`text` with one full stop."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def plural(count: int, noun: str) -> str:
    """`1 image`, `2 images`, `2 classes`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _minus(text: str) -> str:
    return text.replace("-", "−") if text.startswith("-") else text
