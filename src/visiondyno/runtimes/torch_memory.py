"""Keeping torch to a share of the GPU's memory."""

from visiondyno.runtimes.base import Device


def limit_torch_memory(device: Device, fraction: float) -> str | None:
    """Let torch's allocator take at most `fraction` of the GPU's memory, from now on.

    For runtimes that use torch, before their first allocation; torch is imported here.

    Args:
        device: `cuda` or `cuda:N`.
        fraction: above 0 and at most 1.

    Returns:
        None where the limit holds, else a sentence that says why it doesn't.
    """
    try:
        import torch
    except ImportError:
        return "torch isn't installed, so it takes no GPU memory and none was limited."
    if not torch.cuda.is_available():
        return f"torch can't use '{device}' here, so its GPU memory wasn't limited."
    torch.cuda.set_per_process_memory_fraction(fraction, torch.device(device).index or 0)
    return None
