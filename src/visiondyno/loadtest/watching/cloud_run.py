"""Watches a Cloud Run service by what Google Cloud Monitoring keeps of it."""

import math
import re
import statistics
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime

from visiondyno.errors import OperationFailed, SpecError, VisionDynoError
from visiondyno.loadtest.watching.base import Clock, Watcher
from visiondyno.loadtest.watching.cloud_monitoring import (
    ENDPOINT,
    PERIOD_S,
    CloudMonitoring,
    Query,
    Series,
    load_credentials,
)
from visiondyno.loadtest.watching.distribution import Distribution, merge
from visiondyno.measurements.measure import Measure
from visiondyno.report.load_test import Resources, ResourceSample
from visiondyno.specs.load_test import WatchedCloudRun

LONGEST_WAIT_S = 300.0
"""Google: sampled every 60 s, and not to be seen for up to 240 s after that."""
_LOOK_EVERY_S = 15.0
_METRIC = "run.googleapis.com/container/"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_GIB = 2**30


@dataclass(slots=True)
class _Found:
    """What was told by minute (its end, seconds since 1970)."""

    cpu: dict[float, Distribution] = field(default_factory=dict)
    memory: dict[float, Distribution] = field(default_factory=dict)
    instances: dict[float, float] = field(default_factory=dict)
    startups: dict[float, Distribution] = field(default_factory=dict)

    def is_whole(self, last_minute_s: float) -> bool:
        """Whether the last minute has come; starts of instances may well be none."""
        return all(last_minute_s in told for told in (self.cpu, self.memory, self.instances))


