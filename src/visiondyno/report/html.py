"""The comparison as one self-contained HTML file that opens with no network."""

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from visiondyno.environment import Environment
from visiondyno.measurements.measure import MEASURES, Measure
from visiondyno.report import figures
from visiondyno.report.against import against_reference
from visiondyno.report.charts.accuracy import class_measure, per_class_rows
from visiondyno.report.charts.latency import PHASE_TITLES
from visiondyno.report.charts.tradeoff import interval_glyph
from visiondyno.report.comparison import Comparison
from visiondyno.report.differences import tie_text
from visiondyno.report.format import (
    interval_text,
    measure_text,
    signed_text,
    title,
    unit_label,
    value_text,
)
from visiondyno.report.green import ACCURACY_GATE, ALPHAS, alpha_sensitivity
from visiondyno.report.history import MOST_RUNS, History, histories
from visiondyno.report.layout import (
    ACCURACY_OF,
    GROUPS,
    best_references,
    display_names,
    headline,
    image_question,
    main_measures,
    scored_as,
    subtitle,
)
from visiondyno.report.model_facts import model_facts
from visiondyno.report.origins import newest
from visiondyno.report.page import render_page
from visiondyno.report.plots import SERIES, Canvas, dash, series_class
from visiondyno.report.scenarios import KINDS, scenario_tables
from visiondyno.report.yaml_spec import dump_spec


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a results table; `sort` is empty where there is no value."""

    text: str
    interval: str
    sort: str
    glyph: Markup | str
    best: bool
    estimated: bool
    reason: str


def to_html(comparison: Comparison, banner: str | None = None) -> str:
    """The whole report: style, script, plots and images inside one file.

    Every text from outside is escaped, and a content security policy lets only the report's own
    script run and nothing be fetched. `banner` is said at the top of the page.
    """
    return render_page("report.html.j2", {**_context(comparison), "banner": banner})


def _context(comparison: Comparison) -> dict[str, Any]:
    names = display_names(comparison.models)
    # Earlier runs of a model stand in the results and its history; all else shows the newest.
    current = comparison.model_copy(update={"models": newest(comparison.models)})
    tables = scenario_tables(current.models, names)
    return {
        **_plots(comparison, current),
        "c": comparison,
        "current": current.models,
        "names": names,
        "headline": headline(comparison),
        "subtitle": subtitle(comparison),
        "question": image_question(comparison.dataset),
        "series": {m.reference: series_class(i) for i, m in enumerate(comparison.models)},
        "keys": {m.reference: _key(i) for i, m in enumerate(comparison.models)},
        "columns": [(name, title(name), unit_label(name)) for name in main_measures(comparison)],
        "kinds": MEASURES,
        "rows": _main_rows(comparison),
        "facts": {m.reference: model_facts(m).lines() for m in comparison.models},
        "against": against_reference(comparison),
        "groups": _groups(current),
        "classes": _class_table(current),
        "differences": _difference_rows(comparison, names),
        "green": _green_rows(current),
        "alphas": ALPHAS,
        "gate": ACCURACY_GATE,
        "phases": PHASE_TITLES,
        "methods": _methods(comparison),
        "early": _early_stopping(current),
        "scenarios": tables,
        "kinds_of_row": KINDS,
        "scenario_plots": figures.scenario_figures(current, [t.scenario for t in tables]),
        "environments": _environments(comparison),
        "main_accuracy": title(ACCURACY_OF.get(scored_as(comparison.dataset), "accuracy")),
        "yaml": dump_spec(comparison.spec),
        "has_images": any(model.worst_images for model in current.models),
    }


def _plots(comparison: Comparison, current: Comparison) -> dict[str, Any]:
    """Figures, and the tables of those that show earlier runs; `current` has none of these."""
    past = histories(comparison.models)
    return {
        "pareto": figures.pareto_figures(current),
        "latency": figures.latency_figures(current),
        "accuracy": figures.accuracy_figures(current),
        "confusion": figures.confusion_figures(current),
        "bars": figures.bar_figures(current),
        "forests": figures.difference_figures(current),
        "histories": [_history_table(found) for found in past],
        "history_plots": figures.history_figures(past, comparison.models),
    }


def _key(index: int) -> Markup:
    """The model's marker on a piece of its line, for legends."""
    canvas = Canvas(30, 14, "")
    pattern = f' stroke-dasharray="{dash(index)}"' if dash(index) else ""
    canvas.line(1, 7, 29, 7, f"curve {series_class(index % SERIES)}", pattern)
    canvas.marker(15, 7, index, "", 4.5)
    return Markup(  # noqa: S704  # made of constants
        '<svg class="key" viewBox="0 0 30 14" aria-hidden="true">'
        + "".join(canvas.parts)
        + "</svg>"
    )


