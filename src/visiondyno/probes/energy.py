"""Energy of a window: counters of the hardware, else an estimate that says it is one."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pynvml

from visiondyno.errors import OperationFailed, Unavailable
from visiondyno.measurements.measure import Interval, Measure, Measures, measured, not_measured
from visiondyno.probes.base import Probe
from visiondyno.probes.kernel_files import ROOT
from visiondyno.probes.nvml import Nvml, cuda_index
from visiondyno.probes.rapl import RaplCounter

MIN_WINDOW_S = 1.0
"""The NVML counter moves about every 100 ms, so each end of a window is off by up to that."""

ESTIMATED_WATTS_A_BUSY_THREAD = 4.0
ESTIMATED_WATTS_MEMORY = 20.0
"""Both are CodeCarbon's constants where it knows nothing of the machine."""

_IDLE = "idle power not subtracted, other processes counted"


class EnergyProbe(Probe):
    """Joules of the window, from what this machine counts.

    Of a model on the CPU: RAPL (packages and memory); without it an estimate from this process's
    processor time, marked as one. Of a model on a GPU: the GPU's own counter, plus RAPL where it
    can be read; the method says what was counted. A GPU without a counter gives no value: its
    power can't be assumed.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.
        library: NVML's functions.
        root: holds `sys`.
        environ: for CUDA_VISIBLE_DEVICES.
        now_s: a monotonic clock.
        cpu_s: processor time of this process.
    """

    names = ("energy_joules",)

    def __init__(
        self,
        device: str = "cpu",
        library: Any = pynvml,
        root: Path = ROOT,
        environ: Mapping[str, str] = os.environ,
        now_s: Callable[[], float] = time.perf_counter,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        self._index = cuda_index(device)
        self._library = library
        self._root = root
        self._environ = environ
        self._now_s = now_s
        self._cpu_s = cpu_s
        self._window: _Window | None = None

    def available(self) -> str | None:
        """Why energy can't be measured here (`stop` may still estimate it), or None."""
        gpu = self._open_gpu()
        if isinstance(gpu, _GpuCounter):
            gpu.close()
            return None
        if gpu is not None:
            return gpu
        rapl = self._open_rapl()
        return rapl if isinstance(rapl, str) else None

    def start(self) -> None:
        """Read all counters."""
        gpu, rapl = self._open_gpu(), self._open_rapl()
        if isinstance(rapl, RaplCounter):
            rapl.start()
        self._window = _Window(gpu, rapl, self._now_s(), self._cpu_s())

    def stop(self) -> Measures:
        """`energy_joules` of the window."""
        window, self._window = self._window, None
        if window is None:
            raise OperationFailed("EnergyProbe.stop needs a start before it.", "probe")
        duration_s, busy_s = self._now_s() - window.began_s, self._cpu_s() - window.began_cpu_s
        try:
            return {"energy_joules": window.measure(duration_s, busy_s)}
        except Unavailable as error:
            return {"energy_joules": not_measured("energy_joules", error.message)}

    def _open_gpu(self) -> "_GpuCounter | str | None":
        """The counter, why there is none, or None where the model uses no GPU."""
        if self._index is None:
            return None
        try:
            return _GpuCounter(self._library, self._index, self._environ)
        except Unavailable as error:
            return error.message

    def _open_rapl(self) -> RaplCounter | str:
        try:
            return RaplCounter(self._root)
        except Unavailable as error:
            return error.message


class _GpuCounter:
    """The NVML total-energy counter of one GPU; counts from its making."""

    def __init__(self, library: Any, index: int, environ: Mapping[str, str]) -> None:
        self._nvml = Nvml(library)
        try:
            self._device = self._nvml.device(index, environ)
            self._began_mj = self._device.energy_millijoules()
        except Unavailable:
            self._nvml.close()
            raise

    def stop(self) -> float:
        """Joules since it was made."""
        try:
            joules = (self._device.energy_millijoules() - self._began_mj) / 1000
        finally:
            self._nvml.close()
        return joules

    def close(self) -> None:
        self._nvml.close()


class _Window:
    """An open window: its counters, or why there are none."""

    def __init__(
        self,
        gpu: _GpuCounter | str | None,
        rapl: RaplCounter | str,
        began_s: float,
        began_cpu_s: float,
    ) -> None:
        self.began_s = began_s
        self.began_cpu_s = began_cpu_s
        self._gpu = gpu
        self._rapl = rapl

    def measure(self, duration_s: float, busy_s: float) -> Measure:
        """What the counters say, both closed whatever happens."""
        try:
            gpu_joules = self._gpu.stop() if isinstance(self._gpu, _GpuCounter) else None
        finally:
            rapl_joules = self._rapl.stop() if isinstance(self._rapl, RaplCounter) else None
        if isinstance(self._gpu, str):
            return not_measured("energy_joules", self._gpu)
        if gpu_joules is None and isinstance(self._rapl, str):
            return estimate_joules(duration_s, busy_s, self._rapl)
        if duration_s < MIN_WINDOW_S:
            return not_measured(
                "energy_joules",
                f"a window of {duration_s:.2f} s is too short for the energy counters; "
                f"measure for {MIN_WINDOW_S:g} s or longer",
            )
        parts = []
        if gpu_joules is not None:
            parts.append("NVML total-energy counter (the GPU's board)")
        if isinstance(self._rapl, RaplCounter):
            zones = ", ".join(sorted({zone.name for zone in self._rapl.zones}))
            parts.append(f"RAPL ({zones})")
        else:
            parts.append(f"processor and memory not counted ({self._rapl.rstrip('.')})")
        total = (gpu_joules or 0.0) + (rapl_joules or 0.0)
        if total <= 0:
            return not_measured("energy_joules", "the energy counters did not move in this window")
        return measured("energy_joules", total, f"{' + '.join(parts)}; {_IDLE}")


def estimate_joules(duration_s: float, busy_s: float, why: str) -> Measure:
    """`energy_joules` by CodeCarbon's constants: 4 W a busy hardware thread, 20 W for memory.

    Args:
        duration_s: of the window.
        busy_s: processor time of this process in it, all threads added up.
        why: the reason that nothing could be measured, a sentence.
    """
    joules = ESTIMATED_WATTS_A_BUSY_THREAD * busy_s + ESTIMATED_WATTS_MEMORY * duration_s
    return measured(
        "energy_joules",
        joules,
        f"ESTIMATE by CodeCarbon's constants: {ESTIMATED_WATTS_A_BUSY_THREAD:g} W × this process's "
        f"busy hardware threads + {ESTIMATED_WATTS_MEMORY:g} W for memory. Not measured: {why}",
        estimated=True,
    )


def energy_joules_per_image(windows: Sequence[tuple[Measure, int]]) -> Measure:
    """All windows' energy over all their images.

    Args:
        windows: `energy_joules` and the number of images of each window; at least one.

    Returns:
        `energy_joules_per_image`; its 95 % interval is Student's t over the windows' own ratios,
        from three windows on. Without a value if a window has none.

    Raises:
        ValueError: no window, or one without images.
    """
    name = "energy_joules_per_image"
    if not windows or any(images < 1 for _, images in windows):
        raise ValueError("every window needs at least one image")
    joules = []
    for energy, _ in windows:
        if energy.value is None:
            return not_measured(name, energy.reason or "a window has no energy")
        joules.append(energy.value)
    images = [count for _, count in windows]
    return measured(
        name,
        sum(joules) / sum(images),
        windows[0][0].method,
        interval=_t_interval(
            [energy / count for energy, count in zip(joules, images, strict=True)]
        ),
        n=sum(images),
        estimated=any(energy.estimated for energy, _ in windows),
    )


def _t_interval(ratios: Sequence[float]) -> Interval | None:
    if len(ratios) < 3:
        return None
    # Reading counters doesn't need it, and a bare machine may lack it.
    from scipy.special import stdtrit

    mean = statistics.fmean(ratios)
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    reach = float(stdtrit(len(ratios) - 1, 0.975)) * error
    return max(0.0, mean - reach), mean + reach
