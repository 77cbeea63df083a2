"""Watches a process of this machine, with its children."""

import asyncio
import os
from pathlib import Path

from visiondyno.errors import NotFound, Unavailable
from visiondyno.loadtest.watching.base import Clock, Reading, SamplingWatcher
from visiondyno.loadtest.watching.process_tree import ProcessTree
from visiondyno.probes.kernel_files import ROOT

_PSS = "PSS, shared pages divided among their users"
_RSS = "RSS, shared pages counted once for each process (PSS can't be read of all of them)"


class PidWatcher(SamplingWatcher):
    """Processor time and memory of a process and whatever it starts.

    Memory is PSS where the kernel lets it be read of each process throughout the window (its own
    user's processes, or as root), else RSS. The kernel's own mark of a process (VmHWM) isn't used:
    it counts the process' whole life, another process' mark isn't ours to set back, and marks of
    several processes can't be added. So the peak is that of the samples.
    """

    cpu_method = "user and system time in /proc of the process and its children"

    def __init__(
        self, pid: int, interval_s: float = 1.0, clock: Clock | None = None, root: Path = ROOT
    ) -> None:
        super().__init__(interval_s, clock)
        self._pid = pid
        self._root = root
        self._tree = ProcessTree(pid, root)
        self._is_shared_aware = True

    async def check(self) -> None:
        if not (self._root / "proc").is_dir() or not os.access(self._root / "proc/stat", os.R_OK):
            raise Unavailable(
                f"Processes can't be watched here: {self._root / 'proc'} isn't Linux's. "
                "Watch the target by its metrics (prometheus) instead."
            )
        if await asyncio.to_thread(ProcessTree(self._pid, self._root).read) is None:
            raise NotFound(
                f"No process of this machine has the number {self._pid}; give the number of the "
                "target's first process, as `ps` shows it."
            )

    async def _open(self) -> None:
        self._tree = ProcessTree(self._pid, self._root)
        self._is_shared_aware = True

    async def _close(self) -> None:
        """Nothing is kept open."""

    async def _read(self) -> Reading:
        found = await asyncio.to_thread(self._tree.read)
        if found is None:
            gone = f"the process {self._pid} isn't there (any more), and none of its children is"
            return Reading(cpu_problem=gone, memory_problem=gone)
        if found.pss_bytes is None:
            self._is_shared_aware = False
        return Reading(found.cpu_s, found.rss_bytes, found.pss_bytes)

    def _memory(self, reading: Reading) -> int | None:
        return reading.pss_bytes if self._is_shared_aware else reading.memory_bytes

    def _source(self) -> str:
        return f"process {self._pid} and its children in /proc: processor time and {self._size}"

    def _peak(self, highest_bytes: int, readings: int) -> tuple[int, str]:
        return highest_bytes, f"highest of {readings} samples of {self._size}"

    @property
    def _size(self) -> str:
        return _PSS if self._is_shared_aware else _RSS
