"""From the children's samples and readings to a model's measures: pure arithmetic."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from visiondyno.measurements.early_stopping import early_stopping_estimate
from visiondyno.measurements.measure import (
    Interval,
    Measure,
    Measures,
    measured,
    not_measured,
)
from visiondyno.measurements.percentiles import mean_interval, percentile, percentile_interval
from visiondyno.measurements.repeats import merge_repeats
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
_RATE = "throughput_images_per_s"
Runs = Sequence[Mapping[str, Any]]


def scenario_result(scenario: str, found: Runs) -> ScenarioResult:
    """One scenario over every process that ran it.

    Args:
        scenario: its name, a key of each of `found`.
        found: what each child returned, in order.
    """
    runs = [child[scenario] for child in found]
    latencies_of, measures_of = _READERS[scenario]
    each = [latencies_of(run) for run in runs]
    pooled = [latency for latencies in each for latency in latencies]
    return ScenarioResult(
        measures=merge_repeats([measures_of(run) for run in runs]),
        samples_ms=tuple(pooled),
        warmup_queries=sum(child["warm_up"]["queries"] for child in found),
        early_stopping={
            name: early_stopping_estimate(pooled, q).as_measure(name)
            for name, q in _EARLY_STOPPING.items()
            if pooled
        },
        steady=all(child["warm_up"]["steady"] for child in found),
        notes=_warm_up_notes(found),
    )


def loadgen_result(scenario: str, found: Runs) -> ScenarioResult:
    """What LoadGen reported of the same scenario (`… by LoadGen`), of the first process."""
    run = found[0][f"{scenario} by LoadGen"]
    report, plan = run["report"], run["plan"]
    method = f"MLPerf LoadGen {report['version']}: {report['verdict']} by its own rules"
    measures: Measures = {}
    for name, q in _PERCENTILES.items():
        value = report["percentiles_ms"].get(q, report["percentiles_ms"].get(str(q)))
        if scenario != "offline" and value is not None:
            count = plan["queries"] if plan["exact"] else None  # else at least so many
            measures[name] = measured(name, value, method, n=count)
    if report["rate_per_s"] is not None:
        measures[_RATE] = measured(_RATE, report["rate_per_s"], method)
    note = f"LoadGen's verdict: {report['verdict']}."
    return ScenarioResult(measures=measures, notes=(note,))


def start_up_measures(found: Runs) -> Measures:
    """Load time, first inference and peak memory: one reading each process."""
    return merge_repeats([_start_up(child) for child in found])


def _start_up(child: Mapping[str, Any]) -> Measures:
    return {
        "load_ms": measured(
            "load_ms",
            child["load_ms"],
            "from the start of a fresh process (interpreter and imports included) to a loaded "
            "model; one reading a process",
            n=1,
        ),
        "first_inference_ms": measured(
            "first_inference_ms",
            child["first_inference_ms"],
            "the first image after loading, from encoded bytes to predictions; one reading a "
            "process",
            n=1,
        ),
        "peak_rss_bytes": Measure.model_validate(child["peak_rss_bytes"]),
    }


def _single_stream(run: Mapping[str, Any]) -> Measures:
    samples: dict[str, list[float]] = run["samples"]
    what = "one image at a time, from encoded bytes to predictions, none clipped"
    measures = _latency_measures(samples["latency_ms"], what)
    for stage in _STAGES:
        name = f"{stage}_mean_ms"
        measures[name] = _mean(name, samples[f"{stage}_ms"], f"{stage} alone, in the same queries")
    return {**measures, **_probes(run)}


def _multi_stream(run: Mapping[str, Any]) -> Measures:
    latencies, images = run["latencies_ms"], run["samples_a_query"]
    what = f"queries of {images} images, from encoded bytes to all predictions, none clipped"
    measures = _latency_measures(latencies, what)
    measures[_RATE] = measured(
        _RATE,
        images * len(latencies) * 1000 / sum(latencies),
        f"queries of {images} images one after the other",
        interval=_rate_interval(images, [latency / 1000 for latency in latencies]),
        n=images * len(latencies),
    )
    return {**measures, **_probes(run)}


def _server(run: Mapping[str, Any]) -> Measures:
    limit_ms, rate = run["limit_ms"], run["rate_per_s"]
    if rate is None:
        reason = f"no rate keeps p99 within {limit_ms:g} ms: the limit is near one image's time"
        return {name: not_measured(name, reason) for name in (*_PERCENTILES, _RATE)}
    what = f"Poisson arrivals at {rate:.4g} images/s, from the scheduled moment, none clipped"
    measures = _latency_measures(run["run"]["latencies_ms"], what)
    measures[_RATE] = _server_rate(run)
    return {**measures, **_probes(run)}


def _server_rate(run: Mapping[str, Any]) -> Measure:
    """The rate that was searched for, without an interval; or what was answered at a given one."""
    rate, limit_ms = run["rate_per_s"], run["limit_ms"]
    served = run["run"]
    if not run["tried"]:
        answered = len(served["latencies_ms"]) / served["elapsed_s"]
        method = f"answered, with Poisson arrivals at {rate:.4g} images/s"
        return measured(_RATE, answered, method, n=len(served["latencies_ms"]))
    failed = [tried for tried, held in run["tried"] if not held]
    # Where the search stopped says nothing of another run's rate: it is no 95 % interval.
    gap = f"the lowest that failed is {min(failed):.4g}" if failed else "none failed"
    method = (
        f"highest rate of Poisson arrivals whose p99, by LoadGen's bound, is within {limit_ms:g} "
        f"ms; of {len(run['tried'])} rates tried {gap}"
    )
    return measured(_RATE, rate, method, n=len(served["waits_ms"]))


def _offline(found: Mapping[str, Any]) -> Measures:
    run = found["run"]
    batch = f"batches of {run['batch_size']} ({run['batch_size_from']})"
    rate = measured(
        _RATE,
        run["images"] / run["elapsed_s"],
        f"{batch}, stages overlapping; interval from {len(run['stretch_s'])} stretches",
        interval=_rate_interval(run["stretch_images"], run["stretch_s"]),
        n=run["images"],
    )
    return {_RATE: rate, **_probes(found)}


def _latency_measures(latencies_ms: Sequence[float], what: str) -> Measures:
    measures: Measures = {"latency_mean_ms": _mean("latency_mean_ms", latencies_ms, what)}
    for name, q in _PERCENTILES.items():
        measures[name] = measured(
            name,
            percentile(latencies_ms, q),
            f"{what}; LoadGen's order statistic, interval by order statistics, widened for "
            "autocorrelation",
            interval=percentile_interval(latencies_ms, q),
            n=len(latencies_ms),
        )
    return measures


def _rate_interval(images: int, seconds: Sequence[float]) -> Interval | None:
    """Images a second, from the interval of the mean time of stretches of so many images."""
    spread = mean_interval(seconds) if seconds else None
    if spread is None:
        return None
    low_s, high_s = spread
    low = images / high_s if high_s else None
    high = images / low_s if low_s is not None and low_s > 0 else None
    return low, high


def _mean(name: str, samples: Sequence[float], what: str) -> Measure:
    return measured(
        name,
        sum(samples) / len(samples),
        f"{what}; mean, interval by batch means",
        interval=mean_interval(samples),
        n=len(samples),
    )


def _probes(run: Mapping[str, Any]) -> Measures:
    found = {name: Measure.model_validate(value) for name, value in run["probes"].items()}
    return {name: found[name] for name in _PROBED if name in found}


def _warm_up_notes(found: Runs) -> tuple[str, ...]:
    unsteady = sum(not child["warm_up"]["steady"] for child in found)
    if not unsteady:
        return ()
    of = f" in {unsteady} of {len(found)} processes" if len(found) > 1 else ""
    return (f"Warm-up ended before three windows agreed within 5 %{of}.",)


Reader = tuple[
    Callable[[Mapping[str, Any]], Sequence[float]], Callable[[Mapping[str, Any]], Measures]
]
_READERS: dict[str, Reader] = {
    "single-stream": (lambda run: run["samples"]["latency_ms"], _single_stream),
    "multi-stream": (lambda run: run["latencies_ms"], _multi_stream),
    "server": (lambda run: run["run"]["latencies_ms"] if run["run"] else (), _server),
    "offline": (lambda _: (), _offline),
}
