"""NVIDIA's management library (NVML): the one place that calls it."""

import os
import re
from collections.abc import Mapping
from typing import Any, Self

import pynvml

from visiondyno.environment import GpuInfo
from visiondyno.errors import SpecError, Unavailable


def cuda_index(device: str) -> int | None:
    """The N of `cuda:N` (0 of `cuda`), or None of `cpu`.

    Raises:
        SpecError: another word.
    """
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise SpecError(f"The device '{device}' is unknown; give cpu, cuda or cuda:N.")
    return None if device == "cpu" else int(match[1] or 0)


class NvmlDevice:
    """One GPU's readings; each raises `Unavailable` where the driver doesn't give it."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle

    @property
    def name(self) -> str:
        """As the driver calls it, e.g. `NVIDIA L4`."""
        return str(self._read("nvmlDeviceGetName"))

    def total_bytes(self) -> int:
        """Memory of the whole device."""
        return int(self._read("nvmlDeviceGetMemoryInfo").total)

    def used_bytes(self) -> int:
        """Memory in use on the whole device, by every process and the driver."""
        return int(self._read("nvmlDeviceGetMemoryInfo").used)

    def process_bytes(self) -> dict[int, int | None]:
        """Memory by pid **of the host**; None where the driver doesn't tell it.

        CUDA context and allocator caches are counted.
        """
        found: dict[int, int | None] = {}
        for function in (
            "nvmlDeviceGetComputeRunningProcesses",
            "nvmlDeviceGetGraphicsRunningProcesses",
        ):
            for process in self._read(function):
                # A process of both kinds is listed twice with the same figure.
                found[int(process.pid)] = process.usedGpuMemory
        return found

    def busy_percent(self) -> int:
        """Share of the driver's last sampling period (1/6 to 1 s) in which a kernel ran."""
        return int(self._read("nvmlDeviceGetUtilizationRates").gpu)

    def energy_millijoules(self) -> int:
        """Counter since the driver was loaded; Volta and later; moves about every 100 ms."""
        return int(self._read("nvmlDeviceGetTotalEnergyConsumption"))

    def _read(self, function: str) -> Any:
        try:
            return getattr(self._library, function)(self._handle)
        except self._library.NVMLError as error:
            raise Unavailable(f"The NVIDIA driver refused {function}: {error}.") from error


class Nvml:
    """An open session with the driver; use it as a context manager.

    Raises:
        Unavailable: no driver, or it can't be talked to.
    """

    def __init__(self, library: Any = pynvml) -> None:
        self._library = library
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            raise Unavailable(f"No NVIDIA GPU can be read here (NVML: {error}).") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session."""
        self._library.nvmlShutdown()

    def gpus(self) -> tuple[GpuInfo, ...]:
        """Every GPU that the driver shows, in its own order (PCI).

        Raises:
            Unavailable: the driver doesn't tell.
        """
        try:
            driver = str(self._library.nvmlSystemGetDriverVersion())
            count = self._library.nvmlDeviceGetCount()
        except self._library.NVMLError as error:
            raise Unavailable(
                f"The NVIDIA driver doesn't list its GPUs (NVML: {error})."
            ) from error
        devices = [self._at(index) for index in range(count)]
        return tuple(
            GpuInfo(index=index, name=device.name, memory_bytes=device.total_bytes(), driver=driver)
            for index, device in enumerate(devices)
        )

    def device(self, index: int, environ: Mapping[str, str] = os.environ) -> NvmlDevice:
        """The GPU that CUDA calls `index` in this process.

        CUDA numbers the GPUs of CUDA_VISIBLE_DEVICES only, and by default the fastest first;
        NVML numbers all of them by PCI slot. Where GPUs differ and CUDA_DEVICE_ORDER isn't
        PCI_BUS_ID, the two can't be matched and nothing is guessed.

        Raises:
            Unavailable: no such GPU, or it can't be told which one it is.
        """
        visible = environ.get("CUDA_VISIBLE_DEVICES")
        chosen = str(index)
        if visible is not None:
            entries = [entry.strip() for entry in visible.split(",") if entry.strip()]
            if index >= len(entries):
                raise Unavailable(
                    f"cuda:{index} isn't among CUDA_VISIBLE_DEVICES={visible!r}; "
                    "give another device or change that variable."
                )
            chosen = entries[index]
        if not chosen.isdigit():
            return self._by_uuid(chosen)
        self._check_order(environ)
        return self._at(int(chosen))

    def _check_order(self, environ: Mapping[str, str]) -> None:
        if environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
            return
        names = {gpu.name for gpu in self.gpus()}
        if len(names) > 1:
            raise Unavailable(
                f"This machine's GPUs differ ({', '.join(sorted(names))}) and CUDA may number them "
                "in another order than the driver; set CUDA_DEVICE_ORDER=PCI_BUS_ID."
            )

    def _at(self, index: int) -> NvmlDevice:
        try:
            return NvmlDevice(self._library, self._library.nvmlDeviceGetHandleByIndex(index))
        except self._library.NVMLError as error:
            raise Unavailable(f"There is no GPU {index} here (NVML: {error}).") from error

    def _by_uuid(self, uuid: str) -> NvmlDevice:
        try:
            return NvmlDevice(self._library, self._library.nvmlDeviceGetHandleByUUID(uuid))
        except self._library.NVMLError as error:
            raise Unavailable(
                f"The GPU '{uuid}' of CUDA_VISIBLE_DEVICES can't be found (NVML: {error})."
            ) from error
