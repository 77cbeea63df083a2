"""The service: everything behind the API, the dashboard and the command line, in one object."""

import asyncio
import time
from collections.abc import Callable
from typing import Self

from visiondyno.blobs.base import BlobStore
from visiondyno.executors.base import Executor
from visiondyno.service import readiness
from visiondyno.service.comparisons import ComparisonService
from visiondyno.service.housekeeping import Housekeeping
from visiondyno.service.jobs import JobService
from visiondyno.service.keys import KeyService
from visiondyno.service.readiness import Readiness
from visiondyno.service.submissions import SubmissionService
from visiondyno.service.webhooks import Webhooks, load_secret
from visiondyno.settings import Settings
from visiondyno.store.base import Store
from visiondyno.store.records import JobRecord, RecordedEvent


class Service:
    """Owns what it is given: `close` closes executor, blobs and store. For one event loop."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        executor: Executor,
        blobs: BlobStore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.store = store
        self.executor = executor
        self.blobs = blobs
        self._clock = clock
        self.jobs = JobService(settings, store.jobs, executor, clock)
        self.comparisons = ComparisonService(settings, self.jobs, store.comparisons, clock)
        self.submissions = SubmissionService(settings, self.jobs, store.submissions, blobs, clock)
        self.keys = KeyService(store.keys, clock)
        self.jobs.on_recorded(self._ring)
        self._webhooks: Webhooks | None = None
        self.housekeeping = Housekeeping(settings, store, blobs, self.jobs.recorder, clock)

    async def start(self) -> None:
        """Take up what an earlier process left: open jobs, results, deliveries.

        Raises:
            SpecError: the webhook secret is wrong, or the queue is set up wrong.
            TransportDown: the store can't be read.
        """
        secret = await asyncio.to_thread(load_secret, self.settings)
        self._webhooks = Webhooks(self.store.webhooks, self.jobs.recorder, secret, self._clock)
        await readiness.refuse_wrong_setup(self.executor)
        await self.executor.start()
        await self.jobs.start()
        await self.comparisons.start()
        await self.submissions.start()
        self._webhooks.start()
        self.housekeeping.start()

    async def close(self) -> None:
        """Stop. Jobs of durable executors go on; what was accepted is in the store."""
        await self.housekeeping.close()
        if self._webhooks is not None:
            await self._webhooks.close()
        await self.jobs.close()
        await self.executor.close()
        await self.blobs.close()
        await asyncio.to_thread(self.store.close)

    async def readiness(self) -> Readiness:
        """Whether jobs can be taken and run now, and what is missing."""
        return await readiness.look(self.settings, self.store, self.executor, self.jobs.recorder)

    async def _ring(self, record: JobRecord, _: RecordedEvent) -> None:
        if record.request.webhook is not None and self._webhooks is not None:
            self._webhooks.ring()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
