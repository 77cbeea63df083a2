"""A process's share of the GPU's memory, where several workers use one GPU."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pynvml

from visiondyno.errors import SpecError, Unavailable
from visiondyno.probes.nvml import Nvml, cuda_index

FRACTION_VARIABLES = ("VISIONDYNO_GPU_MEMORY_FRACTION", "GPU_MEMORY_FRACTION")
"""The environment variables that hold the share, the first one set counts."""


@dataclass(frozen=True, slots=True)
class GpuShare:
    """The share that is to be kept, and what it comes to here.

    Attributes:
        fraction: of the device's memory, above 0 and at most 1.
        limit_bytes: fraction × memory of the device; None where that can't be told.
        reason: why not, and what to do; None where `limit_bytes` is known.
    """

    fraction: float
    limit_bytes: int | None
    reason: str | None = None


def gpu_share(
    device: str, environ: Mapping[str, str] = os.environ, library: Any = pynvml
) -> GpuShare | None:
    """This process's share of `device`; None on the CPU and where no share is set.

    The environment carries it, so that the processes that a worker starts keep it too.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.
        environ: for `FRACTION_VARIABLES` and CUDA_VISIBLE_DEVICES.
        library: NVML's functions.

    Raises:
        SpecError: the share isn't a number above 0 and at most 1, or the device is unknown.
    """
    index = cuda_index(device)
    fraction = memory_fraction(environ)
    if index is None or fraction is None:
        return None
    try:
        with Nvml(library) as nvml:
            total_bytes = nvml.device(index, environ).total_bytes()
    except Unavailable as error:
        reason = (
            f"The share of {fraction:g} of the GPU's memory isn't kept, the memory of '{device}' "
            f"can't be told: {error.message} Run one worker on this GPU, or mend NVML."
        )
        return GpuShare(fraction, None, reason)
    return GpuShare(fraction, int(fraction * total_bytes))


def memory_fraction(environ: Mapping[str, str] = os.environ) -> float | None:
    """The share that the environment sets, or None.

    Raises:
        SpecError: it isn't a number above 0 and at most 1.
    """
    for name in FRACTION_VARIABLES:
        text = environ.get(name, "").strip()
        if text:
            return _fraction(name, text)
    return None


def _fraction(name: str, text: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:  # NaN too
        raise SpecError(
            f"{name}={text!r} isn't a share of the GPU's memory; give a number above 0 and at "
            "most 1, such as 0.143."
        )
    return fraction
