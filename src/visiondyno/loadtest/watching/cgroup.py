"""Watches a cgroup of this machine: a container, a systemd unit, a pod."""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from visiondyno.errors import NotFound, SpecError
from visiondyno.loadtest.watching.base import Clock, CounterSum, Reading, SamplingWatcher
from visiondyno.probes.kernel_files import ROOT, read_fields, read_int

_V1_CPU = ("cpuacct", "cpu,cpuacct", "cpuacct,cpu")
"""Folders under which version 1 mounts the counter of processor time."""
_TREES = frozenset({*_V1_CPU, "cpu", "memory", "blkio", "cpuset", "pids", "systemd", "unified"})
_MARK_COUNTS = "page cache of its files and the kernel's own pages for it counted"


@dataclass(frozen=True, slots=True)
class CgroupFiles:
    """Where a group's figures lie; None where it has no such file.

    Attributes:
        cpu: `cpu.stat` (version 2) or `cpuacct.usage` (version 1).
        memory: `memory.current` or `memory.usage_in_bytes`.
        peak: `memory.peak` or `memory.max_usage_in_bytes`, the kernel's own high-water mark.
    """

    cpu: Path | None
    memory: Path | None
    peak: Path | None

    def cpu_s(self) -> float | None:
        """Processor seconds of all its processes, the ended ones too, since it was made."""
        if self.cpu is None:
            return None
        if self.cpu.name == "cpu.stat":
            usage_us = read_fields(self.cpu).get("usage_usec")
            return None if usage_us is None else usage_us / 1e6
        usage_ns = read_int(self.cpu)
        return None if usage_ns is None else usage_ns / 1e9


def find_cgroup(path: str, root: Path = ROOT) -> CgroupFiles:
    """The files of a group that is named by its folder.

    Args:
        path: absolute, or below `/sys/fs/cgroup` (as `/proc/PID/cgroup` has it). Of version 1,
            which has one tree for each controller, the folder in any of them.
        root: the folder that holds `sys`.

    Raises:
        NotFound: there is no such folder.
        SpecError: the folder is no group's.
    """
    mounted = root / "sys/fs/cgroup"
    inside = path.lstrip("/")
    named = [Path(path), mounted / inside, mounted / "memory" / inside]
    folders = [folder for folder in named if folder.is_absolute() and folder.is_dir()]
    if not folders:
        raise NotFound(
            f"There is no cgroup '{path}': neither a folder of that name, nor one under {mounted}. "
            "`cat /proc/PID/cgroup` shows the group of a process."
        )
    for folder in folders:
        found = _files(folder)
        if found.cpu is not None or found.memory is not None:
            return found
    raise SpecError(
        f"The folder '{path}' is no cgroup with figures: it has neither cpu.stat nor "
        "memory.current (version 2), nor cpuacct.usage or memory.usage_in_bytes (version 1)."
    )


def _files(folder: Path) -> CgroupFiles:
    """Version 2's where they are; version 1's, each in its tree, for what is missing."""
    cpu = folder / "cpu.stat"
    if "usage_usec" not in read_fields(cpu):
        cpu = _in_tree(folder, _V1_CPU, "cpuacct.usage")
    memory = folder / "memory.current"
    if memory.exists():
        peak = folder / "memory.peak"
    else:
        memory = _in_tree(folder, ("memory",), "memory.usage_in_bytes")
        peak = memory.with_name("memory.max_usage_in_bytes")
    return CgroupFiles(*(file if file.exists() else None for file in (cpu, memory, peak)))


def _in_tree(folder: Path, trees: tuple[str, ...], file: str) -> Path:
    """The file of the same group in another tree of version 1; one that isn't there where none is.

    `/sys/fs/cgroup/memory/docker/1` and `/sys/fs/cgroup/cpuacct/docker/1` are one group.
    """
    for tree in (folder, *folder.parents):
        if tree.name in _TREES:
            inside = folder.relative_to(tree)
            for other in trees:
                if (found := tree.parent / other / inside / file).exists():
                    return found
    return folder / file


