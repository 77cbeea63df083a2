"""Where a training runs and in which precision: refused with the reason, never switched off."""

import contextlib
from typing import TYPE_CHECKING

from visiondyno.errors import MissingExtra, SpecError, Unavailable
from visiondyno.training.losses import Loss

if TYPE_CHECKING:
    import torch

PLACE = "'hyperparameters.mixed_precision'"


def choose_device(name: str) -> "torch.device":
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means here.

    Raises:
        MissingExtra: torch isn't installed.
        Unavailable: this machine has no such GPU.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "Training") from error
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise Unavailable(
            f"'device': '{name}' was asked for, and torch sees {count} GPUs on this worker. "
            "Take 'auto' or 'cpu', or another worker."
        )
    return device


def autocast(precision: str, device: "torch.device") -> contextlib.AbstractContextManager[object]:
    """The context in which forward passes run.

    Args:
        precision: `none`, `fp16` or `bf16`.
        device: where they run.

    Raises:
        SpecError: the device can't compute so.
    """
    import torch

    if precision == "none":
        return contextlib.nullcontext()
    if not torch.amp.is_autocast_available(device.type):
        raise SpecError(f"{PLACE}: torch has no autocast on '{device.type}'; take 'none'.")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise SpecError(f"{PLACE}: this GPU has no bf16; take 'fp16'.")
    if precision == "fp16" and device.type not in ("cpu", "cuda"):
        raise SpecError(
            f"{PLACE}: torch can't scale gradients on '{device.type}', which 'fp16' needs; "
            "take 'bf16' or 'none'."
        )
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    context: contextlib.AbstractContextManager[object] = torch.autocast(device.type, dtype)
    return context


def check_precision(precision: str, device: "torch.device", loss: Loss) -> None:
    """Refuses what can't be computed, or not safely.

    Raises:
        SpecError: the device can't, or the loss loses too much by it.
    """
    with autocast(precision, device):
        pass
    if precision != "none" and loss.name == "bce":
        raise SpecError(
            f"{PLACE}: loss 'bce' is unsafe in '{precision}'; take 'bce_with_logits', and leave a "
            "last 'sigmoid' out."
        )


def gradient_scaler(precision: str, device: "torch.device") -> "torch.amp.GradScaler":
    """Scales the loss for `fp16`, so that small gradients don't vanish; else hands it through."""
    import torch

    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
