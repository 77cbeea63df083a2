"""Load tests that never were, for what is made of their records."""

import math
from collections.abc import Sequence

import numpy as np

from recording_factory import a_recording
from visiondyno.loadtest.differences import target_differences
from visiondyno.loadtest.recording import Outcome
from visiondyno.loadtest.rounds import RoundSetting, round_result
from visiondyno.measurements.measure import Measure
from visiondyno.measurements.repeats import merge_repeats
from visiondyno.report.load_test import (
    ColdStart,
    LoadTestResult,
    RateSearch,
    RateTry,
    Resources,
    ResourceSample,
    StrategyRow,
    TargetResult,
)
from visiondyno.report.load_test_measures import load_measure
from visiondyno.specs.load_test import ConstantLoad, LoadTestSpec, TargetSpec

ENVIRONMENT = {"cpu_model": "A processor", "cpu_count": 2, "system": "Linux x86_64"}


def a_target(
    name: str,
    *,
    latencies_ms: Sequence[float] = (20.0,),
    timeouts: Sequence[int] = (),
    n: int = 300,
    bad: int = 0,
    **more,
) -> TargetResult:
    """A target with one round for each of `latencies_ms` (the median of each)."""
    rounds = []
    for place, typical_ms in enumerate(latencies_ms):
        dice = np.random.default_rng([n, place])
        late = timeouts[place] if place < len(timeouts) else 0
        samples = typical_ms * dice.gamma(40, 1 / 40, n)
        samples[: n // 3] += np.linspace(0, typical_ms / 3, n // 3)
        outcomes = dict.fromkeys(range(n // 2, n // 2 + late), Outcome.TIMEOUT)
        outcomes |= dict.fromkeys(range(5, 5 + bad), Outcome.BAD_STATUS)
        samples[n // 2 : n // 2 + late] = 2000.0
        rounds.append(
            round_result(
                a_recording(
                    samples,
                    outcomes=outcomes,
                    statuses=dict.fromkeys(range(5, 5 + bad), 503),
                    stages_ms={"inference": samples * 0.7},
                ),
                RoundSetting(ConstantLoad(rate_per_s=10, duration_s=n / 10), 2.0),
                number=place + 1,
                started_at=f"2026-11-22T12:{place:02d}:00+00:00",
                resources=_resources(n / 10),
            )
        )
    fields = {
        "url": f"http://{name}.example:8080/predict",
        "rounds": tuple(rounds),
        "measures": merge_repeats([one.measures for one in rounds], "rounds"),
        "resources_measures": {
            key: getattr(rounds[0].resources, key)
            for key in ("cpu_cores_mean", "peak_memory_bytes")
        },
        "cost_usd_per_1000_requests": load_measure(
            "cost_usd_per_1000_requests", 0.0071, "price of the machine for the round's time"
        ),
    }
    return TargetResult(name=name, **{**fields, **more})


def a_result(*targets: TargetResult, **more) -> LoadTestResult:
    """A load test of these targets, or of one."""
    targets = targets or (a_target("detector"),)
    spec = LoadTestSpec(
        targets=tuple(TargetSpec(url=target.url, name=target.name) for target in targets),
        load=ConstantLoad(rate_per_s=10, duration_s=30),
        rounds=len(targets[0].rounds) or 1,
    )
    fields = {
        "version": "1.2.3",
        "created_at": "2026-11-22T12:00:00+00:00",
        "spec": spec.model_dump(mode="json"),
        "environment": ENVIRONMENT,
        "targets": targets,
        "differences": target_differences(targets),
        "quiet": True,
    }
    return LoadTestResult(**{**fields, **more})


def a_cold_start(kind="process", *, total_ms=2400.0, told=True) -> ColdStart:
    return ColdStart(
        kind=kind,
        total_ms=total_ms,
        process_start_ms=0.5 * total_ms if told else None,
        model_load_ms=0.25 * total_ms if told else None,
        first_inference_ms=0.1 * total_ms if told else None,
        rest_ms=0.15 * total_ms if told else None,
        warm_ms=24.0,
        told_by="Server-Timing" if told else None,
    )


def a_search(limit_ms=50.0) -> RateSearch:
    rates = (10.0, 20.0, 40.0, 80.0, 60.0, 50.0, 45.0)
    return RateSearch(
        limit_ms=limit_ms,
        best_rate_per_s=45.0,
        tries=tuple(
            RateTry(
                rate_per_s=rate,
                p99_ms=22.0 + rate * rate / 90 if rate < 80 else 5000.0,
                error_fraction=0.0 if rate < 80 else 0.31,
                held=rate <= 45,
                why_not=None if rate <= 45 else "p99 is up to 62 ms, over the limit of 50 ms",
            )
            for rate in rates
        ),
    )


def some_strategies() -> tuple[StrategyRow, ...]:
    names = {
        "startup_ms": (2500.0, 900.0),
        "cold_first_answer_ms": (None, 2600.0),
        "warm_latency_p50_ms": (22.0, 23.0),
        "warm_latency_p99_ms": (40.0, 61.0),
        "idle_memory_bytes": (400e6, 90e6),
        "peak_memory_bytes": (420e6, 410e6),
        "idle_cpu_cores": (0.01, 0.002),
        "busy_cpu_cores": (0.7, 0.8),
        "error_fraction": (0.0, 0.0),
    }

    def row(place, strategy, replicas, **more):
        return StrategyRow(
            strategy=strategy,
            replicas=replicas,
            measures={
                name: load_measure(
                    name,
                    values[place],
                    "read",
                    reason=None if values[place] is not None else "it never is at zero",
                )
                for name, values in names.items()
            },
            samples=_resources(20).samples,
            **more,
        )

    return (
        row(0, "always-warm", "2", cold_starts=()),
        row(1, "scale-to-zero", "0-2", cold_starts=(a_cold_start("idle"),)),
    )


def _resources(length_s: float) -> Resources:
    samples = tuple(
        ResourceSample(
            at_s=float(second),
            cpu_cores=None if second == 3 else 0.6 + 0.3 * math.sin(second / 3),
            memory_bytes=int(300e6 + 2e6 * second),
            replicas=1 + second // 10,
        )
        for second in range(int(length_s))
    )
    return Resources(
        source="process 4242 with its children, /proc",
        samples=samples,
        cpu_cores_mean=Measure(value=0.62, unit="cores", method="processor time", n=len(samples)),
        peak_memory_bytes=Measure(value=360e6, unit="bytes", method="highest sample"),
    )
