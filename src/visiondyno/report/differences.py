"""Differences between two models, each with an interval that says whether it is a tie.

Accuracies are scored on the same images, so their differences are paired: the values of both
models in the same half-samples of the images are subtracted. Times and memory come from different
runs: the interval of their difference combines the two intervals (MOVER).
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from visiondyno.measurements.half_samples import FEWEST_IMAGES, half_sample_interval
from visiondyno.measurements.measure import MEASURES, Interval, Measure
from visiondyno.measurements.percentiles import difference_interval
from visiondyno.report.comparison import Difference, ModelReport
from visiondyno.report.origins import apart

Paired = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""Model reference → measure → (resamples,) values in half-samples, the same ones of each model."""

COMPARED = (
    "accuracy",
    "map_50_95",
    "map_50",
    "map_75",
    "precision",
    "recall",
    "f1",
    "top1",
    "top5",
    "image_ap",
    "image_auc",
    "image_accuracy",
    "abs_rel",
    "rmse",
    "delta1",
    "latency_mean_ms",
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "inference_mean_ms",
    "throughput_images_per_s",
    "peak_rss_bytes",
    "peak_vram_bytes",
    "energy_joules_per_image",
)
"""The measures whose differences a report lists, in order."""

READINGS = frozenset({"peak_rss_bytes", "peak_inference_rss_bytes", "peak_vram_bytes"})
"""Single readings of a counter: no sample, hence no interval."""

READING_TOLERANCE = 0.02
"""Readings closer than this share of the larger one are called a tie: about how far the peak
memory of the same process moves between runs."""

# `accuracy` is the task's main measure under another name, so it shares that one's resamples.
_MAIN_MEASURES = ("map_50_95", "top1", "delta1", "image_ap")

_PAIRED_METHOD = (
    "paired over images: interval of the subtracted values in the same half-samples of the images"
)


def is_rankable(measure: Measure | None) -> bool:
    """Whether a measure may take part in a ranking: it has a value, and it was measured."""
    return measure is not None and measure.value is not None and not measure.estimated


def excludes_zero(interval: Interval | None) -> bool:
    """Whether the interval lies wholly on one side of 0, so that a difference is no tie."""
    low, high = interval or (None, None)
    return (low is not None and low > 0) or (high is not None and high < 0)


def tie_text(found: Difference) -> str:
    """What a difference says: `differs`, `tie`, or `undecided` where its interval is unknown."""
    if not found.tie:
        return "differs"
    known = found.interval not in (None, (None, None)) or found.measure in READINGS
    return "tie" if known else "undecided"


def difference(
    a: ModelReport, b: ModelReport, measure: str, paired: Paired | None = None
) -> Difference | None:
    """`a` minus `b` in `measure`.

    None where either was not measured or is an estimate, or where they were measured on different
    machines and the measure belongs to one.
    """
    if apart(measure, (a, b)) is not None:
        return None
    left, right = a.measures.get(measure), b.measures.get(measure)
    if not (is_rankable(left) and is_rankable(right)):
        return None
    assert left is not None
    assert right is not None
    value = float(left.value or 0.0) - float(right.value or 0.0)
    interval, method = _interval(a, b, measure, paired or {}, _identity)
    tie = not excludes_zero(interval)
    if measure in READINGS and interval is None:
        larger = max(abs(left.value or 0.0), abs(right.value or 0.0))
        tie = abs(value) <= READING_TOLERANCE * larger
        method = f"single readings; a tie within {READING_TOLERANCE:.0%}"
    return Difference(
        measure=measure,
        a=a.reference,
        b=b.reference,
        value=value,
        interval=interval,
        tie=tie,
        method=method,
    )


def log_ratio(
    a: ModelReport, b: ModelReport, measure: str, paired: Paired | None = None
) -> tuple[float, Interval | None] | None:
    """ln(a / b) of two positive measures with its 95 % interval.

    A reading without an interval has one of ± `READING_TOLERANCE`. None where either isn't
    rankable or isn't positive, or they can't be compared; an interval of None where it is unknown.
    """
    if apart(measure, (a, b)) is not None:
        return None
    values = [report.measures.get(measure) for report in (a, b)]
    if not all(is_rankable(value) for value in values):
        return None
    left, right = (float(value.value or 0.0) for value in values if value is not None)
    if left <= 0 or right <= 0:
        return None
    ratio = math.log(left / right)
    interval, _ = _interval(a, b, measure, paired or {}, _log)
    if measure in READINGS and interval is None:
        return ratio, (ratio - READING_TOLERANCE, ratio + READING_TOLERANCE)
    return ratio, interval


def _interval(
    a: ModelReport,
    b: ModelReport,
    measure: str,
    paired: Paired,
    scale: Callable[[float], float],
) -> tuple[Interval | None, str]:
    left, right = a.measures[measure], b.measures[measure]
    left_value, right_value = scale(float(left.value or 0)), scale(float(right.value or 0))
    a_values, b_values = _resampled(a, measure, paired), _resampled(b, measure, paired)
    if a_values is not None and b_values is not None:
        if scale is _log:
            with np.errstate(divide="ignore"):
                a_values, b_values = np.log(a_values), np.log(b_values)
        limit = 1.0 if scale is _identity and left.unit == "fraction" else math.inf
        gap = left_value - right_value
        return _paired_interval(a_values, b_values, gap, left.n or 0, limit), _PAIRED_METHOD
    if left.interval is None or right.interval is None:
        return None, "no interval of either model: the difference can't be bounded"
    bounds = [_scaled(interval, scale) for interval in (left.interval, right.interval)]
    combined = difference_interval(left_value, bounds[0], right_value, bounds[1])
    return combined, "MOVER: the two models' intervals combined as independent (Zou & Donner 2008)"


def _paired_interval(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    difference: float,
    n_images: int,
    limit: float,
) -> Interval | None:
    with np.errstate(invalid="ignore"):
        subtracted = a - b
    subtracted = subtracted[np.isfinite(subtracted)]
    if n_images >= FEWEST_IMAGES and len(subtracted) and np.ptp(subtracted) == 0:
        # Every half-sample shows the same difference: nothing is left to chance.
        return difference, difference
    return half_sample_interval(difference, subtracted, n_images, (-limit, limit))


def _scaled(interval: Interval, scale: Callable[[float], float]) -> Interval:
    low, high = (
        None if bound is None or (scale is _log and bound <= 0) else scale(bound)
        for bound in interval
    )
    return low, high


def _identity(value: float) -> float:
    return value


def _log(value: float) -> float:
    return math.log(value)


def _resampled(model: ModelReport, measure: str, paired: Paired) -> NDArray[np.float64] | None:
    arrays = paired.get(model.reference, {})
    if measure in arrays:
        return arrays[measure]
    if measure == "accuracy":
        for main in _MAIN_MEASURES:
            if main in arrays and main in model.measures:
                return arrays[main]
    return None


def higher_is_better(measure: str) -> bool:
    """The direction that wins; a measure in which neither does counts as lower."""
    return MEASURES[measure].better == "higher"
