"""A load test as a page, made from its record alone."""

from typing import Any

from markupsafe import Markup

from visiondyno.report.charts.load_bars import BROKE, COLD_PHASES, HELD
from visiondyno.report.charts.load_course import ENDS
from visiondyno.report.format import plural, sentence
from visiondyno.report.load_test import LoadTestResult
from visiondyno.report.load_test_facts import (
    CLOSED_LOOP,
    MAIN,
    STATUS_CLASSES,
    cards,
    cell_of,
    code_counts,
    difference_rows,
    error_counts,
    generator_lines,
    headline,
    is_closed,
    main_rows,
    nothing_good_lines,
    resource_rows,
    stage_names,
    status_counts,
    subtitle,
    told_lines,
)
from visiondyno.report.load_test_figures import (
    cold_start_figures,
    course_figures,
    percentile_figures,
    resource_figures,
    search_figures,
)
from visiondyno.report.load_test_measures import (
    LOAD_MEASURES,
    load_title,
    measure_interval,
    measure_value,
    shown_unit,
)
from visiondyno.report.load_test_strategies import (
    strategy_cards,
    strategy_figures,
    strategy_lead,
    strategy_names,
)
from visiondyno.report.page import render_page
from visiondyno.report.plots import Canvas, dash, series_class
from visiondyno.report.yaml_spec import dump_fields


def load_test_html(result: LoadTestResult) -> str:
    """The self-contained page of a load test."""
    return render_page("load_test.html.j2", {**_words(result), **_tables(result), **_plots(result)})


def _words(result: LoadTestResult) -> dict[str, Any]:
    return {
        "r": result,
        "headline": headline(result),
        "subtitle": subtitle(result),
        "closed_loop": CLOSED_LOOP if is_closed(result) else None,
        "generator": generator_lines(result.targets),
        "nothing_good": nothing_good_lines(result),
        "cards": [*cards(result), *strategy_cards(result.strategies)],
        "sentence": sentence,
        "plural": plural,
        "yaml": spec_yaml(result),
    }


def _tables(result: LoadTestResult) -> dict[str, Any]:
    # A cold start puts no load on its target: rows of dashes and zeros would say nothing.
    loaded = [target for target in result.targets if target.rounds or target.search]
    return {
        "shows_results": bool(loaded) or any(target.notes for target in result.targets),
        "columns": [
            (load_title(name), shown_unit(LOAD_MEASURES[name].unit), LOAD_MEASURES[name].meaning)
            for name in MAIN
        ],
        "rows": main_rows(loaded),
        "differences": difference_rows(result.differences),
        "resource_rows": resource_rows(result.targets),
        "told": told_lines(result.targets),
        "classes": STATUS_CLASSES,
        "status_counts": status_counts,
        "code_counts": code_counts,
        "error_counts": error_counts,
        "stage_names": stage_names(result.targets),
        "strategies": strategy_names(result.strategies),
        "strategy_lead": strategy_lead(result.spec),
        "meanings": {name: kind.meaning for name, kind in LOAD_MEASURES.items()},
        "load_title": load_title,
        "unit_of": lambda name: shown_unit(LOAD_MEASURES[name].unit),
        "cell_of": cell_of,
        "value": measure_value,
        "interval": measure_interval,
    }


def _plots(result: LoadTestResult) -> dict[str, Any]:
    return {
        "keys": {target.name: _key(place) for place, target in enumerate(result.targets)},
        "percentiles": percentile_figures(result),
        "courses": course_figures(result),
        "resources": resource_figures(result.targets),
        "cold": cold_start_figures(result),
        "searches": search_figures(result.targets),
        "profiles": strategy_figures(result.strategies),
        "profile_keys": [
            (f"{row.strategy} {row.replicas}", _key(place))
            for place, row in enumerate(result.strategies)
        ],
        "ends": [(words, css) for _, words, css in ENDS],
        "phases": [(words, css) for _, words, css in COLD_PHASES],
        "phases_told": _phases_told(result),
        "tries": [(_mark(HELD), "held"), (_mark(BROKE), "didn’t hold")],
    }


def spec_yaml(result: LoadTestResult) -> str:
    """The spec as YAML that repeats the test; what wasn't set is left out."""
    return dump_fields(_without_none(result.spec))


def _without_none(value: dict[str, object]) -> dict[str, object]:
    def pruned(part: object) -> object:
        if isinstance(part, dict):
            return {
                # Of what is sent nothing is left out.
                name: inner if name == "json_body" else pruned(inner)
                for name, inner in part.items()
                if inner is not None
            }
        return [pruned(inner) for inner in part] if isinstance(part, list | tuple) else part

    found = pruned(value)
    assert isinstance(found, dict)
    return found


def _phases_told(result: LoadTestResult) -> bool:
    starts = [one for target in result.targets for one in target.cold_starts]
    starts += [one for row in result.strategies for one in row.cold_starts]
    return any(one.told_by is not None for one in starts)


def _key(index: int) -> Markup:
    canvas = Canvas(30, 14, "")
    pattern = f' stroke-dasharray="{dash(index)}"' if dash(index) else ""
    canvas.line(0, 7, 30, 7, f"curve {series_class(index)}", pattern)
    canvas.marker(15, 7, index, "", 4)
    return _svg(canvas, "key", 30)


def _mark(index: int) -> Markup:
    canvas = Canvas(14, 14, "")
    canvas.marker(7, 7, index, "", 5)
    return _svg(canvas, "key mark", 14)


def _svg(canvas: Canvas, css: str, width: int) -> Markup:
    inner = "".join(canvas.parts).replace("<title></title>", "")
    return Markup(  # noqa: S704  # made of constants
        f'<svg class="{css}" viewBox="0 0 {width} 14" aria-hidden="true">{inner}</svg>'
    )
