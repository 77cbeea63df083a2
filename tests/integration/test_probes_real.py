"""Probes on the machine that runs the tests."""

import subprocess
import sys
import time
from threading import Thread

import pytest

from visiondyno.probes.base import watch
from visiondyno.probes.cpu import CpuProbe
from visiondyno.probes.doctor import examine
from visiondyno.probes.energy import EnergyProbe
from visiondyno.probes.kernel_files import read_cgroup
from visiondyno.probes.machine import capture_environment
from visiondyno.probes.memory import MemoryProbe
from visiondyno.probes.quiet import QuietMonitor, calibrate, own_tree_cpu_s

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' /proc")

MIB = 1 << 20

PEAKS_OF_A_FRESH_PROCESS = """
from visiondyno.probes.base import watch
from visiondyno.probes.memory import MemoryProbe
MIB = 1 << 20
probe = MemoryProbe()
early = bytearray(200 * MIB)
del early
with watch([probe]) as first:
    block = bytearray(80 * MIB)
    del block
with watch([probe]) as second:
    pass
for window in (first, second):
    measures = window.measurements()
    print(measures["peak_rss_bytes"].value, measures["peak_inference_rss_bytes"].value)
"""


def test_peaks_tell_loading_from_inference_in_a_fresh_process() -> None:
    if MemoryProbe().available() is not None:
        pytest.skip("no VmHWM")
    done = subprocess.run(
        [sys.executable, "-c", PEAKS_OF_A_FRESH_PROCESS], capture_output=True, text=True, check=True
    )
    (whole, during), (whole_again, idle) = (
        [float(value) for value in line.split()] for line in done.stdout.splitlines()
    )
    assert whole > 200 * MIB
    assert 80 * MIB < during < 200 * MIB
    assert whole_again == whole
    assert during - idle > 70 * MIB


def busy_loop(cpu_s: float) -> None:
    began = time.thread_time()
    while time.thread_time() - began < cpu_s:
        pass


def test_a_busy_loop_uses_more_processor_than_waiting() -> None:
    with watch([CpuProbe()]) as busy:
        busy_loop(0.2)
    with watch([CpuProbe()]) as waiting:
        worker = Thread(target=time.sleep, args=(0.05,))
        worker.start()
        worker.join()
    busy_percent = busy.measurements()["cpu_percent"].value
    waiting_percent = waiting.measurements()["cpu_percent"].value
    assert busy_percent is not None
    assert waiting_percent is not None
    assert busy_percent > waiting_percent
    # However little of the wall the machine's other work left us, the loop's own time is in it.
    assert busy_percent / 100 * busy.duration_s >= 0.19


def test_processor_time_of_a_child_is_counted_while_it_lives_and_after() -> None:
    script = (
        "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"
    )
    before_s, before_own_s = own_tree_cpu_s(), time.process_time()
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "done\n"
    living_s = own_tree_cpu_s() - before_s - (time.process_time() - before_own_s)
    child.communicate("\n")
    ended_s = own_tree_cpu_s() - before_s - (time.process_time() - before_own_s)
    assert living_s > 0.2
    assert ended_s > 0.2


def test_the_monitor_reads_this_machine() -> None:
    monitor = QuietMonitor()
    monitor.start()
    busy_loop(0.6)
    seen = monitor.stop()
    assert seen.readings["others_cpu_percent"] >= 0
    assert 0 <= seen.readings["steal_percent"] <= 100
    assert seen.readings["calibration_drift_percent"] >= 0
    assert seen.quiet == (not seen.reasons)
    assert calibrate(1) > 0


def test_energy_is_measured_or_estimated_and_never_nothing() -> None:
    probe = EnergyProbe("cpu")
    reason = probe.available()
    with watch([probe]) as window:
        busy_loop(0.1 if reason else 1.2)
    energy = window.measurements()["energy_joules"]
    assert energy.value is not None
    assert energy.value > 0
    assert energy.estimated == (reason is not None)


def test_the_environment_is_the_same_twice_and_its_cpu_count_is_real() -> None:
    first, second = capture_environment(), capture_environment()
    assert first == second
    assert first.cpu_count >= 1
    assert first.memory_bytes > 64 * MIB
    assert "numpy" in first.packages
    limit = read_cgroup().memory_limit_bytes
    assert limit is None or first.memory_bytes <= limit


def test_the_environment_imports_no_heavy_package() -> None:
    script = (
        "import sys\nfrom visiondyno.probes.machine import capture_environment\n"
        "capture_environment()\n"
        "print([m for m in ('torch', 'onnxruntime', 'cv2', 'ultralytics') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_doctor_names_every_extra_and_fixes_what_is_missing() -> None:
    findings = examine()
    topics = [finding.topic for finding in findings]
    assert {"extra torch", "extra gpu", "extra ultralytics", "device cpu"} <= set(topics)
    assert len(topics) == len(set(topics))
    for finding in findings:
        assert finding.detail
        if finding.topic.startswith("extra") and finding.status != "ok":
            assert finding.fix is not None
            assert finding.fix.startswith("pip install 'visiondyno[")
