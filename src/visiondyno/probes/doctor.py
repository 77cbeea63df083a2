"""What this machine can measure and run, and how to get the rest."""

import importlib.metadata
import importlib.resources
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pynvml

from visiondyno.errors import INSTALL_GPU, Unavailable
from visiondyno.probes.clock import examine_clock
from visiondyno.probes.energy import EnergyProbe
from visiondyno.probes.finding import Finding, Status
from visiondyno.probes.gpu import GpuProbe
from visiondyno.probes.gpu_findings import gpu_findings
from visiondyno.probes.kernel_files import ROOT
from visiondyno.probes.memory import MemoryProbe
from visiondyno.probes.nvml import Nvml
from visiondyno.probes.rapl import PERMISSION_FIX


def examine(
    cache: Path | None = None,
    root: Path = ROOT,
    library: Any = pynvml,
    environ: Mapping[str, str] = os.environ,
) -> list[Finding]:
    """Look at everything, measure nothing.

    Args:
        cache: the folder for downloaded and derived files; left out if None.
        root: holds `proc` and `sys`.
        library: NVML's functions.
        environ: for CUDA_VISIBLE_DEVICES.
    """
    findings = [
        _clock(),
        _memory(root),
        Finding("processor use", "ok", "this process's own time, all threads"),
        _gpu(root, library, environ),
        _energy(root, library, environ),
        *_devices(library),
        *gpu_findings(library, environ),
        *_extras(),
        *_shipped_models(),
    ]
    if cache is not None:
        findings.append(_cache(cache))
    return findings


def _clock() -> Finding:
    facts = examine_clock()
    detail = (
        f"{facts.implementation}: smallest step {facts.resolution_ns} ns, "
        f"one reading costs {facts.overhead_ns:.0f} ns"
    )
    if facts.monotonic and facts.resolution_ns <= 10_000:
        return Finding("clock", "ok", detail)
    return Finding("clock", "limited", f"{detail}; times under 1 ms aren't reliable")


def _memory(root: Path) -> Finding:
    reason = MemoryProbe(root).available()
    if reason is not None:
        return Finding("peak memory", "missing", reason, "run on Linux with /proc mounted")
    if not os.access(root / "proc/self/clear_refs", os.W_OK):
        return Finding(
            "peak memory",
            "limited",
            "the process's peak, but not that of inference alone: clear_refs can't be written",
        )
    return Finding("peak memory", "ok", "the kernel's VmHWM, of the process and of inference")


def _gpu(root: Path, library: Any, environ: Mapping[str, str]) -> Finding:
    reason = GpuProbe("cuda", library=library, root=root, environ=environ).available()
    if reason is not None:
        return Finding(
            "GPU memory and use", "missing", reason, "install NVIDIA's driver on a machine with one"
        )
    return Finding("GPU memory and use", "ok", "NVML, polled")


def _energy(root: Path, library: Any, environ: Mapping[str, str]) -> Finding:
    reason = EnergyProbe("cpu", library, root, environ).available()
    gpu_reason = EnergyProbe("cuda", library, root, environ).available()
    if reason is None:
        beside = "" if gpu_reason is not None else "; the GPU by NVML's counter"
        return Finding("energy", "ok", f"processor packages and memory by RAPL{beside}")
    forbidden = PERMISSION_FIX in reason
    what = "models on a GPU by NVML's counter; " if gpu_reason is None else ""
    return Finding(
        "energy",
        "limited",
        f"{what}models on the CPU get an estimate, kept out of rankings: {reason}",
        PERMISSION_FIX if forbidden else None,
    )


def _devices(library: Any) -> list[Finding]:
    providers = onnxruntime.get_available_providers()
    listed = ", ".join(providers)
    findings = [
        Finding("device cpu", "ok", f"onnxruntime {onnxruntime.__version__} offers {listed}")
        if "CPUExecutionProvider" in providers
        else Finding("device cpu", "missing", f"onnxruntime offers {listed} only")
    ]
    try:
        with Nvml(library) as nvml:
            gpus = nvml.gpus()
    except Unavailable as error:
        return [*findings, Finding("device cuda", "missing", error.message)]
    names = ", ".join(f"cuda:{gpu.index} {gpu.name}" for gpu in gpus)
    if "CUDAExecutionProvider" in providers:
        findings.append(Finding("device cuda", "ok", names))
    else:
        findings.append(
            Finding(
                "device cuda",
                "limited",
                f"the driver shows {names}, but this onnxruntime was built without CUDA",
                INSTALL_GPU,
            )
        )
    return findings


def _extras() -> list[Finding]:
    """Each extra by the package's own metadata, so that this list can't fall behind."""
    try:
        requirements = importlib.metadata.requires("visiondyno") or []
    except importlib.metadata.PackageNotFoundError:
        return [
            Finding("extras", "missing", "visiondyno isn't installed", "pip install visiondyno")
        ]
    wanted: dict[str, list[str]] = {}
    for requirement in requirements:
        match = re.match(r"([\w.-]+).*extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if match:
            wanted.setdefault(match[2], []).append(match[1])
    return [_extra(extra, names) for extra, names in sorted(wanted.items())]


def _extra(extra: str, names: list[str]) -> Finding:
    versions = {name: _version(name) for name in names}
    absent = [name for name, version in versions.items() if version is None]
    if not absent:
        detail = ", ".join(f"{name} {version}" for name, version in versions.items())
        return Finding(f"extra {extra}", "ok", detail)
    status: Status = "missing" if len(absent) == len(names) else "limited"
    return Finding(
        f"extra {extra}",
        status,
        f"not installed: {', '.join(absent)}",
        f"pip install 'visiondyno[{extra}]'",
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _shipped_models() -> list[Finding]:
    folder = importlib.resources.files("visiondyno") / "shipped"
    entries = folder.iterdir() if folder.is_dir() else ()
    models = sorted((e for e in entries if e.name.endswith(".onnx")), key=lambda e: e.name)
    reinstall = "pip install --force-reinstall --no-deps visiondyno"
    if not models:
        return [Finding("shipped models", "missing", f"no .onnx under {folder}", reinstall)]
    findings = []
    for model in models:
        topic = f"model visiondyno:{model.name.removesuffix('.onnx')}"
        try:
            content = model.read_bytes()
            onnx.checker.check_model(onnx.load_model_from_string(content))
        except Exception as error:  # a broken file fails in many ways; each is told
            findings.append(Finding(topic, "missing", f"can't be read: {error}", reinstall))
        else:
            findings.append(Finding(topic, "ok", f"{len(content) / 1e6:.2f} MB"))
    return findings


def _cache(cache: Path) -> Finding:
    nearest = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        state = "is there" if cache.exists() else "will be made when needed"
        return Finding("cache folder", "ok", f"{cache} {state}")
    return Finding(
        "cache folder", "missing", f"{cache} can't be written", f"make {nearest} writable"
    )
