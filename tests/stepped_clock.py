"""A clock for tests of what waits: it stands still until it is told to go on."""

import asyncio
from collections.abc import Callable

from visiondyno.loadtest.watching.base import Clock


class SteppedClock:
    """Time moves by `advance` alone, and whoever sleeps wakes at the right moment of it."""

    def __init__(self, utc_s: float = 1_800_000_000.0) -> None:
        self.now_s = 0.0
        self._utc_s = utc_s
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now_s, self._sleep, lambda: self._utc_s + self.now_s)

    async def _sleep(self, seconds: float) -> None:
        waking = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now_s + seconds, waking))
        await waking

    async def advance(self, seconds: float) -> None:
        """Let so much time pass; returns when everybody sleeps again."""
        end_s = self.now_s + seconds
        await _settled()
        while due := [one for one in self._sleepers if one[0] <= end_s and not one[1].done()]:
            first = min(due, key=lambda one: one[0])
            self._sleepers.remove(first)
            self.now_s = max(self.now_s, first[0])
            first[1].set_result(None)
            await _settled()
        self.now_s = end_s


async def _settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class SleeplessClock:
    """Whoever sleeps wakes at once, so much later; for one who sleeps alone.

    `told` is called after every sleep with the time now.
    """

    def __init__(
        self, utc_s: float = 1_800_000_000.0, told: Callable[[float], None] | None = None
    ) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []
        self._utc_s = utc_s
        self._told = told or (lambda _: None)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now_s, self.sleep, lambda: self._utc_s + self.now_s)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        self._told(self.now_s)
        await asyncio.sleep(0)
