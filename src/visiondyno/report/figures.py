"""Which plots the HTML report holds, each in a narrow and a wide drawing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from visiondyno.report.charts.accuracy import (
    MOST_CLASSES,
    class_measure,
    confusion_heatmap,
    per_class_dots,
    precision_recall,
)
from visiondyno.report.charts.history import history_plot
from visiondyno.report.charts.latency import (
    latency_ecdf,
    latency_ridges,
    latency_split,
    samples_of,
    scenario_ecdf,
)
from visiondyno.report.charts.tradeoff import axis_title, bars, difference_forest, pareto_plot
from visiondyno.report.comparison import Comparison, ModelReport, ParetoFront
from visiondyno.report.format import title
from visiondyno.report.history import History
from visiondyno.report.layout import ACCURACIES, PHASES, display_names, has_value

NARROW, WIDE = 350, 560
"""Drawing widths in pixels: a phone's column, and half of a desktop's page. The style sheet shows
the one that fits, since text in a scaled-down SVG becomes too small to read."""

BAR_MEASURES = (
    "throughput_images_per_s",
    "peak_rss_bytes",
    "peak_inference_rss_bytes",
    "peak_vram_bytes",
    "energy_joules_per_image",
    "co2_grams_per_1000_images",
    "cost_usd_per_1000_images",
    "load_ms",
    "first_inference_ms",
)

HISTORY_MEASURES = (
    *dict.fromkeys(name for names in ACCURACIES.values() for name in names),
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "throughput_images_per_s",
    "peak_rss_bytes",
    "energy_joules_per_image",
)

FOREST_MEASURES = ("accuracy", "latency_p90_ms", "throughput_images_per_s", "peak_rss_bytes")


@dataclass(frozen=True, slots=True)
class Figure:
    """One plot with its heading.

    Attributes:
        legend: whether the models' colours must be explained beside it.
        wide: drawn at `WIDE`; None where the narrow drawing serves every width.
    """

    title: str
    caption: str
    narrow: Markup
    wide: Markup | None
    legend: bool = False


def latency_figures(comparison: Comparison) -> list[Figure]:
    """Histograms and cumulative shares of latency, and its stages."""
    models, names = comparison.models, display_names(comparison.models)
    figures = []
    if any(len(samples_of(model)) for model in models):
        figures.append(
            _figure(
                "Distribution of latency",
                "Every measured query, none clipped: the axis ends beyond the slowest one.",
                lambda width: latency_ridges(models, names, width),
            )
        )
        figures.append(
            _figure(
                "Share of queries answered in time",
                "Read upwards from a deadline: how many queries would have met it.",
                lambda width: latency_ecdf(models, width),
                legend=len(models) > 1,
            )
        )
    if any(has_value(models, phase) for phase in PHASES):
        figures.append(
            _figure(
                "Where the time goes",
                "Mean time from an encoded image to its predictions, one image at a time.",
                lambda width: latency_split(models, names, width),
            )
        )
    return figures


def scenario_figures(comparison: Comparison, scenarios: Sequence[str]) -> list[Figure]:
    """Cumulative shares of the latency of each of `scenarios`, on one log axis."""
    models = comparison.models
    return [
        _figure(
            f"{scenario}: share of queries answered in time",
            _SCENARIO_CAPTIONS.get(scenario, ""),
            _ecdf_drawer(comparison, scenario),
            legend=len(models) > 1,
        )
        for scenario in scenarios
        if any(len(samples_of(model, scenario)) for model in models)
    ]


def history_figures(
    histories: Sequence[History], models: Sequence[ModelReport]
) -> list[tuple[str, list[Figure]]]:
    """Plots of the main measures over the runs, for each machine, device and number of threads.

    Args:
        histories: of a merged comparison.
        models: its models, whose order gives the colours.
    """
    places = {model.reference: index for index, model in enumerate(models)}
    groups: dict[str, list[History]] = {}
    for found in histories:
        groups.setdefault(found.place, []).append(found)
    return [
        (
            place,
            [
                _figure(title(measure), "", _history_drawer(group, places, measure))
                for measure in HISTORY_MEASURES
                if any(has_value(found.runs, measure) for found in group)
            ],
        )
        for place, group in groups.items()
    ]


def pareto_figures(comparison: Comparison) -> list[Figure]:
    """One plot a front, where models can be traded off; bars are 95 % intervals."""
    models, names = comparison.models, display_names(comparison.models)
    figures: list[Figure] = []
    if len(models) < 2:
        return figures
    for front in comparison.pareto:
        caption = (
            "The line joins the models that no other beats in both; the shaded side is beaten."
        )
        if front.estimated:
            caption += " Energy is estimated here, so this front decides nothing."
        figures.append(
            _figure(
                f"{title(front.y)} against {title(front.x)}",
                caption,
                _pareto_drawer(models, names, front),
            )
        )
    return figures


def accuracy_figures(comparison: Comparison) -> list[Figure]:
    """Precision over recall, and accuracy of each class."""
    models, names = comparison.models, display_names(comparison.models)
    figures = []
    if any(model.precision_recall is not None for model in models):
        figures.append(
            _figure(
                "Precision and recall",
                "IoU 0.5, COCO's 101 recall points, mean over the classes that have objects.",
                lambda width: precision_recall(models, width),
                legend=len(models) > 1,
            )
        )
    measure = class_measure(models)
    counts = comparison.dataset.classes
    if measure is not None and counts:
        classes = sorted(counts, key=lambda label: (-counts[label], label))
        more = len(classes) - MOST_CLASSES
        counted = "images that hold them" if comparison.dataset.level else "labelled objects"
        caption = f"Classes in order of {counted}."
        if more > 0:
            caption += f" The {MOST_CLASSES} largest; the table below has the other {more}."
        figures.append(
            _figure(
                f"{title(measure)} of each class",
                caption,
                lambda width: per_class_dots(models, names, classes, width),
                legend=len(models) > 1,
            )
        )
    return figures


def confusion_figures(comparison: Comparison) -> list[Figure]:
    """One heat map a model."""
    names = display_names(comparison.models)
    detector = comparison.dataset.task == "detection"
    caption = (
        "IoU 0.5, at the confidence that maximises F1. Background column: missed objects; "
        "background row: false alarms."
        if detector
        else "Each row is a true class; colour is its share."
    )
    return [
        _figure(names[model.reference], caption, _confusion_drawer(names[model.reference], model))
        for model in comparison.models
        if model.confusion is not None
    ]


def bar_figures(comparison: Comparison) -> list[Figure]:
    """Throughput, memory, energy, CO2, cost and start-up as bars from zero."""
    models, names = comparison.models, display_names(comparison.models)
    return [
        Figure(axis_title(name), "", bars(models, names, name, NARROW), None)
        for name in BAR_MEASURES
        if has_value(models, name)
    ]


def difference_figures(comparison: Comparison) -> list[Figure]:
    """Forest plots of the main measures; at most 28 pairs each, which is eight models."""
    names = display_names(comparison.models)
    return [
        _figure(title(name), "", _forest_drawer(comparison, names, name))
        for name in FOREST_MEASURES
        if any(found.measure == name for found in comparison.differences)
    ]


def _figure(
    heading: str, caption: str, draw: Callable[[float], Markup], *, legend: bool = False
) -> Figure:
    return Figure(heading, caption, draw(NARROW), draw(WIDE), legend)


_SCENARIO_CAPTIONS = {
    "single-stream": "One image at a time, the next when the last is done.",
    "multi-stream": "Queries of several images, one query at a time.",
    "server": "Images arrive at random (Poisson); a query's time runs from its scheduled moment.",
}


def _ecdf_drawer(comparison: Comparison, scenario: str) -> Callable[[float], Markup]:
    limit_ms = comparison.spec.latency_limit_ms if scenario == "server" else None
    return lambda width: scenario_ecdf(comparison.models, scenario, limit_ms, width)


def _history_drawer(
    histories: Sequence[History], places: dict[str, int], measure: str
) -> Callable[[float], Markup]:
    return lambda width: history_plot(histories, places, measure, width)


def _pareto_drawer(
    models: Sequence[ModelReport], names: dict[str, str], front: ParetoFront
) -> Callable[[float], Markup]:
    return lambda width: pareto_plot(models, names, front, width)


def _confusion_drawer(name: str, model: ModelReport) -> Callable[[float], Markup]:
    confusion = model.confusion
    assert confusion is not None
    return lambda width: confusion_heatmap(name, confusion, width)


def _forest_drawer(
    comparison: Comparison, names: dict[str, str], measure: str
) -> Callable[[float], Markup]:
    return lambda width: difference_forest(comparison.differences, names, measure, width)