class CloudRunWatcher(Watcher):
    """Processor, memory and instances of a service, by minute and some minutes late.

    Google tells utilisation as a share of what an instance has, so cores and bytes are share ×
    instances × what the user says an instance has, and estimates. Of a window that holds whole
    minutes of the clock those are taken; of a shorter one the minutes it lies in, which then
    contain time without load.
    """

    def __init__(
        self,
        watched: WatchedCloudRun,
        *,
        vcpus: float | None = None,
        memory_gib: float | None = None,
        on_progress: Callable[[str], None] | None = None,
        clock: Clock | None = None,
        endpoint: str = ENDPOINT,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        """Watches a service; `vcpus` and `memory_gib` are what one instance has, if known.

        Raises:
            MissingExtra: the extra `gcp` isn't installed.
            SpecError: a name holds what no name has, or there is no key file.
        """
        for name in (watched.project, watched.location, watched.service):
            if not _NAME.fullmatch(name):
                raise SpecError(f"'{name}' is no project, location or service of Google Cloud.")
        self._watched = watched
        self._vcpus = vcpus
        self._memory_gib = memory_gib
        self._on_progress = on_progress or (lambda _: None)
        self._clock = clock or Clock()
        self._longest_wait_s = longest_wait_s
        self._endpoint = endpoint
        self._credentials = load_credentials(watched.credentials_file)
        self._began: tuple[float, float] | None = None
        self._measures: dict[str, Measure] = {}

    async def check(self) -> None:
        now_s = self._clock.utc_s()
        async with self._monitoring() as monitoring:
            await monitoring.series(self._query("instance_count", now_s - 10 * PERIOD_S, now_s))

    async def start(self) -> None:
        if self._began is not None:
            raise OperationFailed("This watcher is watching already; stop it first.", "watch")
        self._began = self._clock.utc_s(), self._clock.now_s()
        self._measures = {}

    async def stop(self) -> Resources:
        if self._began is None:
            raise OperationFailed("A watcher's stop needs a start before it.", "watch")
        (utc_s, began_s), self._began = self._began, None
        window = _Minutes.of(utc_s, utc_s + self._clock.now_s() - began_s)
        problem = None
        found = _Found()
        try:
            found = await self._wait_for(window)
        except VisionDynoError as error:
            problem = error.message
        self._measures = _utilization(found, window)
        return self._resources(found, window, problem)

    def measures(self) -> dict[str, Measure]:
        """Utilisation of instances and how long they took to start, as far as it was told.

        `cpu_utilization_mean`, `cpu_utilization_p99`, `memory_utilization_mean`,
        `memory_utilization_p99` (fractions of what an instance has), `instances_mean`,
        `startup_latency_mean_ms`, `startup_latency_p99_ms`.
        """
        return dict(self._measures)

    def _monitoring(self) -> aclosing[CloudMonitoring]:
        return aclosing(
            CloudMonitoring(
                self._watched.project,
                self._credentials,
                endpoint=self._endpoint,
                sleep=self._clock.sleep,
            )
        )

    async def _wait_for(self, window: "_Minutes") -> _Found:
        """All that is told of the window once its last minute is, or as much as came in time."""
        async with self._monitoring() as monitoring:
            waiting_since_s = self._clock.now_s()
            while True:
                found = await self._ask(monitoring, window)
                waited_s = self._clock.now_s() - waiting_since_s
                if found.is_whole(window.last_s) or waited_s >= self._longest_wait_s:
                    return found
                self._on_progress(
                    f"Google shows metrics of Cloud Run some minutes late: waiting for those of "
                    f"{_time_of(window.last_s)} UTC ({waited_s:.0f} of at most "
                    f"{self._longest_wait_s:.0f} s)"
                )
                await self._clock.sleep(min(_LOOK_EVERY_S, self._longest_wait_s - waited_s))

    async def _ask(self, monitoring: CloudMonitoring, window: "_Minutes") -> _Found:
        asked = {
            name: await monitoring.series(self._query(name, window.first_s, window.end_s))
            for name in (*_DISTRIBUTIONS, "instance_count")
        }
        return _Found(
            cpu=_distributions(asked["cpu/utilizations"]),
            memory=_distributions(asked["memory/utilizations"]),
            startups=_distributions(asked["startup_latencies"]),
            instances=_sums(asked["instance_count"]),
        )

    def _query(self, name: str, start_s: float, end_s: float) -> Query:
        by_state = name == "instance_count"
        return Query(
            filter=(
                f'metric.type = "{_METRIC}{name}" AND resource.type = "cloud_run_revision" AND '
                f'resource.labels.service_name = "{self._watched.service}" AND '
                f'resource.labels.location = "{self._watched.location}"'
            ),
            start_s=start_s,
            end_s=end_s,
            aligner="ALIGN_MAX" if by_state else "ALIGN_DELTA",
            reducer="REDUCE_SUM",
            group_by=("metric.labels.state",) if by_state else (),
        )

    def _resources(self, found: _Found, window: "_Minutes", problem: str | None) -> Resources:
        minutes = [minute for minute in sorted(found.instances) if minute in window]
        samples = tuple(
            ResourceSample(
                at_s=max(0.0, minute - window.began_s),
                cpu_cores=_used(found.cpu.get(minute), found.instances[minute], self._vcpus),
                memory_bytes=_bytes(
                    _used(found.memory.get(minute), found.instances[minute], self._memory_gib)
                ),
                replicas=round(found.instances[minute]),
            )
            for minute in minutes
        )
        cores = [sample.cpu_cores for sample in samples if sample.cpu_cores is not None]
        sizes = [sample.memory_bytes for sample in samples if sample.memory_bytes is not None]
        service = f"{self._watched.service} in {self._watched.location}"
        return Resources(
            source=f"Google Cloud Monitoring of the Cloud Run service {service}, {window.words}",
            samples=samples,
            cpu_cores_mean=_estimate(
                statistics.fmean(cores) if cores else None,
                "cores",
                len(cores),
                f"mean utilisation × instances × {self._vcpus} vCPUs, mean of {window.words}",
                problem or self._why_not(found.cpu, found, self._vcpus, "vcpus"),
            ),
            peak_memory_bytes=_estimate(
                max(sizes, default=None),
                "bytes",
                len(sizes),
                f"mean utilisation × instances × {self._memory_gib} GiB, highest of {window.words}",
                problem or self._why_not(found.memory, found, self._memory_gib, "memory_gib"),
            ),
        )

    def _why_not(
        self,
        told: dict[float, Distribution],
        found: _Found,
        has: float | None,
        name: str,
    ) -> str:
        if has is None:
            return (
                "Google tells shares of what an instance has, and that isn't known; give "
                f"'{name}' in the target's pricing"
            )
        if not told or not found.instances:
            return (
                f"Google Cloud Monitoring told nothing of the service within "
                f"{self._longest_wait_s:.0f} s; see that project, location and service are right"
            )
        return "utilisation and instances weren't told of one and the same minute"


@dataclass(frozen=True, slots=True)
class _Minutes:
    """The minutes of the clock that stand for a window, by their ends.

    Attributes:
        began_s, ended_s: the window, seconds since 1970.
        first_s: where the first minute that touches it begins.
        end_s: where the last one ends.
    """

    began_s: float
    ended_s: float
    first_s: float
    end_s: float

    @classmethod
    def of(cls, began_s: float, ended_s: float) -> "_Minutes":
        first_s = math.floor(began_s / PERIOD_S) * PERIOD_S
        return cls(
            began_s,
            ended_s,
            first_s,
            max(math.ceil(ended_s / PERIOD_S) * PERIOD_S, first_s + PERIOD_S),
        )

    @property
    def has_whole_ones(self) -> bool:
        return math.ceil(self.began_s / PERIOD_S) < math.floor(self.ended_s / PERIOD_S)

    @property
    def last_s(self) -> float:
        """The end of the last minute that counts."""
        return math.floor(self.ended_s / PERIOD_S) * PERIOD_S if self.has_whole_ones else self.end_s

    def __contains__(self, minute_s: object) -> bool:
        assert isinstance(minute_s, float)
        if not self.has_whole_ones:
            return self.first_s < minute_s <= self.end_s
        return self.began_s + PERIOD_S <= minute_s <= self.ended_s

    @property
    def words(self) -> str:
        span = f"{_time_of(self.began_s)} to {_time_of(self.ended_s)} UTC"
        if self.has_whole_ones:
            return f"the whole minutes from {span}"
        return f"the minutes that {span} lies in (time without load is in them)"


_DISTRIBUTIONS = ("cpu/utilizations", "memory/utilizations", "startup_latencies")


def _time_of(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def _distributions(series: list[Series]) -> dict[float, Distribution]:
    by_minute: dict[float, list[Distribution]] = {}
    for one in series:
        for point in one.points:
            if isinstance(point.value, Distribution):
                by_minute.setdefault(point.end_s, []).append(point.value)
    merged = {minute: merge(each) for minute, each in by_minute.items()}
    return {minute: one for minute, one in merged.items() if one is not None}


def _sums(series: list[Series]) -> dict[float, float]:
    """Instances of all states (active, idle) by minute."""
    by_minute: dict[float, float] = {}
    for one in series:
        for point in one.points:
            if not isinstance(point.value, Distribution):
                by_minute[point.end_s] = by_minute.get(point.end_s, 0.0) + point.value
    return by_minute


def _used(share: Distribution | None, instances: float, has: float | None) -> float | None:
    return None if share is None or has is None else share.mean * instances * has


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else round(gib * _GIB)


def _estimate(value: float | None, unit: str, n: int, method: str, why_not: str) -> Measure:
    if value is None:
        return Measure(value=None, unit=unit, method="none", reason=why_not)
    return Measure(value=value, unit=unit, n=n, method=method, estimated=True)


def _utilization(found: _Found, window: _Minutes) -> dict[str, Measure]:
    measures = {}
    for name, unit, told in (
        ("cpu_utilization", "fraction", found.cpu),
        ("memory_utilization", "fraction", found.memory),
        # Every start in a minute that the window touches was most likely for its sake.
        ("startup_latency", "ms", found.startups),
    ):
        all_of_it = merge(one for minute, one in told.items() if unit == "ms" or minute in window)
        if all_of_it is None:
            continue
        what = f"{name} of instances in {window.words}"
        end = "_ms" if unit == "ms" else ""
        figures = {"mean": all_of_it.mean, "p99": all_of_it.quantile(0.99)}
        for figure, value in figures.items():
            if value is not None:
                measures[f"{name}_{figure}{end}"] = Measure(
                    value=value, unit=unit, n=all_of_it.count, method=f"{figure} of {what}"
                )
    counted = [count for minute, count in found.instances.items() if minute in window]
    if counted:
        measures["instances_mean"] = Measure(
            value=statistics.fmean(counted),
            unit="instances",
            n=len(counted),
            method=f"mean of active and idle instances in {window.words}",
        )
    return measures
