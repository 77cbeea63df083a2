"""The clock every time is taken from, and how finely it ticks."""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


class Stopwatch:
    """Nanoseconds since it was made, on the monotonic clock: no jump when the wall clock is set."""

    def __init__(self, now_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._now_ns = now_ns
        self._began_ns = now_ns()

    @property
    def elapsed_ns(self) -> int:
        """Nanoseconds since it was made or restarted."""
        return self._now_ns() - self._began_ns

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was made or restarted."""
        return self.elapsed_ns / 1e9

    def restart(self) -> int:
        """Begin again at the same instant at which the returned nanoseconds ended."""
        now_ns = self._now_ns()
        elapsed_ns, self._began_ns = now_ns - self._began_ns, now_ns
        return elapsed_ns


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """How the clock behaves here.

    Attributes:
        implementation: the system call behind it, e.g. `clock_gettime(CLOCK_MONOTONIC)`.
        monotonic: it never goes back.
        resolution_ns: the smallest step above 0 that was seen between two readings.
        overhead_ns: median cost of one reading, contained in every time that is measured.
    """

    implementation: str
    monotonic: bool
    resolution_ns: int
    overhead_ns: float


def examine_clock(
    readings: int = 2000, now_ns: Callable[[], int] = time.perf_counter_ns
) -> ClockFacts:
    """Read the clock `readings` times in a row and look at the steps.

    Raises:
        ValueError: the clock did not move during all readings.
    """
    stamps = [now_ns() for _ in range(readings)]
    steps = [after - before for before, after in itertools.pairwise(stamps)]
    forward = [step for step in steps if step > 0]
    if not forward:
        raise ValueError(f"the clock stood still for {readings} readings")
    info = time.get_clock_info("perf_counter")
    return ClockFacts(
        implementation=info.implementation,
        monotonic=info.monotonic and min(steps) >= 0,
        resolution_ns=min(forward),
        overhead_ns=float(statistics.median(steps)),
    )
