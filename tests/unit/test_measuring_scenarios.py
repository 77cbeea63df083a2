"""Single-stream and offline on a clock that only the model moves: every number is known."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from measuring_stand_ins import ManualClock, TimedModel, write_numbered_images
from visiondyno.measurements.measure import Measure, Measures, measured, not_measured
from visiondyno.measuring.energy_windows import EnergyWindows
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.offline import run_offline
from visiondyno.measuring.scenario_results import (
    loadgen_result,
    scenario_result,
    start_up_measures,
)
from visiondyno.measuring.single_stream import StageTimes, run_single_stream, warm_up
from visiondyno.probes.base import Probe


@pytest.fixture
def images(tmp_path: Path) -> EncodedImages:
    return EncodedImages(write_numbered_images(tmp_path, 4))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def cycle(images: EncodedImages) -> Iterator[int]:
    return itertools.cycle(range(len(images)))


def test_each_step_gets_its_own_time_and_latency_is_their_sum(
    images: EncodedImages, clock: ManualClock
) -> None:
    model = TimedModel(clock, preprocess_ms=1.5, inference_ms=lambda _: 20.0, postprocess_ms=0.25)
    times = run_single_stream(model, images, cycle(images), duration_s=1.0, clock=clock)
    assert set(times.preprocess_ms) == {1.5}
    assert set(times.inference_ms) == {20.0}
    assert set(times.postprocess_ms) == {0.25}
    assert set(times.decode_ms) == {0.0}
    assert set(times.latency_ms) == {21.75}


def test_a_fast_model_runs_for_the_whole_duration(
    images: EncodedImages, clock: ManualClock
) -> None:
    model = TimedModel(clock, preprocess_ms=0, inference_ms=lambda _: 1.0, postprocess_ms=0)
    times = run_single_stream(model, images, cycle(images), duration_s=2.0, clock=clock)
    assert len(times.latency_ms) == 2000


def test_a_middling_model_goes_on_to_the_queries_that_p99_needs(
    images: EncodedImages, clock: ManualClock
) -> None:
    model = TimedModel(clock, preprocess_ms=0, inference_ms=lambda _: 4.0, postprocess_ms=0)
    times = run_single_stream(model, images, cycle(images), duration_s=1.0, clock=clock)
    assert len(times.latency_ms) == 662


def test_a_slow_model_stops_after_three_durations(
    images: EncodedImages, clock: ManualClock
) -> None:
    model = TimedModel(clock, preprocess_ms=0, inference_ms=lambda _: 20.0, postprocess_ms=0)
    run = run_single_stream(model, images, cycle(images), duration_s=1.0, clock=clock)
    assert len(run.latency_ms) == 150


def test_a_very_slow_model_still_answers_64_queries(
    images: EncodedImages, clock: ManualClock
) -> None:
    model = TimedModel(clock, inference_ms=lambda _: 1000.0)
    run = run_single_stream(model, images, cycle(images), duration_s=1.0, clock=clock)
    assert len(run.latency_ms) == 64


def test_warm_up_goes_on_until_the_times_settle(images: EncodedImages, clock: ManualClock) -> None:
    model = TimedModel(clock, inference_ms=lambda query: 5.0 + max(0, 40 - query))
    found = warm_up(model, images, cycle(images), duration_s=10, clock=clock)
    assert found.steady
    assert found.queries == 64  # five windows of falling times, then three alike


def test_warm_up_that_never_settles_gives_up_and_says_so(
    images: EncodedImages, clock: ManualClock
) -> None:
    model = TimedModel(clock, inference_ms=lambda query: 5.0 * (1 + query // 8 % 2))
    found = warm_up(model, images, cycle(images), duration_s=4, clock=clock)
    assert not found.steady
    assert 2.0 <= clock.seconds < 2.3  # half the duration


def child(scenario: str, run: dict[str, Any], *, steady: bool = True) -> dict[str, Any]:
    return {scenario: run, "warm_up": {"queries": 24, "steady": steady}}


def single_stream(latencies_ms: list[float], *, steady: bool = True) -> dict[str, Any]:
    times = StageTimes(*[latencies_ms] * 5)
    energy = not_measured("energy_joules", "no counter").model_dump()
    run = {"samples": times.as_dict(), "probes": {"energy_joules_per_image": energy}}
    return child("single-stream", run, steady=steady)


def test_single_stream_measures_are_the_samples_and_nothing_is_clipped() -> None:
    values = [10.0] * 990 + [500.0] * 10
    result = scenario_result("single-stream", [single_stream(values)])
    measures = result.measures
    assert measures["latency_mean_ms"].value == pytest.approx(14.9)
    assert measures["latency_p50_ms"].value == 10.0
    assert measures["latency_p99_ms"].value == 500.0
    assert measures["latency_p99_ms"].n == 1000
    assert measures["inference_mean_ms"].value == pytest.approx(14.9)
    assert measures["energy_joules_per_image"].value is None
    assert measures["energy_joules_per_image"].reason == "no counter"
    assert result.samples_ms == tuple(values)
    assert result.early_stopping["latency_p90_ms"].value == 10.0
    assert result.warmup_queries == 24
    assert result.notes == ()


def test_few_queries_leave_p99_unbounded_above_and_without_loadgens_bound() -> None:
    values = [float(number) for number in range(64)]
    result = scenario_result("single-stream", [single_stream(values, steady=False)])
    assert result.measures["latency_p99_ms"].interval is not None
    assert result.measures["latency_p99_ms"].interval[1] is None
    assert result.early_stopping["latency_p99_ms"].value is None
    assert "662" in (result.early_stopping["latency_p99_ms"].reason or "")
    assert "Warm-up" in result.notes[0]


def test_processes_that_differ_widen_the_interval() -> None:
    alike = [single_stream([10.0, 10.2] * 50) for _ in range(4)]
    apart = [single_stream([value, value + 0.2] * 50) for value in (8.0, 10.0, 12.0, 14.0)]
    narrow, wide = (scenario_result("single-stream", found) for found in (alike, apart))
    assert wide.measures["latency_mean_ms"].value == pytest.approx(11.1)
    assert wide.measures["latency_mean_ms"].n == 400
    low, high = wide.measures["latency_mean_ms"].interval or (None, None)
    assert low is not None
    assert high is not None
    assert low < 9
    assert high > 13
    inner = narrow.measures["latency_mean_ms"].interval
    assert inner == pytest.approx((10.1, 10.1))
    assert len(wide.samples_ms) == 400
    mixed = [*alike[:2], single_stream([10.0] * 64, steady=False)]
    assert "1 of 3 processes" in scenario_result("single-stream", mixed).notes[0]


def test_multi_stream_counts_eight_images_a_query() -> None:
    run = {"latencies_ms": [40.0] * 700, "samples_a_query": 8, "probes": {}}
    result = scenario_result("multi-stream", [child("multi-stream", run)])
    assert result.measures["latency_p99_ms"].value == 40.0
    assert result.measures["throughput_images_per_s"].value == pytest.approx(200)
    assert result.measures["throughput_images_per_s"].n == 5600


def server(rate: float | None, tried: list[tuple[float, bool]]) -> dict[str, Any]:
    served = {"latencies_ms": [20.0] * 700, "waits_ms": [10.0] * 700, "elapsed_s": 7.0}
    run = {
        "rate_per_s": rate,
        "limit_ms": 50.0,
        "tried": tried,
        "run": served if rate else None,
        "probes": {},
    }
    return child("server", run)


def test_a_searched_rate_says_how_near_the_next_one_failed() -> None:
    found = server(80.0, [(50.0, True), (75.0, True), (87.5, False), (80.0, True), (82.0, False)])
    rate = scenario_result("server", [found]).measures["throughput_images_per_s"]
    assert (rate.value, rate.interval) == (80.0, None)
    assert "50 ms" in rate.method
    assert "of 5 rates tried the lowest that failed is 82" in rate.method


def test_a_given_rate_reports_what_was_answered() -> None:
    result = scenario_result("server", [server(100.0, [])])
    assert result.measures["throughput_images_per_s"].value == pytest.approx(100)
    assert result.early_stopping["latency_p99_ms"].value == 20.0


def test_no_rate_that_keeps_the_limit_is_said() -> None:
    result = scenario_result("server", [server(None, [(50.0, False), (25.0, False)])])
    assert result.measures["throughput_images_per_s"].value is None
    assert "50 ms" in (result.measures["latency_p99_ms"].reason or "")
    assert result.samples_ms == ()


def test_loadgens_words_are_kept() -> None:
    report = {
        "version": "6.0.17",
        "verdict": "INVALID",
        "percentiles_ms": {0.5: 9.0, 0.9: 12.0, 0.99: 30.0, 0.999: 44.0},
        "rate_per_s": 95.5,
        "summary": "…",
    }
    found = {"server by LoadGen": {"plan": {"queries": 662, "exact": True}, "report": report}}
    result = loadgen_result("server", [found])
    assert result.measures["latency_p99_ms"].value == 30.0
    assert result.measures["latency_p99_ms"].n == 662
    assert "INVALID" in result.notes[0]
    assert "latency_p95_ms" not in result.measures


@pytest.mark.parametrize("batch_size", [8, None])
def test_offline_counts_images_over_the_time_from_the_first_batchs_end(
    images: EncodedImages, clock: ManualClock, batch_size: int | None
) -> None:
    # 3 ms a batch whatever its size: the largest candidate is the fastest.
    model = TimedModel(
        clock,
        preprocess_ms=0,
        inference_ms=lambda _: 3.0,
        postprocess_ms=0,
        batch_size=batch_size,
    )
    run = run_offline(model, images, cycle(images), duration_s=1.0, clock=clock)
    assert run.batch_size == (batch_size or 16)
    assert ("fixed" in run.batch_size_from) == (batch_size is not None)
    assert run.images / run.elapsed_s == pytest.approx(run.batch_size / 0.003, rel=0.02)
    assert sum(run.stretch_s) <= run.elapsed_s
    assert model.batch_sizes[-1] == run.batch_size


def offline(stretch_s: tuple[float, ...]) -> dict[str, Any]:
    run = {
        "images": 10 * len(stretch_s),
        "elapsed_s": sum(stretch_s),
        "batch_size": 1,
        "batch_size_from": "the model's fixed batch size",
        "stretch_images": 10,
        "stretch_s": stretch_s,
    }
    return child("offline", {"run": run, "probes": {}})


def test_throughput_has_an_interval_around_its_value() -> None:
    found = offline((0.09, 0.1, 0.11) * 14)
    rate = scenario_result("offline", [found]).measures["throughput_images_per_s"]
    assert rate.value == pytest.approx(100.0)
    assert rate.interval is not None
    low, high = rate.interval
    assert low is not None
    assert high is not None
    assert low < 100.0 < high


def test_throughput_of_few_stretches_has_none() -> None:
    result = scenario_result("offline", [offline((0.1,) * 5)])
    rate = result.measures["throughput_images_per_s"]
    assert rate.interval is None


def test_start_up_measures_are_single_readings() -> None:
    peak = measured("peak_rss_bytes", 1e8, "VmHWM")
    found = {"load_ms": 120.0, "first_inference_ms": 30.0, "peak_rss_bytes": peak.model_dump()}
    measures = start_up_measures([found])
    assert (measures["load_ms"].value, measures["load_ms"].interval) == (120.0, None)
    assert measures["peak_rss_bytes"].value == 1e8


class _Meter(Probe):
    """A constant power in watts on a manual clock."""

    names = ("energy_joules",)

    def __init__(self, clock: ManualClock, watts: float | None) -> None:
        self._clock = clock
        self._watts = watts
        self._began_s = 0.0

    def available(self) -> str | None:
        return None if self._watts is not None else "no counter"

    def start(self) -> None:
        self._began_s = self._clock.seconds

    def stop(self) -> Measures:
        if self._watts is None:
            return {"energy_joules": not_measured("energy_joules", "no counter")}
        joules = self._watts * (self._clock.seconds - self._began_s)
        return {"energy_joules": measured("energy_joules", joules, "meter")}


def run_energy(clock: ManualClock, watts: float | None, steps: int, duration_s: float) -> Measure:
    energy = EnergyWindows(_Meter(clock, watts), duration_s, lambda: clock.seconds)
    energy.start()
    for done in range(1, steps + 1):
        clock.pass_ms(100)
        energy.count(done)
    return energy.finish()


def test_energy_an_image_is_power_times_time_over_images_with_an_interval(
    clock: ManualClock,
) -> None:
    found = run_energy(clock, 20.0, steps=100, duration_s=10)
    assert found.value == pytest.approx(2.0)  # 20 W × 0.1 s
    assert found.interval is not None
    assert found.interval == pytest.approx((2.0, 2.0))
    assert found.n == 100


def test_a_run_shorter_than_a_window_is_one_window(clock: ManualClock) -> None:
    found = run_energy(clock, 20.0, steps=3, duration_s=10)
    assert found.value == pytest.approx(2.0)
    assert found.interval is None


def test_a_short_last_window_is_left_out_with_its_images(clock: ManualClock) -> None:
    found = run_energy(clock, 20.0, steps=25, duration_s=10)
    assert found.value == pytest.approx(2.0)
    assert found.n == 20


def test_no_counter_means_no_value(clock: ManualClock) -> None:
    found = run_energy(clock, None, steps=30, duration_s=3)
    assert found.value is None
    assert "no counter" in (found.reason or "")
