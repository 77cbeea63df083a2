"""Small files of the kernel (/proc, /sys), and what limits this process by cgroup.

Every function takes `root`, the folder that holds `proc` and `sys`: `/` on a real machine.
"""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")

_UNLIMITED_V1_BYTES = 1 << 60
"""cgroup v1 writes `no limit` as the largest multiple of a page under 2**63."""


def read_text(path: Path) -> str | None:
    """The file's text without white space around it; None where it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """The whole number a file holds; None where it can't be read or holds something else."""
    text = read_text(path)
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def read_fields(path: Path) -> dict[str, int]:
    """`name value …` or `name: value kB` lines as numbers in the file's own unit; {} if absent."""
    found = re.findall(r"^([\w()-]+):?\s+(\d+)", read_text(path) or "", re.MULTILINE)
    return {name: int(value) for name, value in found}


@dataclass(frozen=True, slots=True)
class Cgroup:
    """What cgroups allow this process.

    Attributes:
        version: 2, 1, or None where no controller was found.
        cpu_quota: processors' worth of time a second, or None without a limit.
        memory_limit_bytes: or None without a limit.
        cpu_folder: where `cpu.stat` lies, or None.
        memory_folder: where the memory files lie, or None.
    """

    version: int | None
    cpu_quota: float | None
    memory_limit_bytes: int | None
    cpu_folder: Path | None
    memory_folder: Path | None

    def peak_bytes(self) -> int | None:
        """Highest memory charged to the group: page cache and other members counted."""
        if self.memory_folder is None:
            return None
        v2 = read_int(self.memory_folder / "memory.peak")
        return v2 if v2 is not None else read_int(self.memory_folder / "memory.max_usage_in_bytes")

    def throttled_periods(self) -> int | None:
        """How often the quota has stopped the group so far; None where nobody counts."""
        if self.cpu_folder is None:
            return None
        return read_fields(self.cpu_folder / "cpu.stat").get("nr_throttled")


def read_cgroup(root: Path = ROOT) -> Cgroup:
    """The limits on this process, the strictest of its group and all groups above."""
    membership = _membership(root)
    cpu = _folders(root, "cpu", membership)
    memory = _folders(root, "memory", membership)
    version = None
    if memory or cpu:
        version = 2 if (root / "sys/fs/cgroup/cgroup.controllers").exists() else 1
    quotas = [quota for folder in cpu if (quota := _quota(folder)) is not None]
    limits = [limit for folder in memory if (limit := _limit(folder)) is not None]
    return Cgroup(
        version=version,
        cpu_quota=min(quotas, default=None),
        memory_limit_bytes=min(limits, default=None),
        cpu_folder=next((folder for folder in cpu if (folder / "cpu.stat").exists()), None),
        memory_folder=memory[0] if memory else None,
    )


def usable_cpus(affinity: int, quota: float | None) -> int:
    """Processors a process may use at once: its affinity, or its quota rounded up if smaller."""
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def usable_cpus_here(root: Path = ROOT) -> int:
    """Processors that this process may use at once."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return usable_cpus(affinity or 1, read_cgroup(root).cpu_quota)


def _membership(root: Path) -> dict[str, str]:
    """Controller → path of this process's group; the key of version 2 is the empty string."""
    groups = {}
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _folders(root: Path, controller: str, membership: dict[str, str]) -> list[Path]:
    """The process's own group and those above it that are visible, innermost first.

    Inside a container without a cgroup namespace the path is the host's and not to be found; the
    mounted root is the container's own group then.
    """
    mounted = root / "sys/fs/cgroup"
    if not (mounted / "cgroup.controllers").exists():
        mounted /= controller
        path = membership.get(controller, "/")
    else:
        path = membership.get("", "/")
    if not mounted.is_dir():
        return []
    own = mounted / path.lstrip("/")
    if not own.is_dir():
        return [mounted]
    return [own, *(parent for parent in own.parents if parent.is_relative_to(mounted))]


def _quota(folder: Path) -> float | None:
    text = read_text(folder / "cpu.max")
    if text is not None:
        quota, period = text.split()
        return None if quota == "max" else int(quota) / int(period)
    quota_us, period_us = (
        read_int(folder / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    )
    if quota_us is None or period_us is None or quota_us <= 0:
        return None
    return quota_us / period_us


def _limit(folder: Path) -> int | None:
    limit = read_int(folder / "memory.max")
    if limit is None:
        limit = read_int(folder / "memory.limit_in_bytes")
    return None if limit is None or limit >= _UNLIMITED_V1_BYTES else limit
