"""Memory and use of the GPU a model runs on."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pynvml

from visiondyno.errors import OperationFailed, Unavailable
from visiondyno.measurements.measure import Measure, Measures, measured, not_measured
from visiondyno.probes.base import Probe, Sampler
from visiondyno.probes.kernel_files import ROOT
from visiondyno.probes.nvml import Nvml, NvmlDevice, cuda_index

SAMPLE_INTERVAL_S = 0.05
MIN_WINDOW_S = 1.0
"""NVML's utilisation covers up to the last second, so a shorter window would show the time before
it."""

_HOST_PID_NAMESPACE = "pid:[4026531836]"
"""The inode of the kernel's first pid namespace (PROC_PID_INIT_INO): there pids are the host's."""


def device_used_bytes(
    device: str, library: Any = pynvml, environ: Mapping[str, str] = os.environ
) -> int | None:
    """Memory in use on the GPU now, the baseline for `GpuProbe`; None for `cpu` or without NVML.

    Read it before the model is loaded, and before CUDA is initialised.
    """
    index = cuda_index(device)
    if index is None:
        return None
    try:
        with Nvml(library) as nvml:
            return nvml.device(index, environ).used_bytes()
    except Unavailable:
        return None


class GpuProbe(Probe):
    """Peak memory of this process on its GPU, and the share of time the GPU was busy.

    Polls NVML from a thread. A container hides the host's pids, and with them this process's own
    line: then the peak is the device's use above `baseline_used_bytes`, and the method says so; it
    is an estimate where other processes are on the device. Where torch uses the device, the method
    also says what its allocator held. What one reading refuses (a slice of a GPU has no
    utilisation) takes nothing from the others.

    Args:
        device: `cpu`, `cuda` or `cuda:N`; of `cpu` nothing is measured.
        baseline_used_bytes: `device_used_bytes` from before the model was loaded.
        library: NVML's functions.
        root: holds `proc`.
        environ: for CUDA_VISIBLE_DEVICES.
        now_s: a monotonic clock.
    """

    names = ("peak_vram_bytes", "gpu_percent")

    def __init__(
        self,
        device: str,
        baseline_used_bytes: int | None = None,
        library: Any = pynvml,
        root: Path = ROOT,
        environ: Mapping[str, str] = os.environ,
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._index = cuda_index(device)
        self._baseline_bytes = baseline_used_bytes
        self._library = library
        self._root = root
        self._environ = environ
        self._now_s = now_s
        self._running: _Recording | str | None = None

    def available(self) -> str | None:
        """Why the GPU can't be read, or None."""
        if self._index is None:
            return "the model runs on the CPU"
        try:
            with Nvml(self._library) as nvml:
                nvml.device(self._index, self._environ).used_bytes()
        except Unavailable as error:
            return error.message
        return None

    def start(self) -> None:
        """Begin to poll."""
        if self._index is None:
            self._running = "the model runs on the CPU"
            return
        try:
            nvml = Nvml(self._library)
        except Unavailable as error:
            self._running = error.message
            return
        try:
            device = nvml.device(self._index, self._environ)
        except Unavailable as error:
            nvml.close()
            self._running = error.message
            return
        pid = os.getpid() if self._pids_are_the_hosts() else None
        _forget_torchs_peak(self._index)
        self._running = _Recording(nvml, device, pid, self._now_s())

    def stop(self) -> Measures:
        """`peak_vram_bytes` and `gpu_percent` of the window."""
        recording, self._running = self._running, None
        if recording is None:
            raise OperationFailed("GpuProbe.stop needs a start before it.", "probe")
        if isinstance(recording, str):
            return {name: not_measured(name, recording) for name in self.names}
        error = recording.close()
        if error is not None:
            return {name: not_measured(name, str(error)) for name in self.names}
        return {
            "peak_vram_bytes": self._peak_vram(recording),
            "gpu_percent": _busy(recording, self._now_s() - recording.began_s),
        }

    def _peak_vram(self, recording: "_Recording") -> Measure:
        name = "peak_vram_bytes"
        polled = (
            f"polled every {SAMPLE_INTERVAL_S * 1000:.0f} ms, CUDA context and caches counted"
            f"{_torchs_peak(self._index)}"
        )
        if recording.peak_process_bytes is not None:
            return measured(name, recording.peak_process_bytes, f"NVML, this process, {polled}")
        why = recording.unlisted or "NVML doesn't show this process (its pids are the host's)"
        if self._baseline_bytes is None:
            return not_measured(name, f"{why}, and there is no reading from before the model")
        rise_bytes = recording.peak_used_bytes - self._baseline_bytes
        if rise_bytes <= 0:
            return not_measured(
                name, f"{why}, and the device's memory in use did not rise above its baseline"
            )
        shared = recording.unlisted is not None or recording.most_processes > 1
        others = "; other processes on the device are assumed constant" if shared else ""
        return measured(
            name,
            rise_bytes,
            f"NVML, rise of the whole device's memory since before loading, {polled}: {why}"
            f"{others}",
            estimated=shared,
        )

    def _pids_are_the_hosts(self) -> bool:
        try:
            return str((self._root / "proc/self/ns/pid").readlink()) == _HOST_PID_NAMESPACE
        except OSError:
            return False


