"""What each scenario measured, ours and LoadGen's side by side: rows for every form's table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from visiondyno.measurements.measure import Measure
from visiondyno.report.comparison import ModelReport, ScenarioResult
from visiondyno.report.format import interval_text, listed, number, sentence, value_text
from visiondyno.specs.operations import Scenario

RATE = "throughput_images_per_s"
COLUMNS = ("latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms", RATE)
_BY_LOADGEN = " by LoadGen"
_IN_MAIN_TABLE = frozenset({"single-stream", "offline"})
Kind = Literal["ours", "bound", "loadgen", "ratio"]

KINDS: dict[Kind, str] = {
    "ours": "VisionDyno",
    "bound": "at most",
    "loadgen": "LoadGen",
    "ratio": "ratio",
}


@dataclass(frozen=True, slots=True)
class ScenarioRow:
    """One line of a scenario's table.

    Attributes:
        reference: the model's.
        kind: our measures; LoadGen's early-stopping bound on them; LoadGen's own; ours over its.
        cells: value and interval for each of the table's columns; both empty where there is none.
        n: how many queries (images, of offline); empty where unknown.
        verdict: LoadGen's own, of its row.
    """

    reference: str
    kind: Kind
    cells: tuple[tuple[str, str], ...]
    n: str = ""
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class ScenarioTable:
    """One scenario of every model that ran it.

    Attributes:
        columns: those of `COLUMNS` that hold a value.
        notes: how rates came about, and why there is none.
    """

    scenario: str
    columns: tuple[str, ...]
    rows: tuple[ScenarioRow, ...]
    notes: tuple[str, ...]


def scenario_tables(
    models: Sequence[ModelReport], names: dict[str, str]
) -> tuple[ScenarioTable, ...]:
    """A table for each scenario, in MLPerf's order.

    None where only single-stream and offline ran, by our engine: the main table has those.
    """
    ran = {name for model in models for name in model.scenarios}
    if ran <= _IN_MAIN_TABLE:
        return ()
    return tuple(_table(name, models, names) for name in get_args(Scenario) if name in ran)


def verdict_of(result: ScenarioResult) -> str:
    """What LoadGen concluded, from its own words."""
    return " ".join(result.notes).removeprefix("LoadGen's verdict: ").rstrip(".")


def _table(scenario: str, models: Sequence[ModelReport], names: dict[str, str]) -> ScenarioTable:
    able = [model for model in models if scenario in model.scenarios]
    columns = tuple(
        name
        for name in COLUMNS
        if any(
            _value(result, name) is not None
            for model in able
            for result in (model.scenarios[scenario], model.scenarios.get(scenario + _BY_LOADGEN))
        )
    )
    rows = [row for model in able for row in _rows(scenario, model, columns)]
    return ScenarioTable(scenario, columns, tuple(rows), _notes(scenario, able, names))


def _rows(scenario: str, model: ModelReport, columns: Sequence[str]) -> list[ScenarioRow]:
    ours = model.scenarios[scenario]
    rows = [ScenarioRow(model.reference, "ours", _cells(ours.measures, columns), _n(ours))]
    if any(measure.value is not None for measure in ours.early_stopping.values()):
        rows.append(ScenarioRow(model.reference, "bound", _cells(ours.early_stopping, columns)))
    theirs = model.scenarios.get(scenario + _BY_LOADGEN)
    if theirs is not None:
        cells = _cells(theirs.measures, columns)
        verdict = verdict_of(theirs)
        rows.append(ScenarioRow(model.reference, "loadgen", cells, _n(theirs), verdict))
        ratios = tuple((_ratio(ours, theirs, name), "") for name in columns)
        rows.append(ScenarioRow(model.reference, "ratio", ratios))
    return rows


def _cells(measures: dict[str, Measure], columns: Sequence[str]) -> tuple[tuple[str, str], ...]:
    cells = []
    for name in columns:
        found = measures.get(name)
        if found is None or found.value is None:
            cells.append(("", ""))
        else:
            cells.append((value_text(name, found.value), interval_text(name, found.interval)))
    return tuple(cells)


def _n(result: ScenarioResult) -> str:
    """Queries, of which latencies are taken; images where there are only rates."""
    counts = [result.measures[name].n for name in COLUMNS if name in result.measures]
    return next((f"{count:,}" for count in counts if count is not None), "")


def _ratio(ours: ScenarioResult, theirs: ScenarioResult, name: str) -> str:
    a, b = _value(ours, name), _value(theirs, name)
    return number(a / b) if a is not None and b else ""


def _value(result: ScenarioResult | None, name: str) -> float | None:
    found = result.measures.get(name) if result is not None else None
    return found.value if found is not None else None


def _notes(scenario: str, models: Sequence[ModelReport], names: dict[str, str]) -> tuple[str, ...]:
    """Methods of the rates, and reasons of gaps, each once with the models that it is true of."""
    said: dict[str, list[str]] = {}
    for model in models:
        result = model.scenarios[scenario]
        rate = result.measures.get(RATE)
        if rate is not None:
            text = f"no rate: {rate.reason}" if rate.value is None else f"rate: {rate.method}"
            said.setdefault(text, []).append(names[model.reference])
        for note in result.notes:
            said.setdefault(note, []).append(names[model.reference])
    return tuple(
        sentence(text[:1].upper() + text[1:])
        if len(who) == len(models)
        else sentence(f"{listed(who)}: {text}")
        for text, who in said.items()
    )
