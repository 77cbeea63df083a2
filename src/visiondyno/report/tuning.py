"""A study as a page, made from its results alone."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from visiondyno.report.charts.study_parameters import parallel_coordinates, parameter_slice
from visiondyno.report.charts.study_runs import (
    MOST_CURVES,
    MOST_ROWS,
    Curve,
    learning_curves,
    rows_of,
    timeline,
)
from visiondyno.report.charts.study_search import (
    MOST_LINES,
    importance_bars,
    label_of,
    optimisation_history,
    trade_off,
)
from visiondyno.report.figures import NARROW, WIDE, Figure
from visiondyno.report.format import plural
from visiondyno.report.page import render_page
from visiondyno.report.plots import Canvas
from visiondyno.report.study_facts import cards, health_rows, test_rows, title_of, usd_text
from visiondyno.report.study_trials import (
    COMPLETED,
    MARKS,
    StudyTrial,
    objective_title,
    study_trials,
)
from visiondyno.report.yaml_spec import dump_fields

Results = Mapping[str, Any]
"""What `results.json` of a study holds."""

FULL = 1100
"""Width in pixels of a drawing that takes the whole of a desktop's page."""
_MOST_AXES, _MOST_AXES_NARROW = 9, 4
_MOST_SLICES = 16
_FEW = 50
"""Completed trials, of which the best tenth is less than five."""


def study_html(results: Results) -> str:
    """The self-contained page of a study; `results` as `results.json` holds them."""
    trials = study_trials(results)
    objectives = results["objectives"]
    return render_page(
        "study.html.j2",
        {
            "r": results,
            "title": title_of(results),
            "cards": cards(results),
            "keys": [(key_of(mark), state) for state, mark in MARKS.items()],
            "search": _search_figures(results, trials),
            "parallel": _parallel_figure(results, trials),
            "no_importances": (results["importances"] or {}).get("reason"),
            "slices": _slice_figures(results, trials),
            "curves": _curve_figures(results, trials),
            "timeline": _timeline_figure(results, trials),
            "health": health_rows(results["trials"]),
            "tests": test_rows(results),
            "params": _parameter_names(results, trials),
            "names": [objective["name"] for objective in objectives],
            "best": _best_numbers(results),
            "yaml": dump_fields(dict(results["spec"])),
            "made": _made(results),
            "objective_title": objective_title,
            "label_of": label_of,
            "usd_text": usd_text,
            "plural": plural,
            "mark_of": {state: key_of(mark) for state, mark in MARKS.items()},
        },
    )


def key_of(mark: int) -> Markup:
    """A marker for a legend or a table."""
    canvas = Canvas(14, 14, "")
    canvas.marker(7, 7, mark, "", 5)
    inner = "".join(canvas.parts).replace("<title></title>", "")
    return Markup(  # noqa: S704  # made of constants
        f'<svg class="key mark" viewBox="0 0 14 14" aria-hidden="true">{inner}</svg>'
    )


def _made(results: Results) -> str:
    began = datetime.datetime.fromtimestamp(results["time"]["began_at"], datetime.UTC)
    versions = results["versions"]
    return (
        f"Made by VisionDyno {versions['visiondyno']} with Optuna {versions['optuna']}; the study "
        f"began on {began:%Y-%m-%d %H:%M UTC}."
    )


def _best_numbers(results: Results) -> frozenset[int]:
    found = [one["trial"] for one in results["front"]]
    best = results["best"] or {}
    return frozenset([*found, *([best["trial"]] if "trial" in best else [])])


def _parameter_names(results: Results, trials: Sequence[StudyTrial]) -> list[str]:
    """The most important first, then in the order in which they were drawn."""
    of = (results["importances"] or {}).get("of") or {}
    ranked = [name for shares in of.values() for name in shares][:_MOST_AXES]
    drawn = [name for trial in trials for name in trial.params]
    return list(dict.fromkeys([*ranked, *drawn]))


def _figure(
    heading: str, caption: str, draw: Callable[[float], Markup], wide: int = WIDE
) -> Figure:
    return Figure(heading, caption, draw(NARROW), draw(wide))


# ---- the search


def _search_figures(results: Results, trials: Sequence[StudyTrial]) -> list[Figure]:
    figures = []
    objectives = results["objectives"]
    for place, objective in enumerate(objectives):
        if any(trial.values for trial in trials):
            figures.append(_history_figure(trials, place, objective))
    figures += _trade_off_figures(results, trials)
    importances = results["importances"] or {}
    for name, shares in (importances.get("of") or {}).items():
        figures.append(_importance_figure(name, shares, importances))
    return figures


def _history_figure(
    trials: Sequence[StudyTrial], place: int, objective: Mapping[str, str]
) -> Figure:
    word = "less" if objective["direction"] == "minimize" else "more"
    return _figure(
        f"History: {objective_title(objective['name'])}",
        f"The line is the best up to then, {word} being better. Trials that were pruned stand where"
        " they were last reported, failed ones at the bottom.",
        lambda width: optimisation_history(trials, place, objective, width),
    )


def _importance_figure(name: str, shares: Mapping[str, float], found: Mapping[str, Any]) -> Figure:
    shown = dict(list(shares.items())[:12])
    few = found["trials"] < _FEW
    rough = f" Rough: a tenth of {found['trials']} is few." if few else ""
    return _figure(
        f"What mattered for {objective_title(name)}",
        f"{found['method']} over {plural(found['trials'], 'completed trial')}: how far the values "
        f"of the best tenth are spread otherwise than those of all. Not which is best.{rough}",
        lambda width: importance_bars(shown, name, width),
    )


