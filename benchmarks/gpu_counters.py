"""A GPU's counters, read beside our probes: NVML's C functions by ctypes, no code of ours."""

import ctypes
import os
from typing import Any


class _Memory(ctypes.Structure):
    """`nvmlMemory_t`: bytes."""

    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


class Counters:
    """The counters of the GPU that CUDA calls 0.

    Raises:
        OSError: NVML isn't here, refuses, or can't tell which GPU that is.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libnvidia-ml.so.1")
        self._device = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
        if visible.isdigit():
            number = ctypes.c_uint(int(visible))
            self._call("nvmlDeviceGetHandleByIndex_v2", number, ctypes.byref(self._device))
        else:
            name = visible.encode()
            self._call("nvmlDeviceGetHandleByUUID", name, ctypes.byref(self._device))

    def energy_joules(self) -> float:
        """Since the driver was loaded."""
        millijoules = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(millijoules))
        return millijoules.value / 1000

    def used_bytes(self) -> int:
        """Memory in use on the whole GPU."""
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", self._device, ctypes.byref(memory))
        return int(memory.used)

    def _call(self, function: str, *arguments: Any) -> None:
        if code := getattr(self._library, function)(*arguments):
            raise OSError(f"NVML's {function} answers {code}")
