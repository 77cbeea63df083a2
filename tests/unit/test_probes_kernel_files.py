"""Kernel files as Linux lays them out: cgroup v2, v1, hybrid; memory and clock."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.probes.clock import Stopwatch, examine_clock
from visiondyno.probes.cpu import CpuProbe
from visiondyno.probes.kernel_files import (
    read_cgroup,
    read_fields,
    read_int,
    read_text,
    usable_cpus,
)
from visiondyno.probes.memory import MemoryProbe


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_cgroup_v2_takes_the_strictest_limit_on_the_way_up(tmp_path: Path) -> None:
    base = "sys/fs/cgroup"
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/team/job\n",
            f"{base}/cgroup.controllers": "cpu memory\n",
            f"{base}/team/cpu.max": "150000 100000\n",
            f"{base}/team/memory.max": "1073741824\n",
            f"{base}/team/job/cpu.max": "max 100000\n",
            f"{base}/team/job/memory.max": "max\n",
            f"{base}/team/job/memory.peak": "4096\n",
            f"{base}/team/job/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 3\n",
        },
    )
    cgroup = read_cgroup(root)
    assert (cgroup.version, cgroup.cpu_quota) == (2, 1.5)
    assert cgroup.memory_limit_bytes == 1 << 30
    assert cgroup.peak_bytes() == 4096
    assert cgroup.throttled_periods() == 3


def test_cgroup_v1_reads_each_controller_in_its_own_folder(tmp_path: Path) -> None:
    base = "sys/fs/cgroup"
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/box\n2:cpu,cpuacct:/box\n0::/\n",
            f"{base}/cpu/box/cpu.cfs_quota_us": "50000\n",
            f"{base}/cpu/box/cpu.cfs_period_us": "100000\n",
            f"{base}/cpu/box/cpu.stat": "nr_periods 0\nnr_throttled 0\n",
            f"{base}/cpu/cpu.cfs_quota_us": "-1\n",
            f"{base}/cpu/cpu.cfs_period_us": "100000\n",
            f"{base}/memory/box/memory.limit_in_bytes": "9223372036854771712\n",
            f"{base}/memory/box/memory.max_usage_in_bytes": "777\n",
        },
    )
    cgroup = read_cgroup(root)
    assert (cgroup.version, cgroup.cpu_quota, cgroup.memory_limit_bytes) == (1, 0.5, None)
    assert cgroup.peak_bytes() == 777
    assert cgroup.throttled_periods() == 0


def test_a_group_path_of_the_host_falls_back_to_the_mounted_root(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/docker-abc.scope\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu\n",
            "sys/fs/cgroup/cpu.max": "200000 100000\n",
        },
    )
    assert read_cgroup(root).cpu_quota == 2.0


def test_without_cgroups_nothing_is_limited_and_nothing_is_counted(tmp_path: Path) -> None:
    cgroup = read_cgroup(tmp_path)
    assert cgroup.version is None
    assert cgroup.cpu_quota is None
    assert cgroup.memory_limit_bytes is None
    assert cgroup.peak_bytes() is None
    assert cgroup.throttled_periods() is None


@given(affinity=st.integers(1, 512), quota=st.one_of(st.none(), st.floats(0.01, 600)))
def test_usable_cpus_is_between_one_and_the_affinity(affinity: int, quota: float | None) -> None:
    count = usable_cpus(affinity, quota)
    assert 1 <= count <= affinity
    if quota is not None and quota <= affinity:
        assert count >= quota


def test_files_that_are_absent_or_odd_are_none(tmp_path: Path) -> None:
    root = write(
        tmp_path, {"odd": "12 apples", "number": " -7\n", "fields": "A: 3 kB\nB(x) 4\nC\n"}
    )
    assert read_text(root / "absent") is None
    assert read_int(root / "odd") is None
    assert read_int(root / "number") == -7
    assert read_fields(root / "fields") == {"A": 3, "B(x)": 4}


STATUS = "Name:\tdyno\nVmPeak:\t  900 kB\nVmHWM:\t  {} kB\nVmRSS:\t  10 kB\n"
ROLLUP = (
    "5602-7ffd ---p 00000000 00:00 0    [rollup]\nRss:  100 kB\nPss:  50 kB\nPss_Anon: 9 kB\n"
    "Private_Clean:  3 kB\nPrivate_Dirty:  4 kB\n"
)


def test_memory_keeps_the_peak_from_before_the_reset(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/status": STATUS.format(800),
            "proc/self/clear_refs": "",
            "proc/self/smaps_rollup": ROLLUP,
        },
    )
    probe = MemoryProbe(root)
    probe.start()
    assert (root / "proc/self/clear_refs").read_text() == "5"
    write(root, {"proc/self/status": STATUS.format(300)})
    first = probe.stop()
    assert first["peak_rss_bytes"].value == 800 * 1024
    assert first["peak_inference_rss_bytes"].value == 300 * 1024
    assert first["pss_bytes"].value == 50 * 1024
    assert first["uss_bytes"].value == 7 * 1024
    assert first["cgroup_peak_bytes"].value is None
    # A second window of the same probe still knows the peak of the first.
    write(root, {"proc/self/status": STATUS.format(100)})
    probe.start()
    second = probe.stop()
    assert second["peak_rss_bytes"].value == 800 * 1024
    assert second["peak_inference_rss_bytes"].value == 100 * 1024


def test_memory_says_when_the_kernel_refuses_the_reset(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/self/status": STATUS.format(800)})
    probe = MemoryProbe(root)
    probe.start()
    measures = probe.stop()
    assert not (root / "proc/self/clear_refs").exists()
    assert measures["peak_rss_bytes"].value == 800 * 1024
    assert measures["peak_inference_rss_bytes"].value is None
    assert "refused" in (measures["peak_inference_rss_bytes"].reason or "")
    assert "4.14" in (measures["pss_bytes"].reason or "")


def test_memory_without_proc_has_a_reason_for_every_name(tmp_path: Path) -> None:
    probe = MemoryProbe(tmp_path)
    assert "VmHWM" in (probe.available() or "")
    probe.start()
    measures = probe.stop()
    assert set(measures) == set(probe.names)
    assert all(m.value is None and m.reason for m in measures.values())


@given(cpu_ns=st.integers(0, 10**12), wall_ns=st.integers(1, 10**12))
def test_cpu_percent_is_processor_time_over_wall_time(cpu_ns: int, wall_ns: int) -> None:
    cpu, wall = iter([5, 5 + cpu_ns]), iter([7, 7 + wall_ns])
    probe = CpuProbe(cpu_ns=lambda: next(cpu), wall_ns=lambda: next(wall))
    assert probe.available() is None
    probe.start()
    assert probe.stop()["cpu_percent"].value == pytest.approx(100 * cpu_ns / wall_ns)


def test_cpu_percent_of_no_time_is_not_zero() -> None:
    probe = CpuProbe(cpu_ns=lambda: 0, wall_ns=lambda: 0)
    probe.start()
    measure = probe.stop()["cpu_percent"]
    assert measure.value is None
    assert measure.reason


def test_stopwatch_splits_without_losing_time() -> None:
    stamps = iter([100, 150, 400, 1_000_000_150])
    watch = Stopwatch(lambda: next(stamps))
    assert watch.restart() == 50
    assert watch.elapsed_ns == 250
    assert watch.elapsed_s == 1.0


def test_clock_facts_come_from_the_steps_seen() -> None:
    stamps = iter([0, 40, 40, 120, 160, 200])
    facts = examine_clock(6, lambda: next(stamps))
    assert facts.resolution_ns == 40
    assert facts.overhead_ns == 40
    assert facts.monotonic
    with pytest.raises(ValueError, match="stood still"):
        examine_clock(3, lambda: 1)
