"""NVML's real library and a real GPU under load (torch makes the load)."""

import time

import pytest

from visiondyno.probes.base import watch
from visiondyno.probes.energy import EnergyProbe
from visiondyno.probes.gpu import GpuProbe, device_used_bytes
from visiondyno.probes.machine import capture_environment

pytestmark = [pytest.mark.gpu, pytest.mark.torch]

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def _needs_a_gpu() -> None:
    reason = GpuProbe("cuda").available()
    if reason is not None:
        pytest.skip(reason)


def work(seconds: float) -> None:
    """Multiply matrices on the GPU for so long."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch can't use this machine's GPU")
    matrix = torch.randn(4096, 4096, device="cuda")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        matrix = torch.nn.functional.normalize(matrix @ matrix)
        torch.cuda.synchronize()


def test_memory_use_and_energy_of_real_work() -> None:
    torch = pytest.importorskip("torch")
    baseline_bytes = device_used_bytes("cuda")
    assert baseline_bytes is not None
    probes = (GpuProbe("cuda", baseline_bytes), EnergyProbe("cuda"))
    with watch(probes) as window:
        block = torch.zeros(512 * MIB // 4, device="cuda")
        work(3.0)
        del block
    measures = window.measurements()
    vram, busy, energy = (
        measures[name] for name in ("peak_vram_bytes", "gpu_percent", "energy_joules")
    )
    assert vram.value is not None, vram.reason
    assert vram.value > 512 * MIB
    assert busy.value is not None, busy.reason
    assert 0 < busy.value <= 100
    if energy.value is None:
        pytest.skip(f"this GPU counts no energy: {energy.reason}")
    # A GPU that multiplies matrices draws more than 5 W and less than 3 kW.
    assert 5 < energy.value / window.duration_s < 3000
    assert "NVML" in energy.method


def test_a_short_window_gives_reasons_and_no_numbers() -> None:
    with watch((GpuProbe("cuda"), EnergyProbe("cuda"))) as window:
        pass
    measures = window.measurements()
    assert measures["gpu_percent"].value is None
    assert measures["energy_joules"].value is None


def test_the_environment_lists_the_gpu() -> None:
    found = capture_environment()
    assert found.gpus
    assert found.gpus[0].memory_bytes > 0
    assert found.gpus[0].driver
    assert "gpu_percent" not in found.cannot_measure
