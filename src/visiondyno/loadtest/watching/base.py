"""The watcher seam: something that reads a target's processor time and memory during a round."""

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass

from visiondyno.errors import OperationFailed
from visiondyno.measurements.measure import Measure
from visiondyno.report.load_test import Resources, ResourceSample


class Watcher(ABC):
    """Watches one target over windows of time.

    Contract: `check` raises, in one sentence for the user, where nothing can be read at all just
    now; it is asked once, before the first window. From then on nothing is lost for want of a
    reading: `start` and `stop` never raise for a target that can't be read. A reading that fails
    makes a sample with None. A measure that no reading supports has no value and says why; it is
    never 0. `stop` closes what `start` opened, always; call it also where the round failed. `start`
    in an open window and `stop` without one raise `OperationFailed`. After `stop` a new window may
    be started, and stands for itself.

    Times of samples are seconds from `start`, never falling. The processor's mean is from the
    first counter of the window to its last, so it leaves nothing out between samples.

    Tasks: all methods from one event loop. What takes long is done in a thread, since the loop may
    be the one that sends the load.
    """

    @abstractmethod
    async def check(self) -> None:
        """See whether there is something to watch.

        Raises:
            InputError: what was named isn't there, or isn't what it was taken for.
            Unavailable: it can't be read from here just now.
        """

    @abstractmethod
    async def start(self) -> None:
        """Open the window and take the first sample."""

    @abstractmethod
    async def stop(self) -> Resources:
        """Take the last sample and close the window."""

    def measures(self) -> dict[str, Measure]:
        """What else the last closed window told, by name; most watchers have nothing."""
        return {}


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as a watcher sees it: seconds that never go back, a pause in them, and the date.

    Attributes:
        now_s: monotonic.
        sleep: for so many seconds.
        utc_s: seconds since 1970 in UTC, for those who keep the target's figures by date.
    """

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    utc_s: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the target.

    Attributes:
        cpu_s: processor seconds since some fixed moment of the window; None: not readable.
        memory_bytes: None: not readable.
        pss_bytes: memory with shared pages divided among their users, where the kernel tells it.
        replicas: None where nobody tells.
        cpu_problem, memory_problem: why it is None.
    """

    cpu_s: float | None = None
    memory_bytes: int | None = None
    pss_bytes: int | None = None
    replicas: int | None = None
    cpu_problem: str | None = None
    memory_problem: str | None = None


class CounterSum:
    """What a set of counters has grown by, together, since it was first read.

    A counter that falls began again at 0 (its process was replaced): all it shows is growth. One
    that appears later began in the window. One that is gone keeps what it had grown by.
    """

    def __init__(self) -> None:
        self._last: dict[Hashable, float] | None = None
        self._grown = 0.0

    def read(self, counters: Mapping[Hashable, float]) -> float:
        """Take the counters' values now; returns the sum of all growth so far."""
        if self._last is None:
            self._last = dict(counters)
            return 0.0
        for name, value in counters.items():
            before = self._last.get(name, 0.0)
            self._grown += value - before if value >= before else value
        self._last.update(counters)
        return self._grown


class _Window:
    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.readings: list[tuple[float, Reading]] = []
        self.looking = asyncio.Lock()
        self.ticking: asyncio.Task[None] | None = None


