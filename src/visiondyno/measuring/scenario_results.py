"""From a child's samples and readings to one model's measures: pure arithmetic."""

from collections.abc import Mapping, Sequence
from typing import Any

from visiondyno.measurements.early_stopping import early_stopping_estimate
from visiondyno.measurements.measure import (
    Interval,
    Measure,
    Measures,
    measured,
)
from visiondyno.measurements.percentiles import mean_interval, percentile, percentile_interval
from visiondyno.report.comparison import ScenarioResult

_PERCENTILES = {
    "latency_p50_ms": 0.50,
    "latency_p90_ms": 0.90,
    "latency_p95_ms": 0.95,
    "latency_p99_ms": 0.99,
}
_EARLY_STOPPING = {"latency_p90_ms": 0.90, "latency_p99_ms": 0.99}
_STAGES = ("decode", "preprocess", "inference", "postprocess")
_PROBED = (
    "cpu_percent",
    "gpu_percent",
    "peak_inference_rss_bytes",
    "peak_vram_bytes",
    "energy_joules_per_image",
)
_QUERY = "one image at a time, from encoded bytes to predictions, none clipped"


def single_stream_result(run: Mapping[str, Any]) -> ScenarioResult:
    """Measures of a single-stream run (`measuring.child`'s `single-stream`)."""
    samples: dict[str, list[float]] = run["samples"]
    latencies = samples["latency_ms"]
    measures: Measures = {"latency_mean_ms": _mean("latency_mean_ms", latencies, _QUERY)}
    for name, q in _PERCENTILES.items():
        measures[name] = measured(
            name,
            percentile(latencies, q),
            f"{_QUERY}; nearest-rank percentile, interval by order statistics",
            interval=percentile_interval(latencies, q),
            n=len(latencies),
        )
    for stage in _STAGES:
        name = f"{stage}_mean_ms"
        measures[name] = _mean(name, samples[f"{stage}_ms"], f"{stage} alone, in the same queries")
    probes = _probes(run["probes"])
    measures.update({name: probes[name] for name in _PROBED if name in probes})
    notes = () if run["steady"] else ("Warm-up ended before three windows agreed within 5 %.",)
    return ScenarioResult(
        measures=measures,
        samples_ms=tuple(latencies),
        warmup_queries=run["warmup_queries"],
        early_stopping={
            name: early_stopping_estimate(latencies, q).as_measure(name)
            for name, q in _EARLY_STOPPING.items()
        },
        notes=notes,
    )


def offline_result(found: Mapping[str, Any]) -> ScenarioResult:
    """Measures of an offline run (`measuring.child`'s `offline`)."""
    run = found["run"]
    batch = f"batches of {run['batch_size']} ({run['batch_size_from']})"
    measures: Measures = {
        "throughput_images_per_s": measured(
            "throughput_images_per_s",
            run["images"] / run["elapsed_s"],
            f"{batch}, stages overlapping; interval from {len(run['stretch_s'])} stretches",
            interval=_rate_interval(run["stretch_images"], run["stretch_s"]),
            n=run["images"],
        )
    }
    probes = _probes(found["probes"])
    measures.update({key: probes[key] for key in _PROBED if key in probes})
    return ScenarioResult(measures=measures)


def start_up_measures(found: Mapping[str, Any]) -> Measures:
    """Load time, first inference and peak memory: one reading each, no interval."""
    peak = Measure.model_validate(found["peak_rss_bytes"])
    return {
        "load_ms": measured(
            "load_ms",
            found["load_ms"],
            "from the start of a fresh process (interpreter and imports included) to a loaded "
            "model; one reading",
            n=1,
        ),
        "first_inference_ms": measured(
            "first_inference_ms",
            found["first_inference_ms"],
            "the first image after loading, from encoded bytes to predictions; one reading",
            n=1,
        ),
        "peak_rss_bytes": peak,
    }


def _rate_interval(images: int, seconds: Sequence[float]) -> Interval | None:
    """Images a second, from the interval of the mean time of stretches of so many images."""
    spread = mean_interval(seconds) if seconds else None
    if spread is None:
        return None
    low_s, high_s = spread
    high = images / low_s if low_s else None
    return (images / high_s if high_s else None), (high if high and high > 0 else None)


def _mean(name: str, samples: Sequence[float], what: str) -> Measure:
    return measured(
        name,
        sum(samples) / len(samples),
        f"{what}; mean, interval by batch means",
        interval=mean_interval(samples),
        n=len(samples),
    )


def _probes(found: Mapping[str, Any]) -> Measures:
    return {name: Measure.model_validate(value) for name, value in found.items()}
