"""A round's result: percentiles with intervals, censored requests, counts, the course."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recording_factory import a_recording
from visiondyno.loadtest.recording import Outcome
from visiondyno.loadtest.rounds import MOST_SINGLES, RoundSetting, round_length_s, round_result
from visiondyno.measurements.hdr import Histogram
from visiondyno.report.load_test import RoundResult
from visiondyno.specs.load_test import ClosedLoad, ConstantLoad

STARTED = "2026-11-22T12:00:00+00:00"


def result_of(recording, *, load=None, timeout_s=30.0, **more) -> RoundResult:
    load = load or ConstantLoad(rate_per_s=10, duration_s=len(recording) / 10)
    return round_result(
        recording, RoundSetting(load, timeout_s, **more), number=1, started_at=STARTED
    )


def test_percentiles_are_observed_latencies_with_intervals_around_them():
    latencies = np.random.default_rng(0).gamma(4, 10, 2000)
    result = result_of(a_recording(latencies))
    p50, p99 = result.measures["latency_p50_ms"], result.measures["latency_p99_ms"]
    ordered = np.sort(latencies)
    assert p50.value == pytest.approx(ordered[1000], abs=1e-5)
    assert p99.value == pytest.approx(ordered[1980], abs=1e-5)
    for measure in (p50, p99):
        low, high = measure.interval
        assert low < measure.value < high
    assert p99.n == 2000
    assert result.measures["latency_mean_ms"].value == pytest.approx(latencies.mean(), abs=1e-5)
    assert result.measures["latency_max_ms"].value == pytest.approx(latencies.max(), abs=1e-5)


def test_latency_counts_from_the_schedule_and_service_time_from_sending():
    result = result_of(a_recording([50.0] * 100, lag_ms=20.0))
    assert result.measures["latency_p50_ms"].value == pytest.approx(50)
    assert result.measures["service_p50_ms"].value == pytest.approx(30)
    assert result.measures["first_byte_p50_ms"].value == pytest.approx(27)


def test_a_percentile_that_falls_on_a_timeout_has_no_value_but_the_limit():
    late = dict.fromkeys(range(0, 100, 20), Outcome.TIMEOUT)
    result = result_of(a_recording([5.0] * 100, outcomes=late), timeout_s=2.5)
    p90, p99 = result.measures["latency_p90_ms"], result.measures["latency_p99_ms"]
    assert p90.value == 5
    assert p90.interval == (5.0, None)
    assert p99.value is None
    assert p99.reason == "5 requests ran into the time limit: it is at least 2500 ms"
    assert result.measures["latency_mean_ms"].value is None
    assert result.measures["latency_max_ms"].value is None
    assert result.measures["error_fraction"].value == 0.05


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.1, 1e4), min_size=1, max_size=60),
    st.integers(0, 60),
)
def test_more_timeouts_never_lower_a_percentile(latencies, timeouts):
    n = len(latencies)
    late = dict.fromkeys(range(n, n + timeouts), Outcome.TIMEOUT)
    fewer = result_of(a_recording(latencies))
    more = result_of(a_recording([*latencies, *[30_000.0] * timeouts], outcomes=late))
    for name in ("latency_p50_ms", "latency_p99_ms"):
        value = more.measures[name].value
        assert value is None or value >= fewer.measures[name].value


def test_failures_are_counted_and_have_no_latency():
    recording = a_recording(
        [10.0] * 59 + [0.0],
        outcomes={
            0: Outcome.BAD_STATUS, 1: Outcome.BAD_STATUS, 2: Outcome.BAD_BODY,
            3: Outcome.TIMEOUT, 4: Outcome.CONNECT_FAILED, 5: Outcome.CUT, 59: Outcome.NOT_SENT,
        },
        statuses={0: 503, 1: 404, 2: 200},
        errors={"refused": 1, "cut": 3},
    )  # fmt: skip
    result = result_of(recording)
    assert result.status_codes == {"200": 54, "404": 1, "503": 1}
    assert result.status_classes == {
        "2xx": 54, "3xx": 0, "4xx": 1, "5xx": 1,
        "timeouts": 1, "connection_errors": 2, "not_sent": 1,
    }  # fmt: skip
    assert result.outcomes["good"] == 53
    assert result.outcomes["bad_body"] == 1
    assert result.measures["error_fraction"].value == pytest.approx(6 / 59)
    assert result.measures["latency_p50_ms"].n == 54
    assert list(result.errors) == ["cut", "refused"]
    assert sum(result.outcomes.values()) == result.requests == 60


def test_the_course_tells_arrivals_and_answers_apart():
    # The target stands still for 3 s: everything is answered at 4 s.
    scheduled_s = np.arange(60) / 10
    latencies = np.where((scheduled_s >= 1) & (scheduled_s < 4), (4.05 - scheduled_s) * 1000, 20.0)
    result = result_of(a_recording(latencies))
    seconds = result.seconds
    assert [second.scheduled for second in seconds] == [10] * 6
    assert [second.answered for second in seconds][:5] == [10, 0, 0, 0, 40]
    assert sum(second.answered for second in seconds) == 60
    assert seconds[1].p99_ms == pytest.approx(3050)
    assert seconds[0].p50_ms == pytest.approx(20)
    assert result.measures["offered_requests_per_s"].value == 10


def test_a_second_without_good_answers_has_no_latency():
    late = dict.fromkeys(range(10, 20), Outcome.CUT)
    result = result_of(a_recording([5.0] * 30, outcomes=late))
    assert result.seconds[1].p50_ms is None
    assert result.seconds[1].connection_errors == 10


def test_a_stopped_round_ends_with_what_was_sent():
    never = dict.fromkeys(range(20, 100), Outcome.NOT_SENT)
    result = result_of(a_recording([5.0] * 20 + [0.0] * 80, outcomes=never))
    assert len(result.seconds) == 2
    assert result.measures["error_fraction"].n == 20
    assert result.measures["error_fraction"].value == 0
    assert result.measures["offered_requests_per_s"].n == 20
    assert result.singles.latency_ms[50] is None


def test_requests_without_an_answer_at_the_stop_rank_last():
    # The target stood still for the last 2 s before the stop; 30 requests weren't due by then.
    latencies = np.r_[[5.0] * 100, 2000.0 - 100.0 * np.arange(20), [0.0] * 30]
    outcomes = dict.fromkeys(range(100, 150), Outcome.NOT_SENT)
    measures = result_of(a_recording(latencies, outcomes=outcomes)).measures
    assert measures["latency_p50_ms"].value == 5
    assert measures["latency_p50_ms"].n == 120
    for name in ("latency_p90_ms", "latency_p99_ms", "latency_max_ms", "latency_mean_ms"):
        assert measures[name].value is None
        assert measures[name].reason == ("20 requests had no answer yet when the test was stopped")
    assert measures["offered_requests_per_s"].n == 120


@pytest.mark.parametrize("rate_per_s", [0.5, 3.0, 10.0])
@pytest.mark.parametrize("requests", [1, 6, 300])
def test_a_target_that_keeps_up_answers_as_much_as_is_offered_and_no_more(rate_per_s, requests):
    load = ConstantLoad(rate_per_s=rate_per_s, duration_s=requests / rate_per_s)
    recording = a_recording([5.0] * requests, rate_per_s=rate_per_s)
    measures = result_of(recording, load=load).measures
    offered = measures["offered_requests_per_s"].value
    assert measures["throughput_requests_per_s"].value == pytest.approx(offered)
    assert round_length_s(recording, load) == load.duration_s


def test_a_target_that_falls_behind_and_a_closed_loop_are_timed_to_the_last_end():
    behind = a_recording(np.linspace(5, 30_000, 100))
    load = ConstantLoad(rate_per_s=10, duration_s=10)
    assert round_length_s(behind, load) == behind.elapsed_s > 10
    assert result_of(behind, load=load).measures["throughput_requests_per_s"].value < 3
    assert round_length_s(behind, ClosedLoad(duration_s=99)) == behind.elapsed_s


def test_a_round_without_any_good_answer_says_so():
    result = result_of(a_recording([1.0] * 30, outcomes=dict.fromkeys(range(30), Outcome.CUT)))
    for name in ("latency_p50_ms", "latency_mean_ms", "latency_max_ms", "first_byte_p50_ms"):
        assert result.measures[name].value is None
        assert result.measures[name].reason == "no request had a good answer"
    assert result.measures["error_fraction"].value == 1
    assert result.measures["throughput_requests_per_s"].value == 0


def test_the_histogram_holds_the_good_answers_in_microseconds():
    result = result_of(a_recording([20.0] * 9 + [500.0], outcomes={9: Outcome.TIMEOUT}))
    histogram = Histogram.decode(result.hdr)
    assert histogram.total == 9
    assert histogram.value_at(0.5) == pytest.approx(20_000, rel=1e-3)


def test_throughput_has_an_interval_from_enough_answers_on():
    few = result_of(a_recording([5.0] * 50)).measures["throughput_requests_per_s"]
    many = result_of(a_recording([5.0] * 600)).measures["throughput_requests_per_s"]
    assert few.interval is None
    low, high = many.interval
    assert low <= many.value <= high
    assert many.value == pytest.approx(10, rel=0.01)


def test_a_closed_loop_has_no_schedule_to_be_late_to():
    result = result_of(a_recording([5.0] * 100, lag_ms=0.0), load=ClosedLoad(duration_s=10))
    assert result.generator.lag_p99_ms is None
    assert "closed loop" in result.measures["latency_p50_ms"].method


def test_stages_are_means_of_what_good_answers_told():
    told = np.where(np.arange(100) % 2 == 0, 4.0, np.nan)
    result = result_of(
        a_recording([9.0] * 100, stages_ms={"inference": told, "none": np.full(100, np.nan)})
    )
    assert list(result.stages) == ["inference"]
    assert result.stages["inference"].value == 4
    assert result.stages["inference"].n == 50


def test_single_requests_are_kept_of_short_rounds_only():
    short = result_of(a_recording([5.0] * 100))
    assert short.singles.at_s[10] == 1
    assert set(short.singles.outcome) == {int(Outcome.GOOD)}
    assert result_of(a_recording([5.0] * (MOST_SINGLES + 1))).singles is None


def test_a_result_survives_json():
    result = result_of(a_recording([5.0] * 100, outcomes={3: Outcome.TIMEOUT}))
    assert RoundResult.model_validate_json(result.model_dump_json()) == result


def test_a_round_that_was_over_at_once_has_no_rates():
    recording = a_recording([0.0], outcomes={0: Outcome.NOT_SENT})
    result = result_of(recording, load=ClosedLoad(requests=1))
    for name, reason in (
        ("throughput_requests_per_s", "the round was over at once"),
        ("offered_requests_per_s", "the round was over at once"),
        ("error_fraction", "no request was sent"),
    ):
        assert result.measures[name].value is None
        assert result.measures[name].reason == reason
    assert result.generator.cpu_cores is None
