"""A process and whatever it starts, as the kernel tells it: processor time and memory."""

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from visiondyno.probes.kernel_files import ROOT, read_fields, read_text

_NAME_END = b") "
"""proc_pid_stat(5): the name stands in brackets and may hold anything, brackets too."""
_PARENT, _SESSION, _USER, _SYSTEM, _USER_OF_CHILDREN, _SYSTEM_OF_CHILDREN = 1, 3, 11, 12, 13, 14
_STARTED = 19
"""Places behind the name."""
_LONGEST_STAT = 4096
_TRIES = 4
"""A tree that starts and ends processes all the time is never still."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process for ever: the kernel gives a pid anew, but not with the same start."""

    pid: int
    started_ticks: int


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """One process at one moment; times in ticks of the kernel's clock (`SC_CLK_TCK`).

    Attributes:
        own: processor time of its threads, those that ended counted.
        of_children: of its children that ended and were waited for, and of theirs.
    """

    id: ProcessId
    parent_pid: int
    session: int
    own: int
    of_children: int


@dataclass(frozen=True, slots=True)
class TreeReading:
    """What all processes of the tree use.

    Attributes:
        cpu_s: processor time since the tree was first read; never falls.
        rss_bytes: resident pages, shared ones counted once for each process.
        pss_bytes: resident pages, shared ones divided among their users; None where the kernel
            doesn't let it be read of each process.
        processes: alive now.
    """

    cpu_s: float
    rss_bytes: int
    pss_bytes: int | None
    processes: int


