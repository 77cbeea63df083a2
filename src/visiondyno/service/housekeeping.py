"""Collects blobs that nothing refers to, now and then."""

import asyncio
import logging
from collections.abc import Callable

from visiondyno.blobs.base import BlobStore, CollectableBlobs
from visiondyno.blobs.collect import Collected, collect_garbage, to_be_left
from visiondyno.errors import Unavailable
from visiondyno.service.recorder import Recorder
from visiondyno.settings import Settings
from visiondyno.store.base import Store
from visiondyno.store.references import referenced_blobs

_EVERY_S = 600.0
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
        in_use = await self._recorder.read(lambda: referenced_blobs(self._store))
        settings = self._settings
        return await collect_garbage(
            self._blobs,
            in_use,
            settings.blobs_max_age_s,
            to_be_left(settings.blobs_quota_bytes),
            self._clock(),
        )

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
