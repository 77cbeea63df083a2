"""Collects the blobs in a client's home, which nobody else does where no server runs."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection

from visiondyno.blobs.base import CollectableBlobs
from visiondyno.blobs.collect import Collected, collect_garbage, to_be_left
from visiondyno.errors import VisionDynoError
from visiondyno.job import JobState
from visiondyno.settings import Settings
from visiondyno.wiring import make_store, open_queues_of

EVERY_S = 600.0
_MARK = "collected"
_log = logging.getLogger(__name__)


class HomeBlobs:
    """Deletes what nothing refers to any more, by the server's rule: age, and quota.

    Kept are, beside what was used in the last hour: what the open jobs of this client refer to,
    which counts as a use of it every ten minutes, so that other clients keep it too; and what the
    submissions and open jobs of a server refer to that ran on this home. While a queue of this home
    holds open jobs of others, whose inputs aren't seen here, nothing is deleted.

    Of all clients of a home one collects every ten minutes. For one event loop.
    """

    def __init__(
        self,
        settings: Settings,
        blobs: CollectableBlobs,
        wanted: Callable[[], Collection[str]],
        jobs_in_queue: Callable[[], int],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is collected yet.

        Args:
            settings: which home.
            blobs: the store in it.
            wanted: SHA-256 of what the client's open jobs refer to.
            jobs_in_queue: how many of the home's queued and running jobs are the client's own.
            now: seconds since the epoch.
        """
        self._settings = settings
        self._blobs = blobs
        self._wanted = wanted
        self._jobs_in_queue = jobs_in_queue
        self._now = now
        self._mark = settings.folder / "blobs" / _MARK
        self._begun = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Collect, and again every ten minutes; the first time is waited for: it makes room."""
        if self._loop is None:
            self._loop = asyncio.create_task(self._collect_always())
        await self._begun.wait()

    async def close(self) -> None:
        """Stop."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def collect(self) -> Collected | None:
        """Collect once; None where it was done lately, or where others may need what is there.

        Raises:
            VisionDynoError: blobs, store or queue can't be read; nothing is lost.
        """
        wanted = set(self._wanted())
        for sha256 in wanted:
            await self._blobs.has(sha256)
        if not self._is_due():
            return None
        return await self._collect(wanted, to_be_left(self._settings.blobs_quota_bytes))

    async def make_room(self, size_bytes: int) -> None:
        """Delete what nobody needs until so many bytes fit into the quota, if that is possible.

        Raises:
            VisionDynoError: as `collect`.
        """
        quota_bytes = self._settings.blobs_quota_bytes
        if quota_bytes is not None:
            await self._collect(set(self._wanted()), max(0, quota_bytes - size_bytes))

    async def _collect(self, wanted: set[str], left_bytes: int | None) -> Collected | None:
        in_use = await asyncio.to_thread(self._in_use, self._jobs_in_queue())
        if in_use is None:
            return None
        self._mark.touch()
        max_age_s = self._settings.blobs_max_age_s
        return await collect_garbage(
            self._blobs, wanted | in_use, max_age_s, left_bytes, self._now()
        )

    def _is_due(self) -> bool:
        try:
            return abs(self._now() - self._mark.stat().st_mtime) >= EVERY_S
        except FileNotFoundError:
            return True

    def _in_use(self, own_jobs: int) -> set[str] | None:
        """What a server's records refer to; None where a queue holds jobs of others."""
        for queue in open_queues_of(self._settings):
            with contextlib.closing(queue):
                jobs = queue.counts().jobs
            open_jobs = jobs.get(JobState.IN_QUEUE, 0) + jobs.get(JobState.IN_PROGRESS, 0)
            if open_jobs > own_jobs:
                return None
        settings = self._settings
        if settings.database_url is None and not (settings.folder / "store.sqlite").exists():
            return set()
        from visiondyno.store.references import referenced_blobs

        with contextlib.closing(make_store(settings)) as store:
            return referenced_blobs(store)

    async def _collect_always(self) -> None:
        while True:
            try:
                await self.collect()
            except (VisionDynoError, OSError) as error:
                _log.info("the blobs of %s were not collected: %s", self._settings.folder, error)
            finally:
                self._begun.set()
            await asyncio.sleep(EVERY_S)
