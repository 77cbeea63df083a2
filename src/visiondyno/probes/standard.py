"""The probes a benchmark watches with."""

from visiondyno.probes.base import Probe
from visiondyno.probes.cpu import CpuProbe
from visiondyno.probes.energy import EnergyProbe
from visiondyno.probes.gpu import GpuProbe
from visiondyno.probes.memory import MemoryProbe


def standard_probes(device: str, vram_baseline_bytes: int | None = None) -> tuple[Probe, ...]:
    """Every probe for a model on `device`, in the order for `watch`.

    Make them once in the model's own process and reuse them for each window: the memory probe
    remembers the peak over all windows.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.
        vram_baseline_bytes: `gpu.device_used_bytes(device)` from before the model was loaded.

    Raises:
        SpecError: another device.
    """
    return (
        MemoryProbe(),
        GpuProbe(device, vram_baseline_bytes),
        EnergyProbe(device),
        CpuProbe(),
    )
