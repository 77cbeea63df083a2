"""Requests held to an endpoint's quotas, so that they wait here and aren't refused there."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType

WINDOW_S = 10.0
"""What a quota's number of requests is for."""
_SHORTEST_SLEEP_S = 0.001


@dataclass(frozen=True, slots=True)
class Quota:
    """What one route takes.

    Attributes:
        requests: in any 10 s, at least 1.
        at_once: under way at a time, from 1 to `requests`; None for no further limit.
    """

    requests: int
    at_once: int | None = None


RUNPOD_QUOTAS: Mapping[str, Quota] = MappingProxyType(
    {
        "run": Quota(1000, 200),
        "runsync": Quota(2000, 400),
        "status": Quota(2000, 400),
        "stream": Quota(2000, 400),
        "cancel": Quota(100, 20),
        "purge-queue": Quota(2),
    }
)
"""By route; from https://docs.runpod.io/serverless/endpoints/operation-reference, 2026-11. RunPod
allows more where many workers run, and states nothing for other routes."""


class Throttle:
    """Holds requests to quotas, each route apart, in the order in which they were asked for.

    A bucket of tokens for each route: a request takes one, which comes back 10 s after the
    request's *end*. The endpoint sees it at some time between beginning and end; so no 10 s of the
    endpoint's own time hold more than the quota, however long requests are on their way. A bucket
    that refills evenly would let through up to twice as many.

    It knows of the requests that pass through it alone: executors of one endpoint in one event
    loop can share one; several processes can't.

    Args:
        quotas: by route; routes without one aren't held.
        clock: seconds.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        quotas: Mapping[str, Quota] = RUNPOD_QUOTAS,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._lanes = {route: _Lane(quota, clock, sleep) for route, quota in quotas.items()}

    @asynccontextmanager
    async def turn(self, route: str) -> AsyncIterator[None]:
        """One request to `route`, from when it may begin; its end gives the place back."""
        lane = self._lanes.get(route)
        if lane is None:
            yield
            return
        await lane.enter()
        try:
            yield
        finally:
            lane.leave()


class _Lane:
    def __init__(
        self, quota: Quota, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._quota = quota
        self._clock = clock
        self._sleep = sleep
        self._head = asyncio.Lock()  # wakes in the order of coming
        self._places = asyncio.Semaphore(quota.at_once or quota.requests)
        self._under_way = 0
        self._ended_s: deque[float] = deque()

    async def enter(self) -> None:
        async with self._head:
            await self._places.acquire()
            try:
                await self._token()
            except BaseException:
                self._places.release()
                raise
            self._under_way += 1

    def leave(self) -> None:
        self._under_way -= 1
        self._ended_s.append(self._clock())
        self._places.release()

    async def _token(self) -> None:
        while True:
            now_s = self._clock()
            while self._ended_s and now_s - self._ended_s[0] >= WINDOW_S:
                self._ended_s.popleft()
            if self._under_way + len(self._ended_s) < self._quota.requests:
                return
            # Fewer are under way than the quota, for there is a place: some have ended.
            await self._sleep(max(self._ended_s[0] + WINDOW_S - now_s, _SHORTEST_SLEEP_S))