class SamplingWatcher(Watcher):
    """Looks every `interval_s`, at the start and at the end, and makes the record of what it saw.

    A look that takes longer than the interval leaves out the moments it missed.
    """

    cpu_method: str
    """How the processor's counter is read, for the report."""

    def __init__(self, interval_s: float = 1.0, clock: Clock | None = None) -> None:
        if interval_s <= 0:
            raise ValueError(f"interval_s must be above 0, not {interval_s}")
        self._interval_s = interval_s
        self._clock = clock or Clock()
        self._window: _Window | None = None

    @abstractmethod
    async def _open(self) -> None:
        """Forget the window before, and open what is kept open during this one."""

    @abstractmethod
    async def _read(self) -> Reading:
        """Look once; never raises for a target that can't be read."""

    @abstractmethod
    async def _close(self) -> None:
        """Close what `_open` opened."""

    @abstractmethod
    def _source(self) -> str:
        """What was read, in words."""

    @abstractmethod
    def _peak(self, highest_bytes: int, readings: int) -> tuple[int, str]:
        """Peak memory of the window and how it was found, given the highest of its readings."""

    def _memory(self, reading: Reading) -> int | None:
        """The reading's memory, once it is known what all the window's readings can tell."""
        return reading.memory_bytes

    async def start(self) -> None:
        if self._window is not None:
            raise OperationFailed("This watcher is watching already; stop it first.", "watch")
        await self._open()
        window = self._window = _Window(self._clock.now_s())
        await self._look(window)
        window.ticking = asyncio.create_task(self._tick(window))

    async def stop(self) -> Resources:
        window, self._window = self._window, None
        if window is None:
            raise OperationFailed("A watcher's stop needs a start before it.", "watch")
        try:
            # A look that is under way goes on in its thread whatever is cancelled here.
            async with window.looking:
                if window.ticking is not None:
                    window.ticking.cancel()
            if window.ticking is not None:
                await asyncio.wait({window.ticking})
            await self._look(window)
            return self._resources(window)
        finally:
            await self._close()

    async def _tick(self, window: _Window) -> None:
        ticks = 0
        while True:
            at_s = self._clock.now_s() - window.began_s
            ticks = max(ticks + 1, math.ceil(at_s / self._interval_s))
            await self._clock.sleep(max(0.0, ticks * self._interval_s - at_s))
            await self._look(window)

    async def _look(self, window: _Window) -> None:
        async with window.looking:
            reading = await self._read()
            # After the reading, as near to its counters as can be.
            window.readings.append((self._clock.now_s() - window.began_s, reading))

    def _resources(self, window: _Window) -> Resources:
        return Resources(
            source=self._source(),
            samples=self._samples(window.readings),
            cpu_cores_mean=self._cpu_mean(window.readings),
            peak_memory_bytes=self._peak_memory(window.readings),
        )

    def _samples(self, readings: list[tuple[float, Reading]]) -> tuple[ResourceSample, ...]:
        kept = list(readings)
        # Over the instant between the last tick and the stop a rate would be mostly rounding.
        if len(kept) > 2 and kept[-1][0] - kept[-2][0] < self._interval_s / 2:
            del kept[-2]
        samples = []
        before: tuple[float, float] | None = None
        for at_s, reading in kept:
            cores = None
            if reading.cpu_s is not None:
                if before is not None and at_s > before[0]:
                    cores = (reading.cpu_s - before[1]) / (at_s - before[0])
                before = at_s, reading.cpu_s
            samples.append(
                ResourceSample(
                    at_s=at_s,
                    cpu_cores=cores,
                    memory_bytes=self._memory(reading),
                    replicas=reading.replicas,
                )
            )
        return tuple(samples)

    def _cpu_mean(self, readings: list[tuple[float, Reading]]) -> Measure:
        read = [(at_s, look.cpu_s) for at_s, look in readings if look.cpu_s is not None]
        failed = _failed([look.cpu_problem for _, look in readings])
        if len(read) < 2 or read[-1][0] <= read[0][0]:
            reason = failed or "the window was too short for two readings of the counter"
            if len(read) == 1 and failed:
                reason = f"only one reading of the counter worked; {failed}"
            return Measure(value=None, unit="cores", method=self.cpu_method, reason=reason)
        (first_s, first), (last_s, last) = read[0], read[-1]
        span = f"from first to last reading, {last_s - first_s:.1f} s"
        return Measure(
            value=(last - first) / (last_s - first_s),
            unit="cores",
            n=len(read),
            method="; ".join(filter(None, (self.cpu_method, span, failed))),
        )

    def _peak_memory(self, readings: list[tuple[float, Reading]]) -> Measure:
        read = [size for _, look in readings if (size := self._memory(look)) is not None]
        failed = _failed([look.memory_problem for _, look in readings])
        if not read:
            reason = failed or "nothing was read"
            return Measure(value=None, unit="bytes", method="none", reason=reason)
        peak_bytes, method = self._peak(max(read), len(read))
        return Measure(
            value=float(peak_bytes),
            unit="bytes",
            n=len(read),
            method="; ".join(filter(None, (method, failed))),
        )


def _failed(problems: list[str | None]) -> str:
    """How many readings failed, and what the last of them said; empty where none did."""
    failed = [problem for problem in problems if problem is not None]
    if not failed:
        return ""
    return f"{len(failed)} of {len(problems)} readings failed: {failed[-1]}"
