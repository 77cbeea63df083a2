"""The first page: what waits, what runs, who works, what came lately."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from visiondyno.dashboard.charts import sparkline
from visiondyno.dashboard.live import Regions
from visiondyno.dashboard.site import Site, base_of
from visiondyno.dashboard.throughput import BUCKET_S, BUCKETS, Throughput
from visiondyno.errors import Unavailable
from visiondyno.executors.workers import WorkerInfo
from visiondyno.job import JobState
from visiondyno.store.records import JobFilter, JobRecord

KEEP_S = 0.9
"""All viewers share one look at the service for so long."""

READINESS_KEEP_S = 5.0
"""Readiness writes to the store and asks the disk: seldom enough."""

LATEST = 8


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The service at one moment.

    Attributes:
        counts: jobs by state.
        oldest_at: since when the oldest waiting job waits, seconds since the epoch, or None.
        workers: None where the queue can't be asked.
        troubles: what isn't ready, as sentences, by check.
    """

    counts: dict[JobState, int]
    oldest_at: float | None
    workers: Sequence[WorkerInfo] | None
    latest: Sequence[JobRecord]
    troubles: dict[str, str]

    @property
    def busy(self) -> int:
        """Workers that run a job."""
        return sum(worker.job_id is not None for worker in self.workers or ())

    @property
    def total(self) -> int:
        """All jobs that the store knows."""
        return sum(self.counts.values())


class Overview:
    """Reads the service for the overview, once for all viewers."""

    def __init__(self, site: Site, throughput: Throughput) -> None:
        self._site = site
        self._throughput = throughput
        self._lock = asyncio.Lock()
        self._snapshot: Snapshot | None = None
        self._read_s = 0.0
        self._troubles: dict[str, str] = {}
        self._checked_s: float | None = None

    async def page(self, request: Request) -> Response:
        """`GET /`."""
        # Whoever reloads wants to see what became of what they just did.
        context = self._context(request, await self._look(keep_s=0))
        return self._site.show(request, "overview.html.j2", **context)

    async def regions(self, request: Request) -> Regions:
        """The page's live parts."""
        context = self._context(request, await self._look())
        names = ("troubles", "figures", "workers", "latest")
        return Regions(
            {name: self._site.pages.region(f"overview_{name}.html.j2", **context) for name in names}
        )

    def _context(self, request: Request, snapshot: Snapshot) -> dict[str, Any]:
        ended = self._throughput.ended()
        minutes = BUCKET_S * BUCKETS // 60
        known_s = self._throughput.counted_s()
        label = (
            f"Jobs ended in each {BUCKET_S} s of the last {minutes} minutes: {ended} in all, "
            f"counted for {known_s / 60:.0f} minutes."
        )
        return {
            "base": base_of(request),
            "now": snapshot,
            "states": list(JobState),
            "ended": ended,
            "since": self._throughput.since,
            "whole_window": known_s >= BUCKET_S * BUCKETS,
            "minutes": minutes,
            "spark": sparkline(self._throughput.bars(), label),
        }

    async def _look(self, keep_s: float = KEEP_S) -> Snapshot:
        async with self._lock:
            if self._snapshot is None or time.monotonic() - self._read_s > keep_s:
                self._snapshot = await self._read()
                self._read_s = time.monotonic()
            return self._snapshot

    async def _read(self) -> Snapshot:
        jobs = self._site.service.jobs
        waited_s = await jobs.oldest_waiting_s()
        return Snapshot(
            counts=await jobs.counts(),
            # Rounded, or the same moment would look new with each reading.
            oldest_at=None if waited_s is None else round(time.time() - waited_s, 0),
            workers=await self._workers(),
            latest=await jobs.find(JobFilter(limit=LATEST)),
            troubles=await self._readiness(),
        )

    async def _workers(self) -> Sequence[WorkerInfo] | None:
        try:
            return await self._site.service.jobs.workers()
        except Unavailable:
            return None  # readiness says so in a sentence

    async def _readiness(self) -> dict[str, str]:
        now_s = time.monotonic()
        if self._checked_s is None or now_s - self._checked_s > READINESS_KEEP_S:
            checks = (await self._site.service.readiness()).checks
            self._troubles = {name: text for name, text in checks.items() if text != "ok"}
            self._checked_s = now_s
        return self._troubles
