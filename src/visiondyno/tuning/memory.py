"""How much of this machine's memory is free, for who decides how many trials run."""

import time
from collections.abc import Callable

from visiondyno.probes.slots import HostMemory, host_memory

_EVERY_S = 1.0


class FreeMemory:
    """The share of memory that can still be had, read once a second at most.

    Of the control group's limit where this process has one.

    Args:
        read: the memory now.
        clock: seconds.
    """

    def __init__(
        self,
        read: Callable[[], HostMemory] = host_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._read_s = -float("inf")
        self._share = 1.0

    def __call__(self) -> float:
        """From 0 to 1; 1 where it can't be told."""
        if self._clock() - self._read_s >= _EVERY_S:
            self._read_s = self._clock()
            memory = self._read()
            if memory.total_bytes and memory.available_bytes is not None:
                self._share = memory.available_bytes / memory.total_bytes
            else:
                self._share = 1.0
        return self._share
