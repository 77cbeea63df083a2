"""Which measures each form shows, in which order, and how a report sums itself up."""

from collections.abc import Sequence

from visiondyno.measurements.measure import MEASURES
from visiondyno.report.comparison import Comparison, ModelReport
from visiondyno.report.differences import higher_is_better, is_rankable
from visiondyno.report.format import plural

MAIN_MEASURES = (
    "accuracy",
    "f1",
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
"""The columns of the main table; one without any value is left out."""

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Accuracy",
        (
            "accuracy", "map_50_95", "map_50", "map_75", "map_small", "map_medium", "map_large",
            "precision", "recall", "f1", "f1_threshold", "top1", "top5", "abs_rel", "rmse",
            "delta1",
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


def main_measures(comparison: Comparison) -> list[str]:
    """The main table's columns: those of `MAIN_MEASURES` that any model has a value of."""
    return [name for name in MAIN_MEASURES if has_value(comparison.models, name)]


def has_value(models: Sequence[ModelReport], measure: str) -> bool:
    """Whether any model has a value, measured or estimated."""
    return any(
        measure in model.measures and model.measures[measure].value is not None for model in models
    )


def best_references(comparison: Comparison, measure: str) -> frozenset[str]:
    """The best model in a measure and those tied with it; empty where nothing can be ranked.

    Ties are those of the comparison's differences, and of its winner for the green score. Other
    measures (CO2, cost …) follow from these and have no best of their own.
    """
    if measure == "green_score":
        winners = [w for w in comparison.winners if w.category == "greenest"]
        return _unless_all(comparison, {ref for w in winners for ref in w.references})
    able = [model for model in comparison.models if is_rankable(model.measures.get(measure))]
    found = [d for d in comparison.differences if d.measure == measure]
    if not found or MEASURES[measure].better is None:
        return frozenset()
    sign = -1 if higher_is_better(measure) else 1
    best = min(able, key=lambda model: sign * (model.measures[measure].value or 0.0)).reference
    tied = {ref for d in found if d.tie and best in (d.a, d.b) for ref in (d.a, d.b)}
    return _unless_all(comparison, tied | {best})


def _unless_all(comparison: Comparison, references: set[str]) -> frozenset[str]:
    # Where all are tied there is nothing to point at.
    return frozenset() if len(references) == len(comparison.models) else frozenset(references)


def headline(comparison: Comparison) -> str:
    """The report's first line: how many models, of which task, on which data."""
    nouns = {"detection": "detector", "classification": "classifier"}
    noun = nouns.get(comparison.dataset.task, "model")
    return f"{plural(len(comparison.models), noun)} on {comparison.dataset.reference}"


def subtitle(comparison: Comparison) -> str:
    """Data, machine and date in one line."""
    data, machine = comparison.dataset, comparison.environment
    kind = "object" if data.task == "detection" else "label"
    parts = [
        (
            f"{plural(data.images, 'image')}, {plural(data.objects, kind)}, "
            f"{plural(len(data.classes), 'class')}"
        ),
        f"{machine.cpu_model}, {plural(machine.cpu_count, 'CPU')}",
    ]
    parts += [gpu.name for gpu in machine.gpus]
    parts.append(comparison.created_at[:16].replace("T", " "))
    return " · ".join(parts)


def display_names(models: Sequence[ModelReport]) -> dict[str, str]:
    """Reference → name to show: the shortest of file name, name and reference that is unique."""
    shorter = [model.name.rsplit("/", 1)[-1] for model in models]
    names = [model.name for model in models]
    shown = {}
    for model, short in zip(models, shorter, strict=True):
        unique = short if shorter.count(short) == 1 else model.name
        shown[model.reference] = unique if names.count(model.name) == 1 else model.reference
    return shown
