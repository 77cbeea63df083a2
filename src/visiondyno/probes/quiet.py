"""Was the machine quiet while something was timed?"""

import contextlib
import hashlib
import os
import resource
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path

from visiondyno.errors import OperationFailed
from visiondyno.probes.kernel_files import ROOT, read_cgroup, read_int, read_text


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Above any of these a machine wasn't quiet.

    Attributes:
        others_percent: processor time of other processes, share of the processors this one may
            use; 10 % of two processors is a fifth of one core.
        steal_percent: time the hypervisor gave to someone else while a task wanted to run.
        calibration_percent: by how much a fixed piece of work became slower or faster.
        throttled_periods: stops by the cgroup's quota.
        thermal_throttles: slow-downs by heat.
        min_window_s: the kernel counts in hundredths of a second; shares of a shorter window
            would be noise and aren't judged.
    """

    others_percent: float = 10.0
    steal_percent: float = 1.0
    calibration_percent: float = 5.0
    throttled_periods: int = 0
    thermal_throttles: int = 0
    min_window_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Quietness:
    """What was seen of a window.

    Attributes:
        quiet: nothing that could be read passed its threshold.
        reasons: what did, each a sentence for the report.
        readings: name with unit → value; `load_average_1min` and `cpu_pressure_percent` are shown
            and not judged, since this process's own work raises them too.
        unread: what couldn't be read here, and why; nothing is concluded from it.
    """

    quiet: bool
    reasons: tuple[str, ...]
    readings: dict[str, float]
    unread: dict[str, str] = field(default_factory=dict)


def calibrate(rounds: int = 5, now_s: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a fixed piece of hashing (16 MiB, about 10 ms), the best of `rounds`.

    The best, not the mean: it follows the processor's frequency and a neighbour on the same core,
    and passes over a moment's pre-emption, which the other readings count.
    """
    block = bytes(1 << 16)
    best_s = float("inf")
    for _ in range(rounds):
        began_s = now_s()
        digest = hashlib.sha256()
        for _ in range(256):
            digest.update(block)
        best_s = min(best_s, now_s() - began_s)
    return best_s


class QuietMonitor:
    """Compares the kernel's counters at `start` and `stop`.

    Both take 50 to 100 ms, for the calibration, outside the window. Processor time counts as other
    processes' where it was spent on a processor this process may use, by anyone but it and its
    descendants. Use it before a run too: `check_quiet`.

    Thread safety: start and stop from one thread.
    """

    def __init__(
        self,
        root: Path = ROOT,
        thresholds: Thresholds | None = None,
        calibration: Callable[[], float] = calibrate,
        now_s: Callable[[], float] = time.perf_counter,
        own_cpu_s: Callable[[], float] | None = None,
    ) -> None:
        self._root = root
        self._thresholds = thresholds or Thresholds()
        self._calibration = calibration
        self._now_s = now_s
        self._own_cpu_s = own_cpu_s or (lambda: own_tree_cpu_s(root))
        self._before: _Snapshot | None = None

    def start(self) -> None:
        """Calibrate, then read every counter."""
        calibration_s = self._calibration()
        self._before = self._snapshot(calibration_s)

    def stop(self) -> Quietness:
        """Read every counter, then calibrate again, and judge.

        Raises:
            OperationFailed: `start` wasn't called.
        """
        before, self._before = self._before, None
        if before is None:
            raise OperationFailed("QuietMonitor.stop needs a start before it.", "probe")
        after = self._snapshot(None)
        after.calibration_s = self._calibration()
        return _judge(before, after, self._thresholds)

    def _snapshot(self, calibration_s: float | None) -> "_Snapshot":
        stat = read_text(self._root / "proc/stat")
        times = None if stat is None else cpu_times_s(stat, _usable_cpus())
        load = (read_text(self._root / "proc/loadavg") or "").split()
        return _Snapshot(
            now_s=self._now_s(),
            cpu_times=times,
            own_cpu_s=self._own_cpu_s(),
            calibration_s=calibration_s,
            throttled=read_cgroup(self._root).throttled_periods(),
            thermal=_thermal_throttles(self._root),
            pressure_us=_cpu_pressure_us(self._root),
            load_average=float(load[0]) if load else None,
        )


