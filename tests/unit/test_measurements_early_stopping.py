"""The early-stopping bound, against LoadGen itself where that is installed."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from visiondyno.measurements.early_stopping import (
    discarded_queries,
    early_stopping_estimate,
    minimum_queries,
)

# Published discards are 24809, 705 and 20, without their query counts. For p90 they come from
# 251,600–251,609, 7,671–7,680 and 337–349 queries: found by search with our function, and each
# end confirmed by running LoadGen with exactly that many queries (below).
PUBLISHED = [
    (251_600, 0.9, 24_809),
    (251_609, 0.9, 24_809),
    (7_671, 0.9, 705),
    (7_680, 0.9, 705),
    (337, 0.9, 20),
    (349, 0.9, 20),
    (77_001, 0.99, 705),
    (3_429, 0.99, 20),
]
NEIGHBOURS = [
    (251_599, 0.9, 24_808),
    (251_610, 0.9, 24_810),
    (64, 0.9, 0),
    (5_000, 0.5, 2_416),
    (20_011, 0.97, 543),
    (662, 0.99, 0),
]


def test_minimum_queries_are_mlperfs():
    assert minimum_queries(0.9) == 64
    assert minimum_queries(0.99) == 662


@pytest.mark.parametrize(("n", "q", "discarded"), PUBLISHED + NEIGHBOURS)
def test_discards_are_loadgens(n: int, q: float, discarded: int):
    assert discarded_queries(n, q) == discarded


@pytest.mark.parametrize(("n", "q", "discarded"), PUBLISHED + NEIGHBOURS)
def test_loadgen_says_the_same_when_run(n: int, q: float, discarded: int, tmp_path: Path):
    summary = run_loadgen(n, q, tmp_path)
    assert int(re.search(r"Processed at least \d+ queries \((\d+)\)", summary)[1]) == n
    assert int(re.search(r"Would discard (\d+) highest", summary)[1]) == discarded
    assert int(re.search(r"at least (\d+) queries", summary)[1]) == minimum_queries(q)


def test_loadgen_refuses_too_few_queries_as_we_do(tmp_path: Path):
    summary = run_loadgen(63, 0.9, tmp_path)
    assert "Need to process at least 64 queries" in summary
    assert discarded_queries(63, 0.9) is None


def run_loadgen(n: int, q: float, folder: Path) -> str:
    """LoadGen's summary of a single-stream run of `n` queries that do nothing."""
    loadgen = pytest.importorskip("mlperf_loadgen")
    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.SingleStream
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.single_stream_target_latency_percentile = q
    settings.single_stream_expected_latency_ns = 1000
    settings.min_query_count = settings.max_query_count = n
    settings.min_duration_ms = 0
    log = loadgen.LogSettings()
    log.enable_trace = False
    log.log_output.outdir = str(folder)
    log.log_output.copy_summary_to_stdout = False

    def answer(queries) -> None:
        loadgen.QuerySamplesComplete(
            [loadgen.QuerySampleResponse(query.id, 0, 0) for query in queries]
        )

    system = loadgen.ConstructSUT(answer, lambda: None)
    library = loadgen.ConstructQSL(16, 16, lambda _: None, lambda _: None)
    loadgen.StartTestWithLogSettings(system, library, settings, log)
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)
    return (folder / "mlperf_log_summary.txt").read_text()


@given(st.integers(2, 100_000), st.sampled_from([0.5, 0.9, 0.95, 0.97, 0.99, 0.999]))
def test_the_discard_is_the_largest_that_passes(n: int, q: float):
    discarded = discarded_queries(n, q)
    slow = stats.binom(n, 1 - q)
    if discarded is None:
        assert slow.cdf(1) >= 0.01
    else:
        assert slow.cdf(discarded + 1) < 0.01 <= slow.cdf(discarded + 2)


def test_the_estimate_is_the_next_slowest_query_and_needs_no_order():
    samples = np.random.default_rng(0).permutation(np.arange(1.0, 1001.0))
    estimate = early_stopping_estimate(samples, 0.9)
    assert estimate.discarded == discarded_queries(1000, 0.9)
    assert estimate.value == 1000 - estimate.discarded
    measure = estimate.as_measure("latency_p90_ms")
    assert (measure.value, measure.unit, measure.n) == (estimate.value, "ms", 1000)


def test_too_few_queries_have_a_reason_instead_of_a_value():
    measure = early_stopping_estimate([1.0] * 661, 0.99).as_measure("latency_p99_ms")
    assert measure.value is None
    assert "661 queries are too few" in measure.reason
    assert "662" in measure.reason


def test_a_quantile_outside_its_range_is_refused():
    with pytest.raises(ValueError):
        minimum_queries(1.0)
