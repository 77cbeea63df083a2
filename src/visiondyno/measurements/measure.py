"""One measured number with everything needed to trust it, and the list of all measures."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

Interval = tuple[float | None, float | None]
"""A 95 % interval, low and high; None where the sample was too small to bound that side."""


class Measure(BaseModel):
    """One measured number.

    Attributes:
        value: in `unit`; None where it could not be measured (never 0 for that), with `reason`.
        unit: as in `MEASURES` or `SUPPLEMENTARY_UNITS`.
        interval: 95 %, or None where it isn't a statistic.
        n: the sample size: images, queries, windows …
        method: how it was measured, in words for the report.
        estimated: True where it rests on an assumption, not on a reading. Kept out of rankings.
        reason: why there is no value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    value: float | None
    unit: str
    interval: Interval | None = None
    n: int | None = None
    method: str
    estimated: bool = False
    reason: str | None = None


Measures = dict[str, Measure]


@dataclass(frozen=True, slots=True)
class MeasureKind:
    """What a measure's name stands for.

    Attributes:
        title: for tables, without the unit.
        unit: of its value.
        better: the direction that wins; None where neither does.
        meaning: one sentence for glossary and tooltips.
    """

    title: str
    unit: str
    better: Literal["higher", "lower"] | None
    meaning: str


_HIGHER: Literal["higher"] = "higher"
_LOWER: Literal["lower"] = "lower"

