"""What a server exports at `/metrics`, in Prometheus' format; every name is in docs/serving.md."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from visiondyno.api.deferred import Deferred
from visiondyno.errors import Unavailable
from visiondyno.probes.nvml import Nvml, cuda_index
from visiondyno.serving.replicas import Readiness
from visiondyno.serving.wire import Stages

_STAGE_BUCKETS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3),
    *(0.5, 0.75, 1, 2.5, 5, 10, 30, 60),
)
_START_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120, 300)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
_SMOOTHING = 0.1

OUTCOMES = ("ok", "client_error", "rejected", "time_limit", "server_error", "gone")


class Watched(Protocol):
    """What is asked at each scrape: the pool, and the server's connections."""

    @property
    def depth(self) -> int:
        """Items that wait."""

    @property
    def in_flight(self) -> int:
        """Items that replicas have."""

    def states(self) -> Mapping[str, int]:
        """Replicas by state."""

    def processes(self) -> Mapping[str, int]:
        """Process ids of replicas by name."""


class ServingMetrics:
    """Counts and times of one server. All methods on the event loop but the scrape itself."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self.registry = registry
        self._deferred = Deferred(registry)
        self._model = model
        self._service_s = 0.0
        items = Counter(
            "visiondyno_inference_items",
            "Images (and tensors) asked for, by how they ended.",
            ("model", "outcome"),
            registry=registry,
        )
        self._outcomes = {outcome: items.labels(model, outcome) for outcome in OUTCOMES}
        seconds = Histogram(
            "visiondyno_inference_seconds",
            "Time of an item by stage; the stages of a batch count for each of its items.",
            ("model", "stage"),
            buckets=_STAGE_BUCKETS_S,
            registry=registry,
        )
        stages = ("total", "queue", "decode", "preprocess", "inference", "postprocess")
        self._seconds = {stage: seconds.labels(model, stage) for stage in stages}
        self._batch = Histogram(
            "visiondyno_inference_batch_size",
            "Items that shared an inference.",
            ("model",),
            buckets=_BATCH_BUCKETS,
            registry=registry,
        ).labels(model)
        self._starts = Histogram(
            "visiondyno_cold_start_seconds",
            "Time of a replica's start by phase: process, load, first_inference, and the total.",
            ("phase",),
            buckets=_START_BUCKETS_S,
            registry=registry,
        )
        self._deaths = Counter(
            "visiondyno_replica_deaths",
            "Replicas that ended without being asked to.",
            registry=registry,
        )
        self._replica_items = Counter(
            "visiondyno_replica_items", "Items answered.", ("replica",), registry=registry
        )
        self._refused = Counter(
            "visiondyno_connections_refused",
            "Connections refused because too many were open.",
            registry=registry,
        )
        ProcessCollector(registry=registry)

    def started(self, readiness: Readiness) -> None:
        """A replica became ready."""
        for phase in ("total", "process", "load", "first_inference"):
            self._starts.labels(phase).observe(getattr(readiness, f"{phase}_ms") / 1e3)

    def died(self) -> None:
        """A replica ended without being asked to."""
        self._deaths.inc()

    def given(self, items: int) -> None:
        """A batch went to a replica."""
        self._deferred.later(self._batch.observe, items)

    def answered(self, replica: str, items: int, took_s: float) -> None:
        """A batch came back after `took_s` at its replica."""
        self._deferred.later(self._count_items, replica, items)
        each_s = took_s / items
        self._service_s += (each_s - self._service_s) * (_SMOOTHING if self._service_s else 1.0)

    def _count_items(self, replica: str, items: int) -> None:
        self._replica_items.labels(replica).inc(items)

    def seconds_for(self, items: int, replicas: int) -> float:
        """About how long so many items take, by those of late; at least 1 s."""
        return max(1.0, items * self._service_s / max(1, replicas))

    def ended(self, outcome: str, items: int = 1) -> None:
        """Items ended in one of `OUTCOMES`."""
        self._deferred.later(self._outcomes[outcome].inc, items)

    def timed(self, stages: Stages, queue_ms: float, total_ms: float) -> None:
        """Where an answered item's time went."""
        self._deferred.later(self._observe, stages, queue_ms, total_ms)

    def _observe(self, stages: Stages, queue_ms: float, total_ms: float) -> None:
        seconds = self._seconds
        seconds["total"].observe(total_ms / 1e3)
        seconds["queue"].observe(queue_ms / 1e3)
        seconds["decode"].observe(stages.decode_ms / 1e3)
        seconds["preprocess"].observe(stages.preprocess_ms / 1e3)
        seconds["inference"].observe(stages.inference_ms / 1e3)
        seconds["postprocess"].observe(stages.postprocess_ms / 1e3)

    def refused_connection(self) -> None:
        """One connection too many."""
        self._refused.inc()

    def watch(
        self,
        watched: Watched,
        limits: Mapping[str, int],
        queue_limit: int,
        model: Mapping[str, Any],
        connections: "Connections",
    ) -> None:
        """Export what is asked of these at each scrape, and what the model is."""
        facts = {name: str(model[name]) for name in ("digest", "runtime", "device", "precision")}
        self.registry.register(
            _Snapshot(watched, limits, queue_limit, {"model": self._model, **facts}, connections)
        )