def check_quiet(
    duration_s: float = 1.0,
    monitor: QuietMonitor | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Quietness:
    """Watch the machine while doing nothing: is it quiet enough to begin?"""
    monitor = monitor or QuietMonitor()
    monitor.start()
    sleep(duration_s)
    return monitor.stop()


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds since boot, added over some processors.

    Attributes:
        busy_s: running anything, interrupts counted.
        steal_s: wanted to run, and the hypervisor ran someone else.
        total_s: of all states.
        cpus: how many processors were added.
    """

    busy_s: float
    steal_s: float
    total_s: float
    cpus: int


def cpu_times_s(stat: str, cpus: Set[int]) -> CpuTimes | None:
    """`/proc/stat` of the processors in `cpus`; None if it lists none of them.

    Columns by proc(5): user nice system idle iowait irq softirq steal guest guest_nice; guest time
    is contained in user's and isn't added again.
    """
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    rows = []
    for line in stat.splitlines():
        label, *columns = line.split()
        number = label.removeprefix("cpu")
        if label.startswith("cpu") and number.isdigit() and int(number) in cpus:
            rows.append([int(column) * tick_s for column in columns[:8]])
    if not rows:
        return None
    total = sum(sum(row) for row in rows)
    idle = sum(row[3] + row[4] for row in rows)
    steal = sum(row[7] if len(row) > 7 else 0.0 for row in rows)
    return CpuTimes(total - idle - steal, steal, total, len(rows))


def own_tree_cpu_s(root: Path = ROOT) -> float:
    """Processor seconds so far of this process, its ended children and its living descendants.

    A child that ends moves from the living to the ended, so a difference of two readings is right
    as long as children are waited for.
    """
    own = sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    parents: dict[int, int] = {}
    spent_s: dict[int, float] = {}
    for folder in (root / "proc").glob("[0-9]*"):
        text = read_text(folder / "stat")
        if text is None:
            continue
        # The name in parentheses may hold spaces and parentheses: fields begin after the last.
        fields = text.rpartition(")")[2].split()
        pid = int(folder.name)
        parents[pid] = int(fields[1])
        spent_s[pid] = sum(int(column) for column in fields[11:15]) * tick_s
    return own + sum(spent_s[pid] for pid in _descendants(os.getpid(), parents))


def _descendants(ancestor: int, parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    frontier = {ancestor}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier} - found
        found |= frontier
    return found - {ancestor}


@dataclass(slots=True)
class _Snapshot:
    now_s: float
    cpu_times: CpuTimes | None
    own_cpu_s: float
    calibration_s: float | None
    throttled: int | None
    thermal: int | None
    pressure_us: int | None
    load_average: float | None


class _Findings:
    """Collects readings and judges each by its threshold."""

    def __init__(self) -> None:
        self.readings: dict[str, float] = {}
        self.reasons: list[str] = []
        self.unread: dict[str, str] = {}

    def add(self, name: str, value: float, threshold: float | None, reason: str) -> None:
        """`reason` is filled with the value; without a threshold nothing is judged."""
        self.readings[name] = value
        if threshold is not None and value > threshold:
            self.reasons.append(reason.format(value=value, threshold=threshold))


def _judge(before: _Snapshot, after: _Snapshot, thresholds: Thresholds) -> Quietness:
    found = _Findings()
    _judge_shares(found, before, after, thresholds)
    _judge_counters(found, before, after, thresholds)
    if before.calibration_s is not None and after.calibration_s is not None:
        slow, fast = (pick(before.calibration_s, after.calibration_s) for pick in (max, min))
        found.add(
            "calibration_drift_percent",
            100 * (slow / fast - 1),
            thresholds.calibration_percent,
            "A fixed piece of work took {value:.1f} % more or less time after the run than before "
            "(limit {threshold:g} %): the processor's speed changed.",
        )
    if after.load_average is not None:
        found.add("load_average_1min", after.load_average, None, "")
    return Quietness(not found.reasons, tuple(found.reasons), found.readings, found.unread)


def _judge_shares(
    found: _Findings, before: _Snapshot, after: _Snapshot, thresholds: Thresholds
) -> None:
    names = ("others_cpu_percent", "steal_percent")
    duration_s = after.now_s - before.now_s
    if duration_s < thresholds.min_window_s:
        reason = f"a window of {duration_s:.2f} s is too short for the kernel's counters"
        found.unread |= dict.fromkeys((*names, "cpu_pressure_percent"), reason)
        return
    old, new = before.cpu_times, after.cpu_times
    if old is None or new is None or new.total_s <= old.total_s:
        found.unread |= dict.fromkeys(names, "/proc/stat doesn't count this process's processors")
    else:
        total_s = new.total_s - old.total_s
        others_s = new.busy_s - old.busy_s - (after.own_cpu_s - before.own_cpu_s)
        found.add(
            names[0],
            100 * max(0.0, others_s) / (duration_s * new.cpus),
            thresholds.others_percent,
            "Other processes used {value:.1f} % of the processors (limit {threshold:g} %).",
        )
        found.add(
            names[1],
            100 * max(0.0, new.steal_s - old.steal_s) / total_s,
            thresholds.steal_percent,
            "The hypervisor took {value:.1f} % of the processor time (limit {threshold:g} %).",
        )
    if before.pressure_us is None or after.pressure_us is None:
        found.unread["cpu_pressure_percent"] = "the kernel has no /proc/pressure/cpu"
    else:
        waited_s = (after.pressure_us - before.pressure_us) / 1e6
        found.add("cpu_pressure_percent", 100 * waited_s / duration_s, None, "")


def _judge_counters(
    found: _Findings, before: _Snapshot, after: _Snapshot, thresholds: Thresholds
) -> None:
    if before.throttled is None or after.throttled is None:
        found.unread["throttled_periods"] = "the cgroup counts no throttling"
    else:
        found.add(
            "throttled_periods",
            after.throttled - before.throttled,
            thresholds.throttled_periods,
            "The container's processor quota stopped the run {value:.0f} times.",
        )
    if before.thermal is None or after.thermal is None:
        found.unread["thermal_throttles"] = "the kernel has no thermal_throttle counters"
    else:
        found.add(
            "thermal_throttles",
            after.thermal - before.thermal,
            thresholds.thermal_throttles,
            "The processor was slowed down by heat {value:.0f} times.",
        )


def _usable_cpus() -> Set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _thermal_throttles(root: Path) -> int | None:
    folder = root / "sys/devices/system/cpu"
    counts = [
        count
        for path in folder.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
        if (count := read_int(path)) is not None
    ]
    return sum(counts) if counts else None


def _cpu_pressure_us(root: Path) -> int | None:
    """Microseconds in which some task waited for a processor (Documentation/accounting/psi)."""
    for line in (read_text(root / "proc/pressure/cpu") or "").splitlines():
        if line.startswith("some"):
            with contextlib.suppress(ValueError):
                return int(line.rpartition("total=")[2])
    return None