def _trade_off_figures(results: Results, trials: Sequence[StudyTrial]) -> list[Figure]:
    objectives = results["objectives"]
    front = frozenset(one["trial"] for one in results["front"])
    if len(objectives) < 2 or not front:
        return []
    pairs = [(b, a) for a in range(len(objectives)) for b in range(a + 1, len(objectives))]
    return [_trade_off_figure(trials, pair, objectives, front) for pair in pairs[:3]]


def _trade_off_figure(
    trials: Sequence[StudyTrial],
    pair: tuple[int, int],
    objectives: Sequence[Mapping[str, str]],
    front: frozenset[int],
) -> Figure:
    across, upwards = (objective_title(objectives[place]["name"]) for place in pair)
    return _figure(
        f"{upwards} against {across}",
        "The line joins the trials that no other one beats in every objective (Pareto front); "
        "grey ones are beaten.",
        lambda width: trade_off(trials, pair, objectives, front, width),
    )


# ---- parameters


def _parallel_figure(results: Results, trials: Sequence[StudyTrial]) -> Figure | None:
    names = _parameter_names(results, trials)
    done = [trial for trial in trials if trial.state == COMPLETED and trial.values]
    names = [name for name in names if any(name in trial.params for trial in done)]
    if not names or len(done) < 2:
        return None
    objective = results["objectives"][0]
    caption = "A line for each completed trial; the better it is, the stronger, and the best one "
    caption += "in another colour."
    if len(done) > MOST_LINES:
        caption += f" {MOST_LINES} of {len(done):,} are drawn, the best among them."
    if len(names) > _MOST_AXES:
        caption += f" The first {_MOST_AXES} of {len(names)} parameters have axes."
    if len(names) > _MOST_AXES_NARROW:
        caption += f" A narrow page has room for {_MOST_AXES_NARROW} of them."

    def draw(width: float) -> Markup:
        most = _MOST_AXES_NARROW if width == NARROW else _MOST_AXES
        return parallel_coordinates(done, names[:most], objective, width)

    return _figure("All parameters at once", caption, draw, FULL)


def _slice_figures(results: Results, trials: Sequence[StudyTrial]) -> list[Figure]:
    valued = [trial for trial in trials if trial.values]
    names = _parameter_names(results, trials)
    names = [name for name in names if any(name in trial.params for trial in valued)]
    return [Figure(name, "", _slice(valued, name, results), None) for name in names[:_MOST_SLICES]]


def _slice(trials: Sequence[StudyTrial], name: str, results: Results) -> Markup:
    return parameter_slice(trials, name, results["objectives"][0], 0, NARROW)


# ---- runs


def _curve_figures(results: Results, trials: Sequence[StudyTrial]) -> list[Figure]:
    best = _best_numbers(results)
    shown = _most_telling(trials, best)
    first = results["objectives"][0]["name"]
    kinds: list[tuple[str, bool, Callable[[StudyTrial], Sequence[tuple[int, float]]]]] = [
        (objective_title(first), False, lambda trial: trial.curve),
        ("Validation loss", True, lambda trial: trial.series("val_loss")),
        ("Training loss", True, lambda trial: trial.series("train_loss")),
        ("Largest gradient norm", True, lambda trial: trial.series("gradient_norm_max")),
    ]
    figures = []
    for heading, log, points_of in kinds:
        curves = [
            Curve(trial, points, trial.number in best)
            for trial in shown
            if (points := points_of(trial))
        ]
        if curves:
            figures.append(_curve_figure(heading, curves, len(trials), log=log))
    return figures


def _curve_figure(heading: str, curves: Sequence[Curve], count: int, *, log: bool) -> Figure:
    caption = ""
    if count > MOST_CURVES:
        caption = f"The best, and evenly many others: {len(curves)} of {count:,} trials."
    return _figure(heading, caption, lambda width: learning_curves(curves, heading, width, log=log))


def _most_telling(trials: Sequence[StudyTrial], best: frozenset[int]) -> list[StudyTrial]:
    if len(trials) <= MOST_CURVES:
        return list(trials)
    others = [trials[place * len(trials) // MOST_CURVES] for place in range(MOST_CURVES)]
    kept = {trial.number for trial in others} | best
    return [trial for trial in trials if trial.number in kept]


def _timeline_figure(results: Results, trials: Sequence[StudyTrial]) -> Figure | None:
    began_s = results["time"]["began_at"]
    # Earlier runs of the study may lie days before: they would leave no room for this one.
    of_this_run = [trial for trial in trials if (trial.began_s or 0.0) >= began_s - 1]
    if not of_this_run:
        of_this_run = [trial for trial in trials if trial.began_s is not None]
        began_s = min((trial.began_s or 0.0 for trial in of_this_run), default=0.0)
    rows = rows_of(of_this_run)
    if not rows:
        return None
    earlier = len([trial for trial in trials if trial.began_s is not None]) - len(of_this_run)
    caption = "A bar for each trial, its last attempt, from its start on a lane to its end."
    if earlier > 0:
        caption += f" {plural(earlier, 'trial')} of earlier runs of the study aren't shown."
    if len(rows) > MOST_ROWS:
        caption += f" The first {MOST_ROWS} of {len(rows)} rows."
    return _figure(
        "When and where trials ran", caption, lambda width: timeline(rows, began_s, width), FULL
    )