def _main_rows(comparison: Comparison) -> list[tuple[str, list[Cell]]]:
    columns = main_measures(comparison)
    best = {name: best_references(comparison, name) for name in columns}
    rows = []
    for index, model in enumerate(comparison.models):
        cells = []
        for name in columns:
            found = [m.measures[name] for m in comparison.models if name in m.measures]
            own = model.measures.get(name)
            glyph: Markup | str = ""
            if own is not None and own.value is not None and len(comparison.models) > 1:
                glyph = interval_glyph(name, own, found, index)
            cells.append(_cell(name, own, glyph, best=model.reference in best[name]))
        rows.append((model.reference, cells))
    return rows


def _cell(name: str, measure: Measure | None, glyph: Markup | str, *, best: bool) -> Cell:
    if measure is None or measure.value is None:
        reason = (measure.reason if measure is not None else None) or "not measured"
        return Cell("–", "", "", "", best=False, estimated=False, reason=reason)
    return Cell(
        value_text(name, measure.value),
        interval_text(name, measure.interval),
        repr(measure.value),
        glyph,
        best=best,
        estimated=measure.estimated,
        reason="",
    )


def _groups(comparison: Comparison) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Every measure of every model: group → (measure, one text a model)."""
    groups = []
    for heading, measures in GROUPS:
        rows = [
            (
                name,
                [measure_text(name, m.measures.get(name), unit=False) for m in comparison.models],
            )
            for name in measures
            if any(name in model.measures for model in comparison.models)
        ]
        if rows:
            groups.append((heading, rows))
    return groups


def _class_table(comparison: Comparison) -> dict[str, Any] | None:
    measure = class_measure(comparison.models)
    if measure is None:
        return None
    rows = per_class_rows(comparison.models, comparison.dataset.classes, measure)
    return {"title": title(measure), "rows": rows}


def _difference_rows(comparison: Comparison, names: dict[str, str]) -> list[dict[str, str]]:
    return [
        {
            "measure": title(found.measure),
            "a": names.get(found.a, found.a),
            "b": names.get(found.b, found.b),
            "value": f"{signed_text(found.measure, found.value)} {unit_label(found.measure)}",
            "interval": interval_text(found.measure, found.interval) or "unknown",
            "verdict": tie_text(found),
            "method": found.method,
        }
        for found in comparison.differences
    ]


def _green_rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Green scores for alpha 1, 2, 3; empty where no model has any."""
    reference = comparison.green_reference
    if reference is None or not any(reference == model.reference for model in comparison.models):
        return []
    scores = alpha_sensitivity(comparison.models, reference)
    if all(score.value is None for row in scores.values() for score in row.values()):
        return []
    return [
        (model, [measure_text("green_score", row[alpha]) for alpha in ALPHAS])
        for model, row in scores.items()
    ]


def _methods(comparison: Comparison) -> list[dict[str, Any]]:
    """Each measure's meaning, the distinct ways it was measured, and sample sizes."""
    found = []
    for name, kind in MEASURES.items():
        measures = [m.measures[name] for m in comparison.models if name in m.measures]
        valued = [measure for measure in measures if measure.value is not None]
        if not measures:
            continue
        reasons = {m.reason for m in measures if m.value is None and m.reason}
        found.append(
            {
                "title": kind.title,
                "unit": kind.unit,
                "meaning": kind.meaning,
                "methods": list(dict.fromkeys(measure.method for measure in valued)),
                "n": ", ".join(dict.fromkeys(f"{m.n:,}" for m in valued if m.n is not None)),
                "reasons": sorted(reasons),
            }
        )
    return found


def _early_stopping(comparison: Comparison) -> list[tuple[str, str, str]]:
    """LoadGen's bounds of single-stream: model, percentile, bound."""
    return [
        (model.reference, title(name), measure_text(name, measure))
        for model in comparison.models
        if "single-stream" in model.scenarios
        for name, measure in model.scenarios["single-stream"].early_stopping.items()
    ]


def _history_table(history: History) -> dict[str, Any]:
    """One model's runs as columns, its measures as rows; at most `MOST_RUNS`, the newest."""
    runs = history.runs[-MOST_RUNS:]
    rows = [
        {
            "measure": title(found.measure),
            "unit": unit_label(found.measure),
            "cells": [
                _cell(found.measure, m.measures.get(found.measure), "", best=False) for m in runs
            ],
            "verdict": found.verdict,
            "reasons": "; ".join(found.reasons),
        }
        for found in history.agreements
    ]
    return {
        "reference": history.runs[-1].reference,
        "name": history.name,
        "place": history.place,
        "sentence": history.sentence(),
        "dates": history.dates[-MOST_RUNS:],
        "more": len(history.runs) - len(runs),
        "rows": rows,
    }


def _environments(comparison: Comparison) -> list[Environment]:
    """The machines, each once, the newest run's last."""
    origins = [model.origin for model in comparison.models if model.origin is not None]
    found = {origin.environment.machine_id: origin.environment for origin in origins}
    found.pop(comparison.environment.machine_id, None)
    return [*found.values(), comparison.environment]