class _Recording:
    """What the polling thread has seen so far."""

    def __init__(self, nvml: Nvml, device: NvmlDevice, pid: int | None, began_s: float) -> None:
        self.began_s = began_s
        self.peak_process_bytes: int | None = None
        self.peak_used_bytes = 0
        self.most_processes = 0
        self.busy_percents: list[int] = []
        self.unlisted: str | None = None
        self.not_busy: str | None = None
        self._nvml = nvml
        self._device = device
        self._pid = pid
        self._sampler = Sampler(self._sample, SAMPLE_INTERVAL_S)
        self._sampler.start()

    def close(self) -> Exception | None:
        error = self._sampler.stop()
        self._nvml.close()
        return error

    def _sample(self) -> None:
        self.peak_used_bytes = max(self.peak_used_bytes, self._device.used_bytes())
        if self.unlisted is None:
            self._sample_processes()
        if self.not_busy is None:
            self._sample_use()

    def _sample_processes(self) -> None:
        try:
            processes = self._device.process_bytes()
        except Unavailable as error:
            self.unlisted = error.message.rstrip(".")
            self.peak_process_bytes = None  # a later peak would be missed
            return
        self.most_processes = max(self.most_processes, len(processes))
        own_bytes = processes.get(self._pid) if self._pid is not None else None
        if own_bytes is not None:
            self.peak_process_bytes = max(self.peak_process_bytes or 0, own_bytes)

    def _sample_use(self) -> None:
        try:
            self.busy_percents.append(self._device.busy_percent())
        except Unavailable as error:
            self.not_busy = error.message


def _busy(recording: _Recording, duration_s: float) -> Measure:
    name = "gpu_percent"
    if recording.not_busy is not None:
        return not_measured(name, recording.not_busy)
    if duration_s < MIN_WINDOW_S:
        return not_measured(
            name,
            f"a window of {duration_s:.2f} s is shorter than NVML's sampling period of up to "
            f"{MIN_WINDOW_S:g} s",
        )
    return measured(
        name,
        statistics.fmean(recording.busy_percents),
        "mean of NVML's utilisation (share of time any process's kernel ran), polled every "
        f"{SAMPLE_INTERVAL_S * 1000:.0f} ms",
        n=len(recording.busy_percents),
    )


def _torchs_allocator() -> Any:
    """Functions of torch where this process uses it on a GPU, else None; imports nothing."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def _forget_torchs_peak(index: int) -> None:
    cuda = _torchs_allocator()
    if cuda is not None:
        cuda.reset_peak_memory_stats(index)


def _torchs_peak(index: int | None) -> str:
    """What torch's allocator held at most in the window, in words."""
    cuda = _torchs_allocator()
    if cuda is None or index is None:
        return ""
    reserved, allocated = cuda.max_memory_reserved(index), cuda.max_memory_allocated(index)
    return (
        f"; torch's allocator held {reserved / 2**20:.0f} MiB at most, {allocated / 2**20:.0f} MiB "
        "of it in tensors"
    )
