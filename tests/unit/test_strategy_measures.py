"""What the pattern of a scaling strategy shows, from samples that are known."""

import pytest

from visiondyno.loadtest.strategy_measures import (
    Moments,
    Pattern,
    strategy_measures,
    with_replicas,
)
from visiondyno.measurements.measure import Measure, Measures
from visiondyno.report.load_test import ColdStart, ResourceSample

MEMORY = "highest of 9 samples of PSS, shared pages divided among their users"


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def moments_of(**parts: tuple[float, float]) -> Moments:
    clock = Hands()
    moments = Moments(clock)
    moments.start()
    for name, (began_s, ended_s) in parts.items():
        clock.now_s = 100.0 + began_s
        with moments.of(name):
            clock.now_s = 100.0 + ended_s
    return moments


def sample(
    at_s: float, cores: float | None = 0.0, memory: int | None = 100, replicas: int | None = 1
) -> ResourceSample:
    return ResourceSample(at_s=at_s, cpu_cores=cores, memory_bytes=memory, replicas=replicas)


def cold(total_ms: float) -> ColdStart:
    return ColdStart(
        kind="idle",
        total_ms=total_ms,
        process_start_ms=None,
        model_load_ms=None,
        first_inference_ms=None,
        rest_ms=None,
        warm_ms=None,
        told_by=None,
    )


def round_measures() -> Measures:
    names = ("latency_p50_ms", "latency_p99_ms", "error_fraction")
    return {name: Measure(value=1.0, unit="ms", method="made up") for name in names}


def pattern_of(samples: tuple[ResourceSample, ...], good_requests: int = 10) -> Pattern:
    return Pattern(
        starts=[cold(900.0), cold(700.0), cold(800.0)],
        firsts=[cold(50.0)],
        steady=round_measures(),
        burst=round_measures(),
        samples=samples,
        memory_method=MEMORY,
        moments=moments_of(steady=(0.0, 4.0), idle=(4.5, 8.0), burst=(8.0, 9.0)),
        good_requests=good_requests,
    )


def test_the_parts_are_judged_by_their_own_samples() -> None:
    samples = (
        *(sample(at, cores=2.0, memory=300) for at in (0.0, 1.0, 2.0, 4.0)),
        *(sample(at, cores=0.5, memory=100) for at in (5.0, 6.0, 8.0)),
        sample(9.0, cores=1.0, memory=400),
    )
    found = strategy_measures(pattern_of(samples), None)
    assert found["busy_cpu_cores"].value == 2.0
    assert found["idle_cpu_cores"].value == 0.5
    assert found["idle_memory_bytes"].value == 100
    assert found["peak_memory_bytes"].value == 400
    assert "PSS" in found["peak_memory_bytes"].method
    assert "cost_usd_per_1000_requests" not in found


def test_the_processor_mean_weighs_by_time() -> None:
    samples = (
        sample(4.5, cores=9.0),
        sample(5.0, cores=9.0),
        sample(6.0, cores=1.0),
        sample(8.0, cores=4.0),
    )
    # The first sample inside (4.5) reaches back, and 5.0 only begins the first known span.
    assert strategy_measures(pattern_of(samples), None)["idle_cpu_cores"].value == 3.0


def test_cold_starts_are_medians_with_their_range() -> None:
    found = strategy_measures(pattern_of((sample(0.0), sample(9.0))), None)
    assert found["startup_ms"].value == 800.0
    assert "from 700 to 900 ms" in found["startup_ms"].method
    assert found["cold_first_answer_ms"].n == 1


def test_replicas_are_paid_while_they_are_there() -> None:
    samples = (sample(0.0, replicas=2), sample(3.0, replicas=0), sample(10.0, replicas=1))
    found = strategy_measures(pattern_of(samples, good_requests=3), 1200.0)
    assert found["replica_seconds"].value == 6.0
    # 6 s of 1,200 USD an hour are 2 USD, for 3 requests.
    assert found["cost_usd_per_1000_requests"].value == pytest.approx(2000 / 3)


@pytest.mark.parametrize(
    ("samples", "names"),
    [
        ((sample(0.0), sample(9.0, replicas=None)), ("replica_seconds",)),
        ((sample(0.0),), ("replica_seconds", "idle_memory_bytes", "busy_cpu_cores")),
        ((sample(5.0), sample(6.0, cores=None, memory=None)), ("idle_cpu_cores",)),
    ],
    ids=["replicas", "one sample", "unreadable"],
)
def test_what_could_not_be_read_has_a_reason_and_no_value(
    samples: tuple[ResourceSample, ...], names: tuple[str, ...]
) -> None:
    found = strategy_measures(pattern_of(samples), 1.0)
    for name in names:
        assert found[name].value is None
        assert found[name].reason
    if "replica_seconds" in names:
        assert found["cost_usd_per_1000_requests"].value is None


def test_no_good_request_has_no_price() -> None:
    samples = (sample(0.0), sample(9.0))
    cost = strategy_measures(pattern_of(samples, good_requests=0), 1.0)
    assert cost["cost_usd_per_1000_requests"].reason == "no request was answered well"


def test_samples_take_the_replicas_seen_last() -> None:
    seen = [sample(0.0, replicas=2), sample(1.0, replicas=None), sample(3.0, replicas=0)]
    found = with_replicas([sample(0.1), sample(2.0), sample(3.2)], seen)
    assert [one.replicas for one in found] == [2, 2, 0]
    assert with_replicas([sample(0.1)], [])[0].replicas is None
