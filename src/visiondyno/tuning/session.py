"""What a trial has of its place: a client, its own where the place is asked over HTTP."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import SpecError
from visiondyno.executors.breaker import Breaker, BreakerReading
from visiondyno.executors.cost import Cost
from visiondyno.executors.http_api import Guards
from visiondyno.executors.runpod_cost import CostMeter
from visiondyno.executors.throttle import Throttle
from visiondyno.executors.workers import WorkerCommand
from visiondyno.places import Place, SharedEndpoint, make_executor_at
from visiondyno.settings import Settings


class Session(ABC):
    """Gives each trial a client. For one event loop."""

    is_here: bool = False
    """Whether trials take this machine's memory."""

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[AsyncClient]:
        """The client of one trial; what it submitted has ended, or is cancelled, at its end."""

    def breaker(self) -> BreakerReading | None:
        """How the place's breaker stands; None where it has none."""
        return None

    def cost(self) -> Cost | None:
        """What all trials cost up to now; None where nothing is paid, or it isn't known."""
        return None

    async def quarantine(self, worker: str) -> None:  # noqa: ARG002 - of places with such workers
        """Have a worker claim no more jobs.

        Raises:
            SpecError: this place's workers take no commands.
            VisionDynoError: it can't be told.
        """
        raise SpecError("The workers of this place take no commands.")

    async def close(self) -> None:
        """Free what is held."""
        return


class SharedClient(Session):
    """One client for all trials, of a queue or of this process, which it closes.

    Args:
        client: whose jobs have leases of their own.
        is_here: see `Session`.
    """

    def __init__(self, client: AsyncClient, *, is_here: bool) -> None:
        self._client = client
        self.is_here = is_here

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AsyncClient]:
        yield self._client

    async def quarantine(self, worker: str) -> None:
        await self._client.executor.command_worker(worker, WorkerCommand.DRAIN)

    async def close(self) -> None:
        await self._client.close()


class EndpointSession(Session):
    """A client for each trial, with an HTTP session of its own; quotas, breaker and cost are one.

    A trial whose connections break, or that is ended, takes nothing of another's along.

    Args:
        place: of a RunPod endpoint; without fallback.
        url: of that endpoint.
        settings: keys.
        meter: of the study; None where no price is known.
    """

    def __init__(self, place: Place, url: str, settings: Settings, meter: CostMeter | None) -> None:
        self._place = place
        self._settings = settings
        self._shared = SharedEndpoint(Guards(Throttle(), Breaker(url)), meter)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AsyncClient]:
        executor = make_executor_at(self._place, self._settings, self._shared)
        client = AsyncClient(executor)
        try:
            yield client
        finally:
            # The cancels of its jobs go through even where the trial itself was cancelled.
            await asyncio.shield(asyncio.ensure_future(client.close()))

    def breaker(self) -> BreakerReading | None:
        return self._shared.guards.breaker.reading()

    def cost(self) -> Cost | None:
        return None if self._shared.meter is None else self._shared.meter.total()


class ServerSession(Session):
    """A client for each trial of a server (`dyno up`), with an HTTP session of its own."""

    def __init__(self, place: Place) -> None:
        self._place = place

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AsyncClient]:
        async with AsyncClient(self._place) as client:
            yield client

    async def quarantine(self, worker: str) -> None:
        async with self.opened() as client:
            await client.executor.command_worker(worker, WorkerCommand.DRAIN)
