"""How many workers a machine has room for, and what share of the GPU each gets.

A starting point to be looked at with `dyno workers list` under real work, not a measurement: how
much memory a model takes while it runs depends on its activations far more than on its file.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml

from visiondyno.probes.kernel_files import ROOT, read_cgroup, read_fields, read_int
from visiondyno.probes.nvml import Nvml

_MB, _GB = 10**6, 10**9

_COMFORTABLE_BYTES = ((50 * _MB, 4.5 * _GB), (100 * _MB, 6.3 * _GB), (math.inf, 8.5 * _GB))
"""Model file below → GPU memory of a worker that runs it in batches, its CUDA context and the
workspace of its convolutions counted. On a card of 46 GB: 10, 7 and 5 workers."""

_CONTEXT_BYTES = 1 * _GB
"""What a process takes on a GPU before any model: CUDA's context, the libraries' kernels."""
_MODEL_FACTOR = 4
"""Weights, the copy in the runtime's own layout, and as much again for what flows through."""
_PROCESS_BYTES = 0.5 * _GB
"""Main memory of a worker before any model: the interpreter, the runtimes, decoded images."""
_PROCESSORS_A_SLOT = 2
"""On the CPU: one for the inference's threads to share with, one to decode beside it."""

_DRIVERS_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@dataclass(frozen=True, slots=True)
class SlotSuggestion:
    """What `dyno worker` may be started with.

    Attributes:
        fraction: of the GPU's whole memory for each worker, rounded down to 4 digits; None where
            no GPU is used.
        slots: worker processes; 0 where not even one has room.
        reason: why so many, in a sentence or two.
    """

    fraction: float | None
    slots: int
    reason: str


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Main memory that this process may use, cgroup limits counted; None where unknown."""

    total_bytes: int | None
    available_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """One GPU, in the driver's order, and the memory that no process uses now."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int


def gpu_memories(library: Any = pynvml) -> tuple[GpuMemory, ...]:
    """Every GPU that the driver shows, in its own order.

    Raises:
        Unavailable: there is no driver, or it doesn't tell.
    """
    with Nvml(library) as nvml:
        found = []
        for gpu in nvml.gpus():
            used_bytes = nvml.device(gpu.index, _DRIVERS_ORDER).used_bytes()
            free_bytes = gpu.memory_bytes - used_bytes
            found.append(GpuMemory(gpu.index, gpu.name, gpu.memory_bytes, free_bytes))
        return tuple(found)


def comfortable_bytes(model_bytes: int) -> int:
    """GPU memory in which one worker runs a model comfortably.

    4.5 GB for a model file below 50 MB, 6.3 GB below 100 MB and 8.5 GB above, and never less than
    1 GB + 4 × the file.
    """
    tier_bytes = next(need for below, need in _COMFORTABLE_BYTES if model_bytes < below)
    return int(max(tier_bytes, _CONTEXT_BYTES + _MODEL_FACTOR * model_bytes))


def suggest_slots(
    model_bytes: int,
    gpu_total_bytes: int,
    gpu_free_bytes: int,
    *,
    ram_available_bytes: int | None = None,
) -> SlotSuggestion:
    """Workers for a model on a GPU: as many as fit comfortably into its free memory.

    A worker is given `comfortable_bytes`. Where that has no room for even one, one worker gets
    all that is free if 1 GB + 4 × the file fit.

    Args:
        model_bytes: size of the model file.
        gpu_total_bytes: memory of the GPU.
        gpu_free_bytes: of it, what no process uses now.
        ram_available_bytes: main memory to be had; None leaves it out of the suggestion.
    """
    least_bytes = _CONTEXT_BYTES + _MODEL_FACTOR * model_bytes
    comfortable = comfortable_bytes(model_bytes)
    free = f"{gpu_free_bytes / _GB:.1f} of {gpu_total_bytes / _GB:.1f} GB are free"
    model = f"a model of {model_bytes / _MB:.0f} MB"
    if gpu_free_bytes < least_bytes:
        return SlotSuggestion(
            None,
            0,
            f"{free}, and {model} needs about {least_bytes / _GB:.1f} GB; free memory on the GPU, "
            "or use a larger one.",
        )
    slots = max(1, int(gpu_free_bytes // comfortable))
    reason = f"{free}; {model} runs comfortably in {comfortable / _GB:.1f} GB."
    by_ram = _slots_by_ram(model_bytes, ram_available_bytes)
    if by_ram is not None and by_ram < slots:
        slots = by_ram
        reason += f" Main memory has room for {by_ram} only."
    if slots == 0:
        return SlotSuggestion(None, 0, reason)
    return SlotSuggestion(_rounded_down(gpu_free_bytes / gpu_total_bytes / slots), slots, reason)


def suggest_cpu_slots(
    model_bytes: int, cpu_count: int, ram_available_bytes: int | None
) -> SlotSuggestion:
    """Workers for a model without a GPU: one for every two processors, as main memory allows."""
    slots = max(1, cpu_count // _PROCESSORS_A_SLOT)
    reason = f"No GPU: one worker for every {_PROCESSORS_A_SLOT} of {cpu_count} processors."
    by_ram = _slots_by_ram(model_bytes, ram_available_bytes)
    if by_ram is not None and by_ram < slots:
        slots = by_ram
        reason += f" Main memory has room for {by_ram} only."
    return SlotSuggestion(None, slots, reason)


def host_memory(root: Path = ROOT) -> HostMemory:
    """Main memory as the kernel and the cgroup tell it; `root` holds `proc` and `sys`."""
    fields = read_fields(root / "proc/meminfo")
    total, available = (_bytes(fields.get(name)) for name in ("MemTotal", "MemAvailable"))
    cgroup = read_cgroup(root)
    limit = cgroup.memory_limit_bytes
    if limit is None or cgroup.memory_folder is None:
        return HostMemory(total, available)
    used = next(
        (
            found
            for name in ("memory.current", "memory.usage_in_bytes")
            if (found := read_int(cgroup.memory_folder / name)) is not None
        ),
        None,
    )
    stat = read_fields(cgroup.memory_folder / "memory.stat")
    # The kernel gives these pages of files up before it refuses memory.
    files = stat.get("total_inactive_file", stat.get("inactive_file", 0))
    left = None if used is None else max(0, limit - max(0, used - files))
    return HostMemory(_least(total, limit), _least(available, left))


def _slots_by_ram(model_bytes: int, ram_available_bytes: int | None) -> int | None:
    if ram_available_bytes is None:
        return None
    return int(ram_available_bytes // (_PROCESS_BYTES + _MODEL_FACTOR * model_bytes))


def _rounded_down(fraction: float) -> float:
    return math.floor(fraction * 10_000) / 10_000


def _bytes(kibibytes: int | None) -> int | None:
    return None if kibibytes is None else kibibytes * 1024


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)