MEASURES: dict[str, MeasureKind] = {
    "accuracy": MeasureKind(
        "Accuracy",
        "fraction",
        _HIGHER,
        "The task's main accuracy: map_50_95 of detectors, top1 of classifiers, delta1 of depth, "
        "image_ap at image level.",
    ),
    "map_50_95": MeasureKind(
        "mAP 50–95",
        "fraction",
        _HIGHER,
        "COCO mean average precision over IoU 0.50:0.05:0.95, 100 detections an image.",
    ),
    "map_50": MeasureKind("mAP 50", "fraction", _HIGHER, "COCO average precision at IoU 0.50."),
    "map_75": MeasureKind("mAP 75", "fraction", _HIGHER, "COCO average precision at IoU 0.75."),
    "map_small": MeasureKind(
        "mAP small", "fraction", _HIGHER, "COCO mAP of objects under 32² pixels."
    ),
    "map_medium": MeasureKind(
        "mAP medium", "fraction", _HIGHER, "COCO mAP of objects from 32² to 96² pixels."
    ),
    "map_large": MeasureKind(
        "mAP large", "fraction", _HIGHER, "COCO mAP of objects over 96² pixels."
    ),
    "precision": MeasureKind(
        "Precision",
        "fraction",
        _HIGHER,
        "Of what was found the share that is right: of detectors micro, at IoU 0.5 and "
        "f1_threshold; else the mean over classes.",
    ),
    "recall": MeasureKind(
        "Recall",
        "fraction",
        _HIGHER,
        "Of what is labelled the share that was found: of detectors micro, at IoU 0.5 and "
        "f1_threshold; else the mean over classes.",
    ),
    "f1": MeasureKind(
        "F1",
        "fraction",
        _HIGHER,
        "Harmonic mean of precision and recall: of detectors the highest micro F1 at IoU 0.5 over "
        "confidences; else the mean over classes.",
    ),
    "f1_threshold": MeasureKind(
        "F1 threshold", "confidence", None, "The confidence that maximises F1 on this data."
    ),
    "top1": MeasureKind("Top-1", "fraction", _HIGHER, "Share of images whose best class is right."),
    "top5": MeasureKind(
        "Top-5", "fraction", _HIGHER, "Share of images whose class is among the best five."
    ),
    "image_ap": MeasureKind(
        "Image AP",
        "fraction",
        _HIGHER,
        "Is the class in the image: average precision of the images ranked by score, no threshold.",
    ),
    "image_auc": MeasureKind(
        "Image AUC",
        "fraction",
        _HIGHER,
        "Is the class in the image: area under the ROC curve, no threshold.",
    ),
    "image_accuracy": MeasureKind(
        "Image accuracy",
        "fraction",
        _HIGHER,
        "Is the class in the image: share of images answered rightly, at the method's threshold.",
    ),
    "abs_rel": MeasureKind("AbsRel", "ratio", _LOWER, "Mean absolute relative depth error."),
    "rmse": MeasureKind("RMSE", "m", _LOWER, "Root mean squared depth error."),
    "delta1": MeasureKind(
        "δ1", "fraction", _HIGHER, "Share of pixels whose depth ratio is under 1.25."
    ),
    "agreement": MeasureKind(
        "Agreement",
        "fraction",
        None,
        "On images without labels, with the reference model: of detectors F1 of its boxes at IoU "
        "0.5 and confidence 0.25, of classifiers the share of equal best classes.",
    ),
    "latency_mean_ms": MeasureKind(
        "Latency mean", "ms", _LOWER, "Mean time from encoded image to predictions, one at a time."
    ),
    "latency_p50_ms": MeasureKind("Latency p50", "ms", _LOWER, "Median end-to-end latency."),
    "latency_p90_ms": MeasureKind("Latency p90", "ms", _LOWER, "90th percentile of latency."),
    "latency_p95_ms": MeasureKind("Latency p95", "ms", _LOWER, "95th percentile of latency."),
    "latency_p99_ms": MeasureKind("Latency p99", "ms", _LOWER, "99th percentile of latency."),
    "inference_mean_ms": MeasureKind(
        "Inference", "ms", _LOWER, "Mean time inside the model alone."
    ),
    "decode_mean_ms": MeasureKind("Decode", "ms", _LOWER, "Mean time to decode an image file."),
    "preprocess_mean_ms": MeasureKind(
        "Pre-process", "ms", _LOWER, "Mean time from decoded image to input tensor."
    ),
    "postprocess_mean_ms": MeasureKind(
        "Post-process", "ms", _LOWER, "Mean time from output tensor to predictions."
    ),
    "throughput_images_per_s": MeasureKind(
        "Throughput", "images/s", _HIGHER, "Images a second when all are there from the start."
    ),
    "peak_rss_bytes": MeasureKind(
        "Peak RAM", "bytes", _LOWER, "Highest resident memory of the model's own process."
    ),
    "peak_inference_rss_bytes": MeasureKind(
        "Peak RAM, inference", "bytes", _LOWER, "Highest resident memory while inferring."
    ),
    "peak_vram_bytes": MeasureKind(
        "Peak VRAM", "bytes", _LOWER, "Highest GPU memory of the model's own process."
    ),
    "cpu_percent": MeasureKind(
        "CPU", "% of one core", None, "Processor time over wall time, while inferring."
    ),
    "gpu_percent": MeasureKind("GPU", "%", None, "Share of time a GPU kernel ran."),
    "energy_joules_per_image": MeasureKind(
        "Energy", "J/image", _LOWER, "Energy of the machine's measured parts for one image."
    ),
    "co2_grams_per_1000_images": MeasureKind(
        "CO2", "g/1000 images", _LOWER, "Energy times the carbon intensity of the region's grid."
    ),
    "green_score": MeasureKind(
        "Green score", "0–100", _HIGHER, "Useful work per joule against the reference model (50)."
    ),
    "load_ms": MeasureKind("Load", "ms", _LOWER, "Time from a fresh process to a loaded model."),
    "first_inference_ms": MeasureKind(
        "First inference", "ms", _LOWER, "Latency of the first image after loading."
    ),
    "cost_usd_per_1000_images": MeasureKind(
        "Cost", "USD/1000 images", _LOWER, "Price of the machine for the time 1000 images take."
    ),
}

SUPPLEMENTARY_UNITS: dict[str, str] = {
    "energy_joules": "J",
    "cgroup_peak_bytes": "bytes",
    "pss_bytes": "bytes",
    "uss_bytes": "bytes",
}
"""Units of what probes read beside the names of `MEASURES`: for details and for derived measures,
never for a column of its own in a ranking."""


def unit_of(name: str) -> str:
    """The unit of a name in `MEASURES` or `SUPPLEMENTARY_UNITS`."""
    return MEASURES[name].unit if name in MEASURES else SUPPLEMENTARY_UNITS[name]


def measured(
    name: str,
    value: float,
    method: str,
    *,
    interval: Interval | None = None,
    n: int | None = None,
    estimated: bool = False,
) -> Measure:
    """A measure with a value, its unit that of its name."""
    return Measure(
        value=float(value),
        unit=unit_of(name),
        interval=interval,
        n=n,
        method=method,
        estimated=estimated,
    )


def not_measured(name: str, reason: str, method: str = "none") -> Measure:
    """A measure that has no value here, and why."""
    return Measure(value=None, unit=unit_of(name), method=method, reason=reason)