class ProcessTree:
    """A process with its children and theirs, as they come and go.

    The kernel adds a process' time to its parent's account when the parent waits for it. So the
    sum over all accounts loses nothing of children that came and went between two readings. What
    was seen of a process whose time came to no account (nobody waited, or its parent was gone
    before it) is remembered here. A process that was once in the tree stays in it, whoever adopts
    it.
    """

    def __init__(self, pid: int, root: Path = ROOT, *, leads_session: bool = False) -> None:
        """A tree by the number of its first process.

        Args:
            pid: of the first process.
            root: the folder that holds `proc`.
            leads_session: the first process began a session, whose processes all belong to the
                tree, even one that was never seen while its parent lived.
        """
        self._proc = root / "proc"
        self._folder = str(self._proc)
        self._pid = pid
        self._session = pid if leads_session else None
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._first: ProcessId | None = None
        self._known: dict[ProcessId, ProcessTimes] = {}
        self._gone_ticks = 0
        self._first_ticks: int | None = None

    def read(self) -> TreeReading | None:
        """Look at all of them now; None where none is left, or the process was never there."""
        members = self._accounts()
        self._gone_ticks += self._lost(members)
        self._known = {process.id: process for process in members}
        if not members:
            return None
        ticks = self._gone_ticks + sum(process.own + process.of_children for process in members)
        if self._first_ticks is None:
            self._first_ticks = ticks
        sizes = [self._size(process.id.pid) for process in members]
        shared_aware = [pss for _, pss in sizes if pss is not None]
        return TreeReading(
            cpu_s=(ticks - self._first_ticks) / self._ticks_per_s,
            rss_bytes=sum(rss for rss, _ in sizes),
            pss_bytes=sum(shared_aware) if len(shared_aware) == len(sizes) else None,
            processes=len(members),
        )

    def alive(self) -> list[int]:
        """The pids of all that are alive now, those left out that nobody has waited for yet."""
        members = self._members()
        self._known |= {process.id: process for process in members}
        return [process.id.pid for process in members if not self._has_ended(process.id.pid)]

    def _has_ended(self, pid: int) -> bool:
        return self._stat(pid)[:1] in {b"", b"Z", b"X"}

    def _stat(self, pid: int) -> bytes:
        """What `stat` holds behind the name; empty where there is no such process.

        Every process of the machine is asked, in the process that sends the load: so no more is
        done than must be.
        """
        try:
            file = os.open(f"{self._folder}/{pid}/stat", os.O_RDONLY)
        except OSError:
            return b""
        try:
            return os.read(file, _LONGEST_STAT).rpartition(_NAME_END)[2]
        except ProcessLookupError:
            return b""
        finally:
            os.close(file)

    def _accounts(self) -> list[ProcessTimes]:
        """All members, none of whose time is in two accounts, or on its way from one to another.

        Children are read before their parents, so the time of one that is gone is in its parent's
        account; and one whose time went there after it was read is no longer there at the end.
        """
        found: list[ProcessTimes] = []
        for _ in range(_TRIES):
            read = [self._times(process.id.pid) for process in self._members()]
            found = [process for process in read if process is not None]
            if all(self._still(process.id) for process in found):
                break
        return found

    def _still(self, process: ProcessId) -> bool:
        now = self._times(process.pid)
        return now is not None and now.id == process

    def _members(self) -> list[ProcessTimes]:
        """Those of the tree that are there now, children before their parents."""
        everyone = self._everyone()
        children = defaultdict(list)
        for process in everyone.values():
            children[process.parent_pid].append(process)
        if self._first is None and self._pid in everyone:
            self._first = everyone[self._pid].id
        pending = [
            process
            for process in everyone.values()
            if process.id == self._first
            or process.id in self._known
            or process.session == self._session
        ]
        found: dict[ProcessId, ProcessTimes] = {}
        while pending:
            process = pending.pop(0)
            # One that is met again lies deeper than it was met before.
            found.pop(process.id, None)
            found[process.id] = process
            pending.extend(children[process.id.pid])
        return list(reversed(found.values()))

    def _everyone(self) -> dict[int, ProcessTimes]:
        found = {}
        try:
            names = os.listdir(self._folder)  # noqa: PTH208 - a Path each takes longer
        except OSError:
            return {}
        for name in names:
            if name.isdecimal() and (process := self._times(int(name))) is not None:
                found[process.id.pid] = process
        return found

    def _times(self, pid: int) -> ProcessTimes | None:
        fields = self._stat(pid).split(None, _STARTED + 1)
        if len(fields) <= _STARTED:
            return None
        return ProcessTimes(
            id=ProcessId(pid, int(fields[_STARTED])),
            parent_pid=int(fields[_PARENT]),
            session=int(fields[_SESSION]),
            own=int(fields[_USER]) + int(fields[_SYSTEM]),
            of_children=int(fields[_USER_OF_CHILDREN]) + int(fields[_SYSTEM_OF_CHILDREN]),
        )

    def _lost(self, members: list[ProcessTimes]) -> int:
        """Ticks of processes that are gone since the last look and that came to no account."""
        alive = {process.id: process for process in members}
        of_pid = {process.pid: process for process in self._known}
        owed: dict[ProcessId | None, int] = defaultdict(int)
        for process in self._known.values():
            if process.id not in alive:
                heir = self._heir(process, alive, of_pid)
                owed[heir] += process.own + process.of_children
        lost = owed.pop(None, 0)
        for heir, ticks in owed.items():
            assert heir is not None
            received = alive[heir].of_children - self._known[heir].of_children
            lost += max(0, ticks - received)
        return lost

    def _heir(
        self,
        process: ProcessTimes,
        alive: dict[ProcessId, ProcessTimes],
        of_pid: dict[int, ProcessId],
    ) -> ProcessId | None:
        """The nearest forebear that is still alive; None where there is none in the tree."""
        parent = of_pid.get(process.parent_pid)
        while parent is not None and parent not in alive:
            parent = of_pid.get(self._known[parent].parent_pid)
        return parent

    def _size(self, pid: int) -> tuple[int, int | None]:
        """RSS and PSS in bytes; of one that has just ended, nothing and nothing."""
        folder = self._proc / str(pid)
        pages = (read_text(folder / "statm") or "").split()
        if len(pages) < 2 or int(pages[1]) == 0:
            return 0, 0
        rss_bytes = int(pages[1]) * self._page_bytes
        pss = read_fields(folder / "smaps_rollup").get("Pss")
        if pss is None:
            return (0, 0) if self._has_ended(pid) else (rss_bytes, None)
        return rss_bytes, pss * 1024
