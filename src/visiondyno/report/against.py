"""Each model against the reference that was asked for: what was won and lost, with intervals."""

import math
from dataclasses import dataclass

from visiondyno.measurements.measure import Interval
from visiondyno.report.comparison import Comparison, Difference, ModelReport
from visiondyno.report.differences import log_ratio
from visiondyno.report.format import interval_text, number, signed_text, title
from visiondyno.report.layout import ACCURACY_OF, scored_as
from visiondyno.report.model_facts import model_facts
from visiondyno.report.origins import apart, newest

_FASTER = ("latency_p50_ms", "throughput_images_per_s")
_ENERGY = "energy_joules_per_image"


@dataclass(frozen=True, slots=True)
class Cell:
    """One change; `text` is empty where it isn't known.

    Attributes:
        interval: 95 %, as text; empty where there is none.
        tie: the interval holds "no change", or isn't known.
    """

    text: str = ""
    interval: str = ""
    tie: bool = True


@dataclass(frozen=True, slots=True)
class Against:
    """The table.

    Attributes:
        reference: the model that the others are against.
        columns: titles of the cells.
        rows: of each other model, its reference and cells.
    """

    reference: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]

    @property
    def explanation(self) -> str:
        """How to read it, in one line."""
        return (
            "Size and energy: share of the reference's. Speed and throughput: how many times as "
            "fast. Brackets: 95 % intervals; ≈: of estimates."
        )


def against_reference(comparison: Comparison) -> Against | None:
    """The table; None where no reference was asked for, or nothing stands beside it."""
    models = newest(comparison.models)
    by_reference = {model.reference: model for model in models}
    source = by_reference.get(comparison.spec.reference or "")
    if source is None or len(models) < 2:
        return None
    main = ACCURACY_OF.get(scored_as(comparison.dataset), "accuracy")
    others = [model for model in models if model is not source]
    rows = tuple(
        (
            model.reference,
            (
                _size(source, model),
                _accuracy(comparison, main, source, model),
                *(_speed(source, model, name) for name in _FASTER),
                _energy(source, model),
            ),
        )
        for model in others
    )
    columns = ("Size ×", title(main), "Speed ×", "Throughput ×", "Energy ×")
    shown = [index for index in range(len(columns)) if any(cells[index].text for _, cells in rows)]
    if not shown:
        return None
    return Against(
        source.reference,
        tuple(columns[index] for index in shown),
        tuple((name, tuple(cells[index] for index in shown)) for name, cells in rows),
    )


def _size(source: ModelReport, model: ModelReport) -> Cell:
    before, after = (model_facts(one).file_bytes for one in (source, model))
    if before is None or after is None:
        return Cell()
    return Cell(number(after / before), tie=before == after)


def _accuracy(comparison: Comparison, main: str, source: ModelReport, model: ModelReport) -> Cell:
    pair = {source.reference, model.reference}
    found = next(
        (one for one in comparison.differences if one.measure == main and {one.a, one.b} == pair),
        None,
    )
    if found is None:
        return Cell()
    value, interval = _turned(found, model.reference)
    return Cell(signed_text(main, value), interval_text(main, interval), found.tie)


def _turned(found: Difference, reference: str) -> tuple[float, Interval | None]:
    """The difference as `reference` minus the other."""
    if found.a == reference:
        return found.value, found.interval
    # Subtracted from 0: the negative of 0 would be shown as −0.
    value = 0.0 - found.value
    if found.interval is None:
        return value, None
    low, high = found.interval
    return value, (None if high is None else 0.0 - high, None if low is None else 0.0 - low)


def _speed(source: ModelReport, model: ModelReport, name: str) -> Cell:
    pair = (source, model) if name.startswith("latency") else (model, source)
    return _ratio(*pair, name)


def _energy(source: ModelReport, model: ModelReport) -> Cell:
    exact = _ratio(model, source, _ENERGY)
    if exact.text or apart(_ENERGY, (source, model)) is not None:
        return exact
    before, after = (one.measures.get(_ENERGY) for one in (source, model))
    if before is None or after is None or not before.value or after.value is None:
        return Cell()
    return Cell(f"≈ {number(after.value / before.value)}")


def _ratio(upper: ModelReport, lower: ModelReport, name: str) -> Cell:
    found = log_ratio(upper, lower, name)
    if found is None:
        return Cell()
    ratio, interval = found
    if interval is None or interval == (None, None):
        return Cell(number(math.exp(ratio)))
    low, high = (None if bound is None else math.exp(bound) for bound in interval)
    tie = not ((low is not None and low > 1) or (high is not None and high < 1))
    # Ratios are written as a fraction is: without a unit.
    return Cell(number(math.exp(ratio)), interval_text("map_50", (low, high)), tie)
