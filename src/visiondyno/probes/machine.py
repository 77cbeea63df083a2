"""The machine, system and packages that a number is measured on."""

import hashlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pynvml

from visiondyno.environment import Environment, GpuInfo
from visiondyno.errors import Unavailable
from visiondyno.probes.energy import EnergyProbe
from visiondyno.probes.gpu import GpuProbe
from visiondyno.probes.kernel_files import (
    ROOT,
    Cgroup,
    read_cgroup,
    read_fields,
    read_text,
    usable_cpus_here,
)
from visiondyno.probes.memory import MemoryProbe
from visiondyno.probes.nvml import Nvml

PACKAGES_THAT_CHANGE_NUMBERS = (
    "visiondyno",
    "numpy",
    "scipy",
    "opencv-python-headless",
    "opencv-python",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "faster-coco-eval",
    "torch",
    "torchvision",
    "ultralytics",
    "timm",
    "transformers",
    "detectron2",
    "openvino",
    "ai-edge-litert",
    "keras",
    "tensorflow",
    "tf2onnx",
    "nvidia-ml-py",
)

_GIB = 1 << 30
_VIRTUAL_PRODUCTS = (
    "kvm",
    "qemu",
    "virtualbox",
    "vmware",
    "virtual machine",
    "standard pc",
    "google compute engine",
    "hvm domu",
    "openstack",
    "bochs",
)


def capture_environment(
    root: Path = ROOT, library: Any = pynvml, environ: Mapping[str, str] = os.environ
) -> Environment:
    """Read what this machine is; nothing is imported or run for it.

    The host's name is kept only as a hash. `machine_id` hashes operating system, processor, usable
    processors, memory (whole GiB), virtual machine and GPUs: neither the host nor the kernel's
    version, so two machines of one kind share it, and an update of the kernel doesn't change it.

    Args:
        root: holds `proc` and `sys`.
        library: NVML's functions.
        environ: for CUDA_VISIBLE_DEVICES.
    """
    cgroup = read_cgroup(root)
    cpu_count = usable_cpus_here(root)
    memory_bytes = _memory_bytes(root, cgroup)
    gpus = _gpus(library)
    cpu_model = _cpu_model(root)
    virtual_machine = _virtual_machine(root)
    return Environment(
        machine_id=_machine_id(cpu_model, cpu_count, memory_bytes, virtual_machine, gpus),
        hostname_hash=_hash(platform.node()),
        system=f"{platform.system()} {platform.machine()}",
        kernel=platform.release(),
        cpu_model=cpu_model,
        cpu_count=cpu_count,
        cpu_governor=read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        memory_bytes=memory_bytes,
        container=_container(root, cgroup),
        virtual_machine=virtual_machine,
        gpus=gpus,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=installed_packages(),
        cannot_measure=cannot_measure(root, library, environ),
    )


def installed_packages(names: tuple[str, ...] = PACKAGES_THAT_CHANGE_NUMBERS) -> dict[str, str]:
    """Versions of those that are installed, read from their metadata, not imported."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cannot_measure(
    root: Path = ROOT, library: Any = pynvml, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Measure → why this machine can't measure it.

    GPU measures are asked of the first GPU. Energy is asked of the processor: a GPU counts its
    own.
    """
    probes = (
        (MemoryProbe(root), ("peak_rss_bytes", "peak_inference_rss_bytes")),
        (GpuProbe("cuda", library=library, root=root, environ=environ), GpuProbe.names),
        (EnergyProbe("cpu", library, root, environ), ("energy_joules_per_image",)),
    )
    return {
        name: reason
        for probe, names in probes
        if (reason := probe.available()) is not None
        for name in names
    }


def _machine_id(
    cpu_model: str,
    cpu_count: int,
    memory_bytes: int,
    virtual_machine: str | None,
    gpus: tuple[GpuInfo, ...],
) -> str:
    kind = (
        platform.system(),
        platform.machine(),
        cpu_model,
        str(cpu_count),
        str(round(memory_bytes / _GIB)),
        virtual_machine or "",
        *(f"{gpu.name} {round(gpu.memory_bytes / _GIB)}" for gpu in gpus),
    )
    return _hash("\n".join(kind))


def _memory_bytes(root: Path, cgroup: Cgroup) -> int:
    kilobytes = read_fields(root / "proc/meminfo").get("MemTotal")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    total = pages if kilobytes is None else kilobytes * 1024
    return min(total, cgroup.memory_limit_bytes or total)


def _cpu_model(root: Path) -> str:
    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    match = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if match:
        return match[1].strip()
    # 64-bit ARM kernels give numbers only.
    parts = re.findall(r"^CPU (implementer|part)\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    if parts:
        numbers = dict(parts)
        return f"ARM {numbers.get('implementer', '?')}:{numbers.get('part', '?')}"
    return platform.processor() or platform.machine()


def _container(root: Path, cgroup: Cgroup) -> str | None:
    kind = next(
        (
            name
            for marker, name in ((".dockerenv", "docker"), ("run/.containerenv", "podman"))
            if (root / marker).exists()
        ),
        None,
    )
    limits = []
    if cgroup.cpu_quota is not None:
        limits.append(f"{cgroup.cpu_quota:.1f} CPUs")
    if cgroup.memory_limit_bytes is not None:
        limits.append(f"{cgroup.memory_limit_bytes / _GIB:.1f} GiB")
    limited = f"cgroup v{cgroup.version}: {', '.join(limits)}" if limits else None
    return ", ".join(part for part in (kind, limited) if part) or None


def _virtual_machine(root: Path) -> str | None:
    maker, product = (
        read_text(root / "sys/class/dmi/id" / name) or "" for name in ("sys_vendor", "product_name")
    )
    flags = re.search(r"^flags\s*:.*\bhypervisor\b", read_text(root / "proc/cpuinfo") or "", re.M)
    known = any(word in f"{maker} {product}".lower() for word in _VIRTUAL_PRODUCTS)
    if not flags and not known:
        return None
    return f"{maker} {product}".strip() or "hypervisor that doesn't say its name"


def _gpus(library: Any) -> tuple[GpuInfo, ...]:
    try:
        with Nvml(library) as nvml:
            return nvml.gpus()
    except Unavailable:
        return ()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
