"""Which measures each form shows, in which order, and how a report sums itself up."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from visiondyno.measurements.measure import MEASURES
from visiondyno.report.comparison import Comparison, DatasetSummary, ModelReport
from visiondyno.report.differences import higher_is_better, is_rankable
from visiondyno.report.format import plural
from visiondyno.report.origins import apart, dates_of, newest

ACCURACIES: dict[str, tuple[str, ...]] = {
    "detection": ("map_50_95", "map_50", "f1"),
    "classification": ("top1", "top5", "f1"),
    "depth": ("abs_rel", "rmse", "delta1"),
    "image": ("image_ap", "image_accuracy", "f1"),
    "unlabelled": ("agreement",),
}
"""The main table's accuracies, by `scored_as`."""

ACCURACY_OF = {
    "detection": "map_50_95",
    "classification": "top1",
    "depth": "delta1",
    "image": "image_ap",
}
"""Which measure `accuracy` is, by `scored_as`."""

MAIN_MEASURES = (
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "throughput_images_per_s",
    "peak_rss_bytes",
    "peak_vram_bytes",
    "energy_joules_per_image",
    "green_score",
    "co2_grams_per_1000_images",
    "cost_usd_per_1000_images",
)
"""The columns of the main table after the accuracies; one without any value is left out."""

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Accuracy",
        (
            "accuracy", "map_50_95", "map_50", "map_75", "map_small", "map_medium", "map_large",
            "precision", "recall", "f1", "f1_threshold", "top1", "top5", "image_ap", "image_auc",
            "image_accuracy", "abs_rel", "rmse", "delta1", "agreement",
        ),
    ),
    (
        "Latency",
        (
            "latency_mean_ms", "latency_p50_ms", "latency_p90_ms", "latency_p95_ms",
            "latency_p99_ms", "decode_mean_ms", "preprocess_mean_ms", "inference_mean_ms",
            "postprocess_mean_ms", "throughput_images_per_s", "load_ms", "first_inference_ms",
        ),
    ),
    (
        "Resources",
        (
            "peak_rss_bytes", "peak_inference_rss_bytes", "peak_vram_bytes", "cpu_percent",
            "gpu_percent", "energy_joules_per_image", "co2_grams_per_1000_images", "green_score",
            "cost_usd_per_1000_images",
        ),
    ),
)  # fmt: skip
"""Every measure, in the groups of the full table."""

PHASES = ("decode_mean_ms", "preprocess_mean_ms", "inference_mean_ms", "postprocess_mean_ms")
"""The parts of the end-to-end latency, in order of time."""


def scored_as(data: DatasetSummary) -> str:
    """What models were scored as: the vision task, or `image` at image level."""
    return data.level or data.task


def main_measures(comparison: Comparison) -> list[str]:
    """The main table's columns: the task's accuracies and `MAIN_MEASURES`, where there is one."""
    accuracies = [
        name
        for name in ACCURACIES.get(scored_as(comparison.dataset), ())
        if has_value(comparison.models, name)
    ] or ["accuracy"]
    return [name for name in (*accuracies, *MAIN_MEASURES) if has_value(comparison.models, name)]


def has_value(models: Sequence[ModelReport], measure: str) -> bool:
    """Whether any model has a value, measured or estimated."""
    return any(
        measure in model.measures and model.measures[measure].value is not None for model in models
    )


def best_references(comparison: Comparison, measure: str) -> frozenset[str]:
    """The best model in a measure and those tied with it; empty where nothing can be ranked.

    Ties are those of the comparison's differences, and of its winner for the green score. Other
    measures (CO2, cost …) follow from these and have no best of their own. Of merged runs the
    newest ones take part, and none in what was measured on different machines.
    """
    models = newest(comparison.models)
    if apart(measure, models) is not None:
        return frozenset()
    if measure == "green_score":
        winners = [w for w in comparison.winners if w.category == "greenest"]
        return _unless_all(models, {ref for w in winners for ref in w.references})
    able = [model for model in models if is_rankable(model.measures.get(measure))]
    found = [d for d in comparison.differences if d.measure == measure]
    if not found or MEASURES[measure].better is None:
        return frozenset()
    sign = -1 if higher_is_better(measure) else 1
    best = min(able, key=lambda model: sign * (model.measures[measure].value or 0.0)).reference
    tied = {ref for d in found if d.tie and best in (d.a, d.b) for ref in (d.a, d.b)}
    return _unless_all(models, tied | {best})


def _unless_all(models: Sequence[ModelReport], references: set[str]) -> frozenset[str]:
    # Where all are tied there is nothing to point at.
    return frozenset() if len(references) == len(models) else frozenset(references)


def headline(comparison: Comparison) -> str:
    """The report's first line: how many models, of which task, on which data."""
    nouns = {
        "detection": "detector",
        "classification": "classifier",
        "depth": "depth model",
    }
    data = comparison.dataset
    noun = nouns.get(scored_as(data), "model")
    models = {m.origin.reference if m.origin else m.reference for m in comparison.models}
    asked = f": {image_question(data)}" if data.level else ""
    return f"{plural(len(models), noun)} on {data_name(data.reference)}{asked}"


def image_question(data: DatasetSummary) -> str:
    """What all models were asked at image level."""
    if len(data.classes) != 1:
        return "which classes are in the image?"
    return f"is there any {next(iter(data.classes))} in the image?"


def data_name(reference: str) -> str:
    """A data reference for a headline: of a path its last part."""
    return PurePosixPath(reference.replace("\\", "/")).name or reference


def subtitle(comparison: Comparison) -> str:
    """Data, machine and date in one line."""
    data = comparison.dataset
    kind = "object" if scored_as(data) == "detection" else "label"
    counts = [plural(data.images, "image")]
    # Depth is labelled for each pixel: nothing is counted.
    counts += [plural(data.objects, kind)] if data.objects else []
    counts += [plural(len(data.classes), "class")] if data.classes else []
    origins = [model.origin for model in comparison.models if model.origin is not None]
    parts = [", ".join(counts), _machines(comparison)]
    if origins:
        dates = sorted(dates_of(origins).values())
        runs = {(origin.created_at, origin.environment.machine_id) for origin in origins}
        parts.append(f"{plural(len(runs), 'run')} from {dates[0]} to {dates[-1]}")
    else:
        parts.append(comparison.created_at[:16].replace("T", " "))
    return " · ".join(parts)


def _machines(comparison: Comparison) -> str:
    environments = {
        model.origin.environment.machine_id for model in comparison.models if model.origin
    }
    if len(environments) > 1:
        return plural(len(environments), "machine")
    machine = comparison.environment
    gpus = [gpu.name for gpu in machine.gpus]
    return " · ".join([f"{machine.cpu_model}, {plural(machine.cpu_count, 'CPU')}", *gpus])


def display_names(models: Sequence[ModelReport]) -> dict[str, str]:
    """Reference → name to show: the shortest of file name, name and reference that is unique."""
    shorter = [model.name.rsplit("/", 1)[-1] for model in models]
    names = [model.name for model in models]
    shown = {}
    for model, short in zip(models, shorter, strict=True):
        unique = short if shorter.count(short) == 1 else model.name
        shown[model.reference] = unique if names.count(model.name) == 1 else model.reference
    return shown
