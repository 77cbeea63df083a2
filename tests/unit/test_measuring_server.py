"""Server and multi-stream on a manual clock: waiting counts, and the search finds the rate."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measuring_stand_ins import ManualClock, TimedModel, write_numbered_images
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.multi_stream import run_multi_stream
from visiondyno.measuring.server import (
    ServerRun,
    find_highest_rate,
    poisson_arrivals,
    queries_for,
    run_server,
)


@pytest.fixture
def images(tmp_path: Path) -> EncodedImages:
    return EncodedImages(write_numbered_images(tmp_path, 4))


def serve(
    images: EncodedImages, arrivals_s: np.ndarray, service_ms: float | list[float]
) -> ServerRun:
    clock = ManualClock()
    each = [service_ms] * len(arrivals_s) if isinstance(service_ms, float) else service_ms
    model = TimedModel(
        clock, preprocess_ms=0, inference_ms=lambda query: each[query], postprocess_ms=0
    )

    def sleep(seconds: float) -> None:
        clock.pass_ms(seconds * 1000)

    def ticking() -> int:
        clock.pass_ms(0.0001)  # so that the spin at the end of a wait comes to an end
        return clock()

    return run_server(
        model,
        images,
        itertools.cycle(range(len(images))),
        arrivals_s,
        clock=ticking,
        sleep=sleep,
    )


def queue_latencies_ms(arrivals_s: np.ndarray, service_ms: list[float]) -> list[float]:
    """Lindley's recursion: what a single server in order of arrival gives."""
    free_ms, latencies = 0.0, []
    for arrival_s, service in zip(arrivals_s, service_ms, strict=True):
        free_ms = max(free_ms, arrival_s * 1000) + service
        latencies.append(free_ms - arrival_s * 1000)
    return latencies


def test_an_idle_server_answers_in_its_service_time(images: EncodedImages) -> None:
    run = serve(images, np.array([0.0, 1.0, 2.0]), 10.0)
    assert run.latencies_ms == pytest.approx([10, 10, 10], abs=0.01)
    assert run.waits_ms == pytest.approx([0, 0, 0], abs=0.01)
    assert run.elapsed_s == pytest.approx(2.01, abs=0.001)


def test_queries_behind_a_slow_one_wait_and_the_waiting_counts(images: EncodedImages) -> None:
    run = serve(images, np.array([0.0, 0.01, 0.02, 0.5]), [100.0, 10.0, 10.0, 10.0])
    assert run.latencies_ms == pytest.approx([100, 100, 100, 10], abs=0.01)
    assert run.waits_ms == pytest.approx([0, 90, 90, 0], abs=0.01)


def test_an_overload_grows_without_bound(images: EncodedImages) -> None:
    # 200 a second arrive, 100 a second are served: the last of 400 waits for two seconds.
    run = serve(images, np.arange(400) / 200, 10.0)
    assert run.latencies_ms[-1] == pytest.approx(400 * 10 - 399 * 5, abs=1)


@given(
    gaps=st.lists(st.floats(0, 0.05), min_size=1, max_size=40),
    service=st.lists(st.floats(0.5, 60), min_size=40, max_size=40),
)
@settings(max_examples=40, deadline=None)
def test_any_schedule_gives_lindleys_recursion(
    gaps: list[float], service: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    images = EncodedImages(write_numbered_images(tmp_path_factory.mktemp("images"), 1))
    arrivals_s = np.cumsum(gaps)
    service = service[: len(gaps)]
    run = serve(images, arrivals_s, service)
    assert run.latencies_ms == pytest.approx(queue_latencies_ms(arrivals_s, service), abs=0.05)


def test_arrivals_are_poisson_and_follow_the_seed() -> None:
    arrivals = poisson_arrivals(50.0, 20_000, seed=1)
    gaps = np.diff(arrivals)
    assert arrivals[0] == 0
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.03)  # exponential: mean = deviation
    np.testing.assert_array_equal(arrivals, poisson_arrivals(50.0, 20_000, seed=1))
    assert not np.array_equal(arrivals, poisson_arrivals(50.0, 20_000, seed=2))


def test_a_run_has_enough_queries_for_p99() -> None:
    assert queries_for(10, 5) == 662
    assert queries_for(1000, 5) == 5000


def test_few_queries_never_hold_a_limit() -> None:
    quick = tuple([1.0] * 661)
    assert not ServerRun(quick, quick, 1.0).holds(50)
    assert ServerRun((*quick, 1.0), (*quick, 1.0), 1.0).holds(50)
    slow = (*quick[:600], *[80.0] * 400)
    assert not ServerRun(slow, slow, 1.0).holds(50)


@pytest.mark.parametrize("limit_ms", [30.0, 60.0, 200.0])
def test_the_search_ends_between_a_rate_that_holds_and_one_that_does_not(
    limit_ms: float,
) -> None:
    service = 10.0

    def run_at(rate: float) -> ServerRun:
        arrivals = poisson_arrivals(rate, 2000, seed=0)
        latencies = queue_latencies_ms(arrivals, [service] * 2000)
        return ServerRun(tuple(latencies), tuple(latencies), 1.0)

    found = find_highest_rate(run_at, limit_ms=limit_ms, capacity_per_s=1000 / service)
    assert found.best_rate_per_s is not None
    assert found.best is not None
    assert found.best.holds(limit_ms)
    failed = [rate for rate, held in found.probes if not held]
    assert found.best_rate_per_s == max(rate for rate, held in found.probes if held)
    assert min(failed, default=100.0) <= found.best_rate_per_s * 1.03


def test_a_limit_under_the_service_time_finds_no_rate() -> None:
    def run_at(rate: float) -> ServerRun:
        return ServerRun((50.0,) * 700, (0.0,) * 700, 1.0)

    found = find_highest_rate(run_at, limit_ms=40.0, capacity_per_s=20.0)
    assert found.best is None
    assert found.best_rate_per_s is None
    assert len(found.probes) <= 7


def test_multi_stream_answers_eight_images_a_query(images: EncodedImages) -> None:
    clock = ManualClock()
    model = TimedModel(clock, preprocess_ms=1, inference_ms=lambda _: 40.0, postprocess_ms=2)
    order = itertools.cycle(range(4))
    latencies = run_multi_stream(model, images, order, duration_s=4.0, clock=clock)
    assert set(latencies) == {43.0}
    assert set(model.batch_sizes) == {8}
    assert len(latencies) == 280  # 662 would take longer than three durations
