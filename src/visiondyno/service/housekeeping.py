"""Collects blobs that nothing refers to, now and then."""

import asyncio
import json
import logging
import re
from collections.abc import Callable

from visiondyno.blobs.base import BlobStore, CollectableBlobs
from visiondyno.blobs.collect import Collected, collect_garbage
from visiondyno.errors import Unavailable
from visiondyno.service.recorder import Recorder
from visiondyno.settings import Settings
from visiondyno.store.base import Store

_EVERY_S = 600.0
_ALL = 1_000_000
_REFERENCE = re.compile(r"sha256:([0-9a-f]{64})")
_log = logging.getLogger(__name__)


class Housekeeping:
    """A loop beside the service. One that fails is tried again at its next turn."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        blobs: BlobStore,
        recorder: Recorder,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._recorder = recorder
        self._clock = clock
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Collect now, and every ten minutes."""
        self._loop = asyncio.create_task(self._collect_always())

    async def close(self) -> None:
        """Stop."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def collect(self) -> Collected | None:
        """Collect once; None where the blobs are another server's to collect.

        Kept are the models of all submissions, and what the inputs of open jobs refer to.

        Raises:
            TransportDown: store or blobs can't be reached.
        """
        if not isinstance(self._blobs, CollectableBlobs):
            return None
        in_use = await self._recorder.read(self._in_use)
        settings = self._settings
        return await collect_garbage(
            self._blobs,
            in_use,
            settings.blobs_max_age_s,
            settings.blobs_quota_bytes,
            self._clock(),
        )

    def _in_use(self) -> set[str]:
        submissions = self._store.submissions.find(limit=_ALL)
        wanted = {submission.model_sha256 for submission in submissions}
        for job in self._store.jobs.open_jobs():
            wanted.update(_REFERENCE.findall(json.dumps(job.request.input)))
        return wanted

    async def _collect_always(self) -> None:
        while True:
            try:
                done = await self.collect()
                if done is not None and done.deleted:
                    _log.info("collected %d blobs, %d bytes", done.deleted, done.freed_bytes)
            except Unavailable as error:
                _log.warning("blobs were not collected: %s", error)
            except Exception:
                _log.exception("blobs were not collected")
            await asyncio.sleep(_EVERY_S)
