"""Prometheus metrics: what waits and runs, how long, on which workers, and the API's requests."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from visiondyno.api.job_accounts import cost_usd, energy_joules
from visiondyno.errors import Unavailable
from visiondyno.executors.workers import WorkerInfo, WorkerState
from visiondyno.job import JobState
from visiondyno.service import Service
from visiondyno.store.records import JobRecord, RecordedEvent

_JOB_BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)


class JobMetrics:
    """Times, cost and energy of the jobs that ended while this server ran."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queued = Histogram(
            "visiondyno_job_queue_seconds",
            "Time a job waited before it first ran.",
            ("kind",),
            buckets=_JOB_BUCKETS_S,
            registry=registry,
        )
        self._ran = Histogram(
            "visiondyno_job_run_seconds",
            "Time a job's last attempt ran.",
            ("kind", "state"),
            buckets=_JOB_BUCKETS_S,
            registry=registry,
        )

        self._cost = Counter(
            "visiondyno_job_cost_usd",
            "At least what jobs cost: time on a worker × the price that their spec names.",
            ("kind",),
            registry=registry,
        )
        self._energy = Counter(
            "visiondyno_job_energy_joules",
            "Energy that jobs measured, by source: a counter of the hardware, or an estimate.",
            ("kind", "source"),
            registry=registry,
        )

    async def ended(self, job: JobRecord, recorded: RecordedEvent) -> None:
        """Observe a terminal event; what wasn't measured isn't counted."""
        answer = recorded.event.answer
        if answer is None:
            return
        if answer.delay_time_ms is not None:
            self._queued.labels(job.kind).observe(answer.delay_time_ms / 1000)
        if answer.execution_time_ms is not None:
            self._ran.labels(job.kind, answer.status).observe(answer.execution_time_ms / 1000)
        cost = cost_usd(answer)
        if cost is not None:
            self._cost.labels(job.kind).inc(cost)
        for source, joules in energy_joules(answer).items():
            self._energy.labels(job.kind, source).inc(joules)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is asked for at each scrape; None: it couldn't be read, and isn't shown."""

    jobs: dict[JobState, int] | None
    oldest_waiting_s: float | None
    workers: Sequence[WorkerInfo] | None


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        seen = self._snapshot
        yield _gauge(
            "visiondyno_up",
            "Whether the store and the queue could be asked.",
            "part",
            {"store": float(seen.jobs is not None), "queue": float(seen.workers is not None)},
        )
        if seen.jobs is not None:
            waiting = seen.jobs.get(JobState.IN_QUEUE, 0)
            yield GaugeMetricFamily("visiondyno_queue_depth", "Jobs that wait.", value=waiting)
            yield GaugeMetricFamily(
                "visiondyno_queue_oldest_seconds",
                "Age of the oldest waiting job; 0 where none waits.",
                value=seen.oldest_waiting_s or 0.0,
            )
            by_state = {str(state): float(count) for state, count in seen.jobs.items()}
            yield _gauge("visiondyno_jobs", "Jobs in the store by state.", "state", by_state)
        if seen.workers is not None:
            yield from _of_workers(seen.workers)


def _of_workers(workers: Sequence[WorkerInfo]) -> Iterable[Metric]:
    states = [worker.state for worker in workers]
    by_state = {str(state): float(states.count(state)) for state in WorkerState}
    yield _gauge("visiondyno_workers", "Workers by state.", "state", by_state)
    facts: dict[str, tuple[str, dict[str, float | None]]] = {
        "visiondyno_worker_gpu_memory_used_bytes": (
            "Memory in use on the worker's whole GPU, where it can be measured.",
            {w.name: w.gpu_memory_used_bytes for w in workers},
        ),
        "visiondyno_worker_gpu_memory_fraction": (
            "The share of the GPU's memory that the worker may take, where it is limited.",
            {w.name: w.gpu_memory_fraction for w in workers},
        ),
        "visiondyno_worker_resident_bytes": (
            "Resident memory of the worker's process, where it can be measured.",
            {w.name: w.rss_bytes for w in workers},
        ),
        "visiondyno_worker_restarts": (
            "Processes the worker's slot lost and replaced.",
            {w.name: w.restarts for w in workers},
        ),
        "visiondyno_worker_jobs_done": (
            "Jobs the worker's slot ended since its supervisor started.",
            {w.name: w.jobs_done for w in workers},
        ),
    }
    for name, (help_text, values) in facts.items():
        known = {worker: float(value) for worker, value in values.items() if value is not None}
        yield _gauge(name, help_text, "worker", known)


def _gauge(name: str, help_text: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


async def take_snapshot(service: Service) -> Snapshot:
    """What the store and the queue say now; what can't be reached is None."""
    jobs: dict[JobState, int] | None
    workers: Sequence[WorkerInfo] | None
    try:
        jobs = await service.jobs.counts()
        oldest_s = await service.jobs.oldest_waiting_s()
    except Unavailable:
        jobs, oldest_s = None, None
    try:
        workers = await service.jobs.workers()
    except Unavailable:
        workers = None
    return Snapshot(jobs=jobs, oldest_waiting_s=oldest_s, workers=workers)


router = APIRouter(tags=["operations"])


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus.

    Queue depth, age of the oldest job, jobs by state, times, workers, GPU memory, requests.
    """
    snapshot = await take_snapshot(request.app.state.service)
    now = CollectorRegistry()
    now.register(_SnapshotCollector(snapshot))
    counted: CollectorRegistry = request.app.state.metrics
    text = await asyncio.to_thread(lambda: generate_latest(counted) + generate_latest(now))
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)
