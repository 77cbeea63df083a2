"""Processor time of this process."""

import time
from collections.abc import Callable

from visiondyno.errors import OperationFailed
from visiondyno.measurements.measure import Measures, measured, not_measured
from visiondyno.probes.base import Probe


class CpuProbe(Probe):
    """Processor time over wall time: 100 % is one core busy all the time, 400 % is four.

    Counts every thread of this process, user and system time; no child process.
    """

    names = ("cpu_percent",)

    def __init__(
        self,
        cpu_ns: Callable[[], int] = time.process_time_ns,
        wall_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._cpu_ns = cpu_ns
        self._wall_ns = wall_ns
        self._began_ns: tuple[int, int] | None = None

    def available(self) -> str | None:
        """None: every system counts a process's own time."""
        return None

    def start(self) -> None:
        """Remember both clocks."""
        self._began_ns = self._wall_ns(), self._cpu_ns()

    def stop(self) -> Measures:
        """`cpu_percent` of the window."""
        if self._began_ns is None:
            raise OperationFailed("CpuProbe.stop needs a start before it.", "probe")
        cpu_ns, wall_ns = self._cpu_ns() - self._began_ns[1], self._wall_ns() - self._began_ns[0]
        self._began_ns = None
        if wall_ns <= 0:
            return {"cpu_percent": not_measured("cpu_percent", "the window had no length")}
        method = "CLOCK_PROCESS_CPUTIME_ID (all threads, no children) over wall time"
        return {"cpu_percent": measured("cpu_percent", 100 * cpu_ns / wall_ns, method)}