class Connections(Protocol):
    """Tells how many connections are open."""

    def __len__(self) -> int: ...


class _Snapshot(Collector):
    """Gauges as they are at the moment of the scrape."""

    def __init__(
        self,
        watched: Watched,
        limits: Mapping[str, int],
        queue_limit: int,
        model: Mapping[str, str],
        connections: Connections,
    ) -> None:
        self._watched = watched
        self._limits = limits
        self._queue_limit = queue_limit
        self._model = model
        self._connections = connections
        self._gpu = _gpu_memory(model["device"])

    def describe(self) -> Iterable[Metric]:
        """None ahead: the registry then doesn't collect at registration."""
        return []

    def collect(self) -> Iterable[Metric]:
        watched = self._watched
        yield _gauge("visiondyno_inference_queue_depth", "Items that wait.", watched.depth)
        yield _gauge(
            "visiondyno_inference_queue_limit", "Items that may wait; more is a 429.",
            self._queue_limit,
        )  # fmt: skip
        yield _gauge(
            "visiondyno_inference_in_flight", "Items that replicas have.", watched.in_flight
        )
        yield _gauge("visiondyno_connections", "Connections open.", len(self._connections))
        yield _labelled("visiondyno_replicas", "Replicas by state.", "state", watched.states())
        yield _labelled(
            "visiondyno_replicas_limit", "The least and most replicas.", "bound", self._limits
        )
        info = GaugeMetricFamily(
            "visiondyno_model_info", "The model that is served.", labels=list(self._model)
        )
        info.add_metric(list(self._model.values()), 1.0)
        yield info
        yield from self._of_replicas()

    def _of_replicas(self) -> Iterable[Metric]:
        cpu = CounterMetricFamily(
            "visiondyno_replica_cpu_seconds",
            "Processor time of the replica's process; begins anew with a new process.",
            labels=["replica"],
        )
        resident = GaugeMetricFamily(
            "visiondyno_replica_resident_bytes",
            "Resident memory of the replica's process.",
            labels=["replica"],
        )
        gpu = GaugeMetricFamily(
            "visiondyno_replica_gpu_memory_used_bytes",
            "Memory in use on the replica's whole GPU, where it can be measured.",
            labels=["replica"],
        )
        for name, pid in self._watched.processes().items():
            try:
                process = psutil.Process(pid)
                with process.oneshot():
                    times, memory = process.cpu_times(), process.memory_info()
            except psutil.Error:
                continue  # it ended a moment ago
            cpu.add_metric([name], times.user + times.system)
            resident.add_metric([name], memory.rss)
            if self._gpu is not None:
                gpu.add_metric([name], self._gpu())
        yield from (cpu, resident, gpu)


def _gpu_memory(device: str) -> Any:
    """Reads the memory in use on that device; None where it isn't a GPU, or can't be asked."""
    index = cuda_index(device)
    if index is None:
        return None
    try:
        return Nvml().device(index).used_bytes
    except Unavailable:
        return None


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
