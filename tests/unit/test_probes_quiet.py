"""Quietness from kernel counters laid out as Linux does."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import OperationFailed
from visiondyno.probes.quiet import (
    QuietMonitor,
    Quietness,
    calibrate,
    check_quiet,
    cpu_times_s,
    own_tree_cpu_s,
)

TICKS = os.sysconf("SC_CLK_TCK")
CPUS = sorted(os.sched_getaffinity(0))


def stat_text(busy_s: float, idle_s: float, steal_s: float = 0.0) -> str:
    """`/proc/stat` whose usable processors add up to the given seconds; another one is at work."""
    busy, idle, steal = (round(value * TICKS / len(CPUS)) for value in (busy_s, idle_s, steal_s))
    rows = [f"cpu{n} {busy} 0 0 {idle} 0 0 0 {steal} {busy} 0" for n in CPUS]
    return "\n".join(
        ["cpu  1 2 3 4 5 6 7 8 0 0", *rows, "cpu9999 900000 0 0 0 0 0 0 0 0 0", "intr 0"]
    )


class Machine:
    """A machine of files, and clocks that only a test moves."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now_s = 100.0
        self.own_s = 10.0
        self.calibration_s = 0.01
        self.lay(stat=stat_text(50, 50))

    def lay(self, **files: str) -> None:
        places = {
            "stat": "proc/stat",
            "loadavg": "proc/loadavg",
            "pressure": "proc/pressure/cpu",
            "cpu_stat": "sys/fs/cgroup/cpu.stat",
            "controllers": "sys/fs/cgroup/cgroup.controllers",
            "throttle": "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
        }
        for name, text in files.items():
            path = self.root / places[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def monitor(self) -> QuietMonitor:
        return QuietMonitor(
            self.root,
            calibration=lambda: self.calibration_s,
            now_s=lambda: self.now_s,
            own_cpu_s=lambda: self.own_s,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def run(machine: Machine, seconds: float = 10.0, own_s: float = 0.0, **files: str) -> Quietness:
    monitor = machine.monitor()
    monitor.start()
    machine.now_s += seconds
    machine.own_s += own_s
    machine.lay(**files)
    return monitor.stop()


def test_this_processs_own_work_is_not_noise(machine: Machine) -> None:
    count = len(CPUS)
    seen = run(machine, own_s=10 * count, stat=stat_text(50 + 10 * count, 50))
    assert seen.quiet
    assert seen.readings["others_cpu_percent"] == pytest.approx(0, abs=0.5)
    assert seen.readings["steal_percent"] == 0


def test_other_processes_are_noise(machine: Machine) -> None:
    count = len(CPUS)
    seen = run(machine, own_s=5 * count, stat=stat_text(50 + 8 * count, 50 + 2 * count))
    assert not seen.quiet
    assert seen.readings["others_cpu_percent"] == pytest.approx(30, abs=0.5)
    assert seen.reasons == ("Other processes used 30.0 % of the processors (limit 10 %).",)


def test_steal_is_noise_and_not_other_processes_work(machine: Machine) -> None:
    count = len(CPUS)
    seen = run(machine, stat=stat_text(50, 50 + 9 * count, steal_s=count))
    assert seen.readings["steal_percent"] == pytest.approx(10, abs=0.5)
    assert seen.readings["others_cpu_percent"] == pytest.approx(0, abs=0.5)
    assert "hypervisor" in seen.reasons[0]


def test_throttling_by_quota_and_by_heat_is_noise(machine: Machine) -> None:
    machine.lay(controllers="cpu\n", cpu_stat="nr_periods 5\nnr_throttled 2\n", throttle="7\n")
    seen = run(
        machine,
        stat=stat_text(50, 70),
        cpu_stat="nr_periods 9\nnr_throttled 5\n",
        throttle="8\n",
    )
    assert seen.readings["throttled_periods"] == 3
    assert seen.readings["thermal_throttles"] == 1
    assert ["quota" in r or "heat" in r for r in seen.reasons] == [True, True]


@pytest.mark.parametrize("after_s", [0.0106, 0.0094])
def test_a_changed_processor_speed_is_noise_in_both_directions(
    machine: Machine, after_s: float
) -> None:
    monitor = machine.monitor()
    monitor.start()
    machine.now_s += 10
    machine.lay(stat=stat_text(50, 70))
    machine.calibration_s = after_s
    seen = monitor.stop()
    assert not seen.quiet
    assert seen.readings["calibration_drift_percent"] > 5


def test_pressure_and_load_are_shown_and_not_judged(machine: Machine) -> None:
    line = "some avg10=0.93 avg60=0.89 avg300=0.36 total={}\nfull avg10=0.00 total=0\n"
    machine.lay(pressure=line.format(1_000_000))
    seen = run(
        machine, stat=stat_text(50, 70), pressure=line.format(6_000_000), loadavg="9.50 1 1 2/99 7"
    )
    assert seen.readings["cpu_pressure_percent"] == pytest.approx(50)
    assert seen.readings["load_average_1min"] == 9.5
    assert seen.quiet


def test_what_cannot_be_read_is_named_and_nothing_concluded(machine: Machine) -> None:
    (machine.root / "proc/stat").unlink()
    seen = run(machine)
    assert seen.quiet
    assert set(seen.unread) == {
        "others_cpu_percent",
        "steal_percent",
        "cpu_pressure_percent",
        "throttled_periods",
        "thermal_throttles",
    }
    assert set(seen.readings) == {"calibration_drift_percent"}


def test_shares_of_a_short_window_are_not_judged(machine: Machine) -> None:
    seen = run(machine, seconds=0.2, stat=stat_text(90, 50), pressure="some total=oops\n")
    assert "others_cpu_percent" not in seen.readings
    assert "0.20 s" in seen.unread["others_cpu_percent"]


def test_stop_needs_start(machine: Machine) -> None:
    with pytest.raises(OperationFailed, match="start"):
        machine.monitor().stop()


def test_looking_before_a_run_watches_for_the_time_given(machine: Machine) -> None:
    def sleep(seconds: float) -> None:
        machine.now_s += seconds
        machine.lay(stat=stat_text(50 + 3 * len(CPUS), 50))

    seen = check_quiet(3.0, machine.monitor(), sleep)
    assert seen.readings["others_cpu_percent"] == pytest.approx(100, abs=1)


@given(
    ticks=st.lists(st.integers(0, 10**9), min_size=10, max_size=10),
    columns=st.sampled_from([7, 8, 10]),
)
def test_processor_times_add_up_without_counting_guests_twice(
    ticks: list[int], columns: int
) -> None:
    row = ticks[:columns]
    times: Any = cpu_times_s(f"cpu0 {' '.join(map(str, row))}", {0})
    assert times.total_s == pytest.approx(sum(row[:8]) / TICKS)
    assert times.busy_s + times.steal_s + (row[3] + row[4]) / TICKS == pytest.approx(times.total_s)
    assert cpu_times_s("cpu7 1 1 1 1 1 1 1 1", {0}) is None


def process(root: Path, pid: int, parent: int, ticks: int) -> None:
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True)
    fields = ["S", str(parent), *["0"] * 9, str(ticks), "0", "0", "0", "20"]
    (folder / "stat").write_text(f"{pid} (odd ) name) {' '.join(fields)}\n")


def test_living_descendants_count_as_own_and_strangers_do_not(tmp_path: Path) -> None:
    alone = own_tree_cpu_s(tmp_path)
    own = os.getpid()
    process(tmp_path, own, 1, 10**9)
    process(tmp_path, own + 1, own, 100 * TICKS)
    process(tmp_path, own + 2, own + 1, 1000 * TICKS)
    process(tmp_path, own + 3, 1, 10**9)
    (tmp_path / "proc" / str(own + 4)).mkdir()
    assert own_tree_cpu_s(tmp_path) - alone == pytest.approx(1100, abs=30)


def test_calibration_is_the_best_round() -> None:
    stamps = iter([0.0, 5.0, 10.0, 12.0, 20.0, 23.0])
    assert calibrate(3, lambda: next(stamps)) == 2.0
