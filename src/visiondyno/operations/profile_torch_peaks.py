"""The two limits of a roofline as torch reaches them, on the processor and on a GPU."""

from collections.abc import Callable
from typing import Any

from visiondyno.probes.peaks import (
    CHANNELS,
    CONVOLUTION_FLOP,
    IMAGE,
    REPEATS,
    SIDE,
    Peak,
    best_of,
    best_rate,
)

_GPU_SIDE = 8192
_GPU_COPY_BYTES = 1 << 30


def torch_compute_peak(device: str, threads: int | None) -> Peak:
    """As `compute_peak` of `visiondyno.probes.peaks`, on any of torch's devices."""
    import torch

    on = torch.device(device)
    side = SIDE if on.type == "cpu" else _GPU_SIDE
    matrix = torch.ones(side, side, device=on)
    image = torch.ones(1, CHANNELS, IMAGE, IMAGE, device=on)
    weight = torch.ones(CHANNELS, CHANNELS, 3, 3, device=on)

    def held(run: Callable[[], Any]) -> Callable[[], None]:
        def once() -> None:
            with torch.inference_mode():
                run()
            if on.type == "cuda":
                torch.cuda.synchronize(on)

        return once

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        work = (
            (held(lambda: torch.mm(matrix, matrix)), 2.0 * side**3),
            (held(lambda: torch.conv2d(image, weight, padding=1)), CONVOLUTION_FLOP),
        )
        return best_of(work, "torch", side)
    finally:
        torch.set_num_threads(before)


def torch_memory_peak(device: str) -> Peak:
    """Bytes a second of a copy inside a device's own memory, read and written ones counted."""
    import torch

    on = torch.device(device)
    size_bytes = _GPU_COPY_BYTES
    if on.type == "cuda":
        # Both copies fit beside what others hold there.
        size_bytes = min(size_bytes, torch.cuda.mem_get_info(on)[0] // 4)
    source = torch.ones(size_bytes, dtype=torch.uint8, device=on)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        if on.type == "cuda":
            torch.cuda.synchronize(on)

    rate = best_rate(copy, 2 * size_bytes)
    size = f"{size_bytes >> 20} MiB"
    return Peak(rate, f"copy of {size} on {device}, bytes read and written, best of {REPEATS}")
