"""`--fail-if` of a load test."""

import pytest

from load_test_factory import a_cold_start, a_result, a_target
from visiondyno.errors import RegressionFound, SpecError
from visiondyno.report.load_test_gate import parse_load_conditions, raise_if_failed


@pytest.mark.parametrize(
    ("text", "measure", "threshold"),
    [
        ("p99>200ms", "latency_p99_ms", 200),
        ("p99.9 >= 2s", "latency_p999_ms", 2000),
        ("mean<500us", "latency_mean_ms", 0.5),
        ("errors>1%", "error_fraction", 0.01),
        ("errors>0.01", "error_fraction", 0.01),
        ("throughput<50", "throughput_requests_per_s", 50),
        ("memory>1GiB", "peak_memory_bytes", 2**30),
        ("cpu>1.5", "cpu_cores_mean", 1.5),
        ("cost>0.2", "cost_usd_per_1000_requests", 0.2),
        ("cold-start>3s", "cold-start", 3000),
        ("service_p99_ms>30", "service_p99_ms", 30),
    ],
)
def test_conditions_are_read_with_their_units(text, measure, threshold):
    (condition,) = parse_load_conditions([text])
    assert condition.measure == measure
    assert condition.threshold == pytest.approx(threshold)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p99", "isn't of the form"),
        ("p98>3ms", "did you mean p9"),
        ("zzzz>3", "known are p50"),
        ("p99>3%", "isn't given in '%'"),
        ("cpu>3ms", "units: none"),
    ],
)
def test_conditions_that_cannot_be_read(text, said):
    with pytest.raises(SpecError, match=said):
        parse_load_conditions([text])


@pytest.mark.parametrize(
    ("operator", "fails"), [("<", False), ("<=", True), (">", False), (">=", True)]
)
def test_each_operator(operator, fails):
    (condition,) = parse_load_conditions([f"p99{operator}5"])
    assert condition.holds(5) is fails


def judged(text, *targets):
    raise_if_failed(a_result(*targets), parse_load_conditions([text]))


def test_what_is_kept_passes():
    judged("p99>200ms,errors>1%,throughput<5,memory>1GiB,cpu>2,cost>1", a_target("a"))


def test_each_target_that_fails_is_named():
    with pytest.raises(RegressionFound, match=r"slow: p50>50ms \([\d.]+ ms\)\.") as raised:
        judged("p50>50ms", a_target("quick"), a_target("slow", latencies_ms=[90.0]))
    assert "quick" not in raised.value.message
    assert raised.value.exit_code == 3


def test_what_was_not_measured_was_not_kept():
    late = a_target("late", timeouts=[20])
    with pytest.raises(RegressionFound, match=r"can't be judged .*time limit"):
        judged("p99>200ms", late)
    with pytest.raises(RegressionFound, match="no cold start"):
        judged("cold-start>3s", a_target("a"))
    bare = a_target("bare", resources_measures={}, cost_usd_per_1000_requests=None)
    with pytest.raises(RegressionFound, match="it wasn't measured"):
        judged("memory>1GiB", bare)


def test_the_worst_cold_start_counts():
    starts = (a_cold_start(total_ms=900), a_cold_start(total_ms=3100))
    judged("cold-start>4s", a_target("a", cold_starts=starts))
    with pytest.raises(RegressionFound, match="3,100 ms"):
        judged("cold-start>3s", a_target("a", cold_starts=starts))
    with pytest.raises(RegressionFound, match="900 ms"):
        judged("cold-start<1s", a_target("a", cold_starts=starts))
