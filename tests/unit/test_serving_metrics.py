"""What a server exports of itself, from a pool of replicas without processes."""

import asyncio
import os
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving_stand_ins import MODEL, READINESS, Launcher, ask, new_metrics, settle, started_pool
from virtual_time import run_virtual
from visiondyno.serving.metrics import OUTCOMES, ServingMetrics
from visiondyno.serving.wire import Stages


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by name and label values, those in the order of the labels' names."""
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_stage_and_outcome_is_counted_from_the_beginning() -> None:
    metrics = new_metrics()
    found = samples(metrics.registry)
    for outcome in OUTCOMES:
        assert found["visiondyno_inference_items_total", ("m", outcome)] == 0
    metrics.ended("ok")
    metrics.ended("rejected", 3)
    metrics.timed(Stages(2.0, 1.0, 30.0, 0.5), queue_ms=4.0, total_ms=40.0)
    found = samples(metrics.registry)
    assert found["visiondyno_inference_items_total", ("m", "ok")] == 1
    assert found["visiondyno_inference_items_total", ("m", "rejected")] == 3
    seconds = {
        stage: found["visiondyno_inference_seconds_sum", ("m", stage)]
        for stage in ("total", "queue", "decode", "preprocess", "inference", "postprocess")
    }
    assert seconds == pytest.approx(
        {
            "total": 0.04,
            "queue": 0.004,
            "decode": 0.002,
            "preprocess": 0.001,
            "inference": 0.03,
            "postprocess": 0.0005,
        }
    )


def test_a_start_is_told_by_its_phases() -> None:
    metrics = new_metrics()
    metrics.started(READINESS)
    found = samples(metrics.registry)
    phases = {"total": 0.123, "process": 0.1, "load": 0.02, "first_inference": 0.003}
    for phase, seconds in phases.items():
        assert found["visiondyno_cold_start_seconds_sum", (phase,)] == pytest.approx(seconds)
        assert found["visiondyno_cold_start_seconds_count", (phase,)] == 1


def test_time_until_a_queue_is_empty_follows_the_images_of_late() -> None:
    metrics = new_metrics()
    assert metrics.seconds_for(100, 1) == 1.0  # nothing is known yet
    metrics.answered("1", 4, 2.0)
    assert metrics.seconds_for(100, 1) == pytest.approx(50.0)
    assert metrics.seconds_for(100, 5) == pytest.approx(10.0)
    assert metrics.seconds_for(100, 0) == pytest.approx(50.0)
    for _ in range(200):
        metrics.answered("1", 1, 0.1)
    assert metrics.seconds_for(100, 1) == pytest.approx(10.0, rel=0.01)


@pytest.mark.parametrize("device", ["cpu", "cuda:99"])
def test_gauges_are_as_the_pool_is_at_the_scrape(device: str) -> None:
    async def scenario() -> None:
        launcher = Launcher()
        registry = CollectorRegistry()
        pool = await started_pool(launcher, least=1, most=3)
        metrics = ServingMetrics(registry, "m")
        connections: Any = [1, 2, 3]
        limits = {"least": 1, "most": 3}
        metrics.watch(pool, limits, 100, MODEL | {"device": device}, connections)
        metrics.refused_connection()
        metrics.died()
        launcher.all[0].pid = os.getpid()  # some process that is there
        tasks = [ask(pool, one) for one in "abcdef"]
        await settle()
        found = samples(registry)
        assert found["visiondyno_inference_queue_depth", ()] == pool.depth > 0
        assert found["visiondyno_inference_in_flight", ()] == pool.in_flight > 0
        assert found["visiondyno_inference_queue_limit", ()] == 100
        assert found["visiondyno_connections", ()] == 3
        assert found["visiondyno_connections_refused_total", ()] == 1
        assert found["visiondyno_replica_deaths_total", ()] == 1
        assert found["visiondyno_replicas", ("ready",)] == 1
        assert found["visiondyno_replicas", ("starting",)] == 2
        assert found["visiondyno_replicas_limit", ("most",)] == 3
        assert found["visiondyno_model_info", (device, "d", "m", "fp32", "fake")] == 1
        assert found["visiondyno_replica_resident_bytes", ("1",)] > 1e6
        assert found["visiondyno_replica_cpu_seconds_total", ("1",)] > 0
        assert not [key for key in found if key[0].startswith("visiondyno_replica_gpu")]
        for one in tasks:
            one.cancel()
        await pool.close()

    run_virtual(scenario())


def test_a_replica_that_has_just_ended_is_left_out() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher)
        metrics = new_metrics()
        metrics.watch(pool, {"least": 1, "most": 1}, 100, MODEL, [])  # type: ignore[arg-type]
        launcher.all[0].pid = 2**22 + 1
        assert not [
            key
            for key in samples(metrics.registry)
            if key[0].startswith("visiondyno_replica_resident")
        ]
        await pool.close()

    asyncio.run(scenario())
