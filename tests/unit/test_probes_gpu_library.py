"""How NVML's answers are used, against a stand-in driver; the real one is in tests/gpu."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nvml_stand_in import Driver, gpu
from visiondyno.errors import SpecError, Unavailable
from visiondyno.probes.base import watch
from visiondyno.probes.energy import EnergyProbe
from visiondyno.probes.gpu import GpuProbe, device_used_bytes
from visiondyno.probes.nvml import Nvml, cuda_index

HOST_NAMESPACE = "pid:[4026531836]"


def process_root(tmp_path: Path, namespace: str) -> Path:
    folder = tmp_path / "proc/self/ns"
    folder.mkdir(parents=True)
    (folder / "pid").symlink_to(namespace)
    return tmp_path


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def window(
    driver: Driver, root: Path, baseline: int | None, used: int, length_s: float = 2.0
) -> dict[str, Any]:
    clock = Clock()
    probe = GpuProbe("cuda", baseline, driver, root, {}, clock)
    assert probe.available() is None
    with watch([probe]) as opened:
        driver.gpus[0]["used"] = used
        clock.now_s += length_s
    assert driver.sessions == 0
    return opened.measurements()


def test_on_the_host_the_peak_is_this_processs_own(tmp_path: Path) -> None:
    driver = Driver(gpu(processes={os.getpid(): 700, 1: 99_000}))
    measures = window(driver, process_root(tmp_path, HOST_NAMESPACE), None, 100_000)
    assert measures["peak_vram_bytes"].value == 700
    assert not measures["peak_vram_bytes"].estimated
    assert measures["gpu_percent"].value == 40
    assert measures["gpu_percent"].n >= 2


def test_in_a_container_the_peak_is_the_rise_of_the_device(tmp_path: Path) -> None:
    # The container's pid happens to be another process's on the host: it must not be taken.
    driver = Driver(gpu(processes={os.getpid(): 5}))
    measures = window(driver, process_root(tmp_path, "pid:[4026532000]"), 1000, 4000)
    assert measures["peak_vram_bytes"].value == 3000
    assert "whole device" in measures["peak_vram_bytes"].method
    assert not measures["peak_vram_bytes"].estimated


def test_the_rise_is_an_estimate_where_others_are_on_the_device(tmp_path: Path) -> None:
    driver = Driver(gpu(processes={7: 5, 8: None}))
    measures = window(driver, tmp_path, 1000, 4000)
    assert measures["peak_vram_bytes"].estimated
    assert "assumed" in measures["peak_vram_bytes"].method


@pytest.mark.parametrize(
    ("baseline", "used", "text"), [(None, 4000, "before the model"), (5000, 4000, "did not rise")]
)
def test_a_peak_that_cannot_be_told_has_a_reason(
    tmp_path: Path, baseline: int | None, used: int, text: str
) -> None:
    measures = window(Driver(gpu()), tmp_path, baseline, used)
    assert measures["peak_vram_bytes"].value is None
    assert text in measures["peak_vram_bytes"].reason


def test_use_of_a_short_window_is_not_given(tmp_path: Path) -> None:
    measures = window(Driver(gpu()), tmp_path, 0, 10, length_s=0.3)
    assert measures["gpu_percent"].value is None
    assert "0.30 s" in measures["gpu_percent"].reason


def test_a_driver_that_fails_while_polled_leaves_no_number(tmp_path: Path) -> None:
    driver = Driver(gpu())
    probe = GpuProbe("cuda", 0, driver, tmp_path, {}, Clock())
    probe.start()
    driver.nvmlDeviceGetMemoryInfo = lambda _: (_ for _ in ()).throw(driver.NVMLError("lost"))
    measures = probe.stop()
    assert all(m.value is None and "lost" in (m.reason or "") for m in measures.values())
    assert driver.sessions == 0


def test_a_gpu_that_is_not_there_is_a_reason_for_every_name(tmp_path: Path) -> None:
    driver = Driver(gpu())
    probe = GpuProbe("cuda:3", None, driver, tmp_path, {})
    assert "GPU 3" in (probe.available() or "")
    probe.start()
    assert all("GPU 3" in (m.reason or "") for m in probe.stop().values())
    assert driver.sessions == 0


def test_the_baseline_is_the_devices_memory_in_use() -> None:
    driver = Driver(gpu(used=123))
    assert device_used_bytes("cuda:0", driver, {}) == 123
    assert device_used_bytes("cuda:9", driver, {}) is None
    assert device_used_bytes("cpu", driver, {}) is None


@pytest.mark.parametrize(
    ("environ", "index", "expected"),
    [
        ({}, 1, "second"),
        ({"CUDA_VISIBLE_DEVICES": "1"}, 0, "second"),
        ({"CUDA_VISIBLE_DEVICES": "1, 0"}, 1, "first"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-2"}, 0, "second"),
    ],
)
def test_cudas_number_is_translated_to_the_drivers(
    environ: dict[str, str], index: int, expected: str
) -> None:
    first, second = gpu(used=1), gpu(used=2, uuid="GPU-2")
    with Nvml(Driver(first, second)) as nvml:
        used = nvml.device(index, environ).used_bytes()
    assert used == {"first": 1, "second": 2}[expected]


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({}, "CUDA_DEVICE_ORDER=PCI_BUS_ID"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-7"}, "GPU-7"),
    ],
)
def test_a_gpu_that_cannot_be_told_is_never_guessed(environ: dict[str, str], text: str) -> None:
    with Nvml(Driver(gpu(), gpu(name="NVIDIA T4"))) as nvml:
        with pytest.raises(Unavailable, match=text):
            nvml.device(0, environ)
        assert nvml.device(1, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).name == "NVIDIA T4"


def test_gpus_are_listed_as_the_driver_describes_them() -> None:
    with Nvml(Driver(gpu(), gpu(name="NVIDIA T4"))) as nvml:
        found = nvml.gpus()
    assert [(g.index, g.name, g.driver) for g in found] == [
        (0, "NVIDIA L4", "570.1"),
        (1, "NVIDIA T4", "570.1"),
    ]


@pytest.mark.parametrize(("device", "index"), [("cpu", None), ("cuda", 0), ("cuda:12", 12)])
def test_device_words(device: str, index: int | None) -> None:
    assert cuda_index(device) == index


@pytest.mark.parametrize("device", ["", "cuda:", "CUDA", "cuda:x", "gpu", "cpu:0"])
def test_other_device_words_are_refused(device: str) -> None:
    with pytest.raises(SpecError, match="cuda:N"):
        cuda_index(device)


def test_a_gpus_energy_is_its_counter_and_says_what_is_not_in_it(tmp_path: Path) -> None:
    driver, clock = Driver(gpu()), Clock()
    probe = EnergyProbe("cuda", driver, tmp_path, {}, now_s=clock)
    assert probe.available() is None
    probe.start()
    driver.gpus[0]["energy_mj"] += 90_000
    clock.now_s = 3.0
    energy = probe.stop()["energy_joules"]
    assert energy.value == pytest.approx(90.0)
    assert not energy.estimated
    assert "processor and memory not counted" in energy.method
    assert driver.sessions == 0


def test_a_gpu_without_a_counter_is_not_estimated(tmp_path: Path) -> None:
    driver, clock = Driver(gpu(energy_mj=None)), Clock()
    probe = EnergyProbe("cuda", driver, tmp_path, {}, now_s=clock)
    assert "nvmlDeviceGetTotalEnergyConsumption" in (probe.available() or "")
    probe.start()
    clock.now_s = 3.0
    energy = probe.stop()["energy_joules"]
    assert energy.value is None
    assert driver.sessions == 0


def test_a_counter_lost_in_the_window_leaves_no_number(tmp_path: Path) -> None:
    driver, clock = Driver(gpu()), Clock()
    probe = EnergyProbe("cuda", driver, tmp_path, {}, now_s=clock)
    probe.start()
    driver.gpus[0]["energy_mj"] = None
    clock.now_s = 3.0
    energy = probe.stop()["energy_joules"]
    assert energy.value is None
    assert "Not Supported" in (energy.reason or "")
    assert driver.sessions == 0


def test_what_one_reading_refuses_takes_nothing_from_the_others(tmp_path: Path) -> None:
    driver = Driver(gpu(processes={os.getpid(): 700}))

    def refuses(_: Any) -> Any:
        raise driver.NVMLError("Not Supported")

    # A slice of a GPU (MIG) has no utilisation.
    driver.nvmlDeviceGetUtilizationRates = refuses  # type: ignore[method-assign]
    root = process_root(tmp_path, HOST_NAMESPACE)
    measures = window(driver, root, None, 100_000)
    assert measures["peak_vram_bytes"].value == 700
    assert measures["gpu_percent"].value is None
    assert "Not Supported" in measures["gpu_percent"].reason
    # Some drivers list no processes: the rise is left, and who else is there can't be told.
    driver.gpus[0]["used"] = 1000
    driver.nvmlDeviceGetComputeRunningProcesses = refuses  # type: ignore[method-assign]
    peak = window(driver, root, 1000, 4000)["peak_vram_bytes"]
    assert (peak.value, peak.estimated) == (3000, True)
    assert "nvmlDeviceGetComputeRunningProcesses" in peak.method


def test_a_driver_that_lists_no_gpus_is_unavailable() -> None:
    driver = Driver(gpu())

    def refuses() -> Any:
        raise driver.NVMLError("Driver/library version mismatch")

    driver.nvmlDeviceGetCount = refuses  # type: ignore[method-assign]
    with Nvml(driver) as nvml, pytest.raises(Unavailable, match="version mismatch"):
        nvml.gpus()


def test_what_torchs_allocator_held_is_told_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[int] = []
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        reset_peak_memory_stats=forgotten.append,
        max_memory_reserved=lambda number: 3 << 20,
        max_memory_allocated=lambda number: 2 << 20,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]
    driver = Driver(gpu(processes={os.getpid(): 5 << 20}))
    root = process_root(tmp_path, HOST_NAMESPACE)
    peak = window(driver, root, None, 9 << 20)["peak_vram_bytes"]
    assert peak.value == 5 << 20
    assert "torch's allocator held 3 MiB at most, 2 MiB of it in tensors" in peak.method
    assert forgotten == [0]
    cuda.is_initialized = lambda: False
    assert "torch" not in window(driver, root, None, 9 << 20)["peak_vram_bytes"].method