class CgroupWatcher(SamplingWatcher):
    """Processor time and memory of all processes of a group, those that ended counted.

    Peak memory is the kernel's mark where it can be told to be of this window: Linux 6.12 gives
    each reader a mark of its own, which is set back at the start; elsewhere a mark that rose in the
    window is the window's. Setting back the one common mark would take it from others who read it,
    so that isn't done. Else the peak is that of the samples.
    """

    def __init__(
        self, path: str, interval_s: float = 1.0, clock: Clock | None = None, root: Path = ROOT
    ) -> None:
        super().__init__(interval_s, clock)
        self._path = path
        self._root = root
        self._files = CgroupFiles(None, None, None)
        self._cpu = CounterSum()
        self._own_mark: int | None = None
        self._mark_before: int | None = None

    @property
    def cpu_method(self) -> str:  # type: ignore[override]  # known once a file was found
        """Which file is read."""
        name = self._files.cpu.name if self._files.cpu is not None else "cpu.stat"
        return f"{name} of the cgroup"

    async def check(self) -> None:
        await asyncio.to_thread(find_cgroup, self._path, self._root)

    async def _open(self) -> None:
        self._cpu = CounterSum()
        self._own_mark = self._mark_before = None
        try:
            self._files = find_cgroup(self._path, self._root)
        except (NotFound, SpecError):
            # Gone since `check`; every reading says so.
            self._files = CgroupFiles(None, None, None)
            return
        if self._files.peak is not None:
            self._mark_before = read_int(self._files.peak)
            self._own_mark = _own_mark(self._files.peak)

    async def _close(self) -> None:
        if self._own_mark is not None:
            os.close(self._own_mark)
            self._own_mark = None

    async def _read(self) -> Reading:
        return await asyncio.to_thread(self._look_at_files)

    def _look_at_files(self) -> Reading:
        cpu_s, cpu_problem = self._files.cpu_s(), None
        if cpu_s is None:
            cpu_problem = self._lacks(self._files.cpu, "cpu.stat (usage_usec) or cpuacct.usage")
        memory_bytes, memory_problem = None, None
        if self._files.memory is not None:
            memory_bytes = read_int(self._files.memory)
        if memory_bytes is None:
            memory_problem = self._lacks(
                self._files.memory, "memory.current or memory.usage_in_bytes"
            )
        return Reading(
            cpu_s=None if cpu_s is None else self._cpu.read({"cpu": cpu_s}),
            memory_bytes=memory_bytes,
            cpu_problem=cpu_problem,
            memory_problem=memory_problem,
        )

    def _lacks(self, file: Path | None, names: str) -> str:
        if file is not None:
            return f"{file} can't be read (any more), or holds no number"
        return f"the cgroup {self._path} has no {names}"

    def _source(self) -> str:
        files = (self._files.cpu, self._files.memory)
        names = " and ".join(str(file) for file in files if file is not None)
        return f"cgroup {self._path}: {names or 'nothing to be read'}; memory with {_MARK_COUNTS}"

    def _peak(self, highest_bytes: int, readings: int) -> tuple[int, str]:
        samples = f"highest of {readings} samples of the group's memory, {_MARK_COUNTS}"
        if self._files.peak is None:
            return highest_bytes, f"{samples} (the kernel keeps no mark here)"
        name = self._files.peak.name
        if self._own_mark is not None and (mark := _read_again(self._own_mark)) is not None:
            how = f"{name}, set back at the start: the kernel's own mark, {_MARK_COUNTS}"
            return max(mark, highest_bytes), how
        mark = read_int(self._files.peak)
        if mark is not None and self._mark_before is not None and mark > self._mark_before:
            how = f"{name}, which rose in the window: the kernel's own mark, {_MARK_COUNTS}"
            return mark, how
        return highest_bytes, f"{samples} ({name} is of an earlier, higher peak)"


def _own_mark(peak: Path) -> int | None:
    """A descriptor whose mark is set back now, for it alone; None where the kernel has none.

    cgroup-v2.rst, memory.peak: a write of any string sets back what is read through the same
    descriptor. Version 1's file would set back everybody's.
    """
    if peak.name != "memory.peak":
        return None
    try:
        descriptor = os.open(peak, os.O_RDWR)
    except OSError:
        return None
    try:
        os.write(descriptor, b"reset")
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _read_again(descriptor: int) -> int | None:
    with suppress(OSError, ValueError):
        return int(os.pread(descriptor, 64, 0))
    return None
