"""Scenarios of a model beside its first two, and LoadGen beside them, for `comparison_factory`."""

import numpy as np

from model_report_factory import latency_measures
from visiondyno.measurements.measure import measured, not_measured
from visiondyno.report.comparison import ScenarioResult


def with_scenarios(model, index):
    generator = np.random.default_rng(40 + index)
    base = model.scenarios["single-stream"]
    samples = np.asarray(base.samples_ms)
    queries = {
        "multi-stream": 8 * samples[:400] * 0.93,
        "server": samples + generator.exponential(samples.mean() * 1.5, len(samples)),
    }
    scenarios = dict(model.scenarios)
    for name, latencies in queries.items():
        measures = {k: v for k, v in latency_measures(latencies).items() if k.startswith("lat")}
        measures["throughput_images_per_s"] = measured(
            "throughput_images_per_s",
            600 / samples.mean(),
            f"{name}'s way to a rate",
            interval=(600 / samples.mean(), 620 / samples.mean()),
            n=len(latencies),
        )
        bound = measured("latency_p99_ms", float(latencies.max()), "LoadGen's bound", n=640)
        scenarios[name] = ScenarioResult(
            measures=measures,
            samples_ms=tuple(float(v) for v in latencies),
            early_stopping={"latency_p99_ms": bound},
        )
    if index == 2:
        reason = "no rate keeps p99 within 60 ms: the limit is near one image's time"
        scenarios["server"] = ScenarioResult(
            measures={
                name: not_measured(name, reason)
                for name in ("latency_p50_ms", "latency_p99_ms", "throughput_images_per_s")
            }
        )
    for name in ("single-stream", "server", "offline"):
        if index < 2 or name != "server":
            scenarios[f"{name} by LoadGen"] = _by_loadgen(scenarios[name], index)
    return model.model_copy(update={"scenarios": scenarios})


def _by_loadgen(ours, index):
    verdict = "INVALID" if index == 1 else "VALID"
    method = f"MLPerf LoadGen 6.0.17: {verdict} by its own rules"
    return ScenarioResult(
        measures={
            name: measured(name, measure.value * 1.02, method, n=700)
            for name, measure in ours.measures.items()
            if measure.value is not None and name != "latency_mean_ms"
        },
        notes=(f"LoadGen's verdict: {verdict}.",),
    )
