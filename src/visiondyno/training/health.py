"""How the gradients of an epoch behaved."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class GradientHealth:
    """The norm of each step's gradient, kept where it was computed: no step waits for a GPU.

    The norm is the Euclidean one of all gradients together, before they are clipped.
    """

    def __init__(self, steps: int, device: "torch.device") -> None:
        """Of an epoch of so many steps on `device`."""
        import torch

        self._norms = torch.empty(steps, device=device)
        self._noted = 0

    def note(self, norm: "torch.Tensor") -> None:
        """The next step's norm, a tensor of shape ()."""
        self._norms[self._noted] = norm.detach()
        self._noted += 1

    def result(self) -> dict[str, float | int | None]:
        """What the epoch came to.

        Returns:
            `gradient_norm_mean` and `gradient_norm_max` of the steps whose norm is a finite
            number, None where there is no such step; `nonfinite_steps`: how many others.
        """
        norms = self._norms[: self._noted].cpu().double()
        finite = norms[norms.isfinite()]
        some = len(finite) > 0
        return {
            "gradient_norm_mean": float(finite.mean()) if some else None,
            "gradient_norm_max": float(finite.max()) if some else None,
            "nonfinite_steps": len(norms) - len(finite),
        }


def gradient_norm(weights: Iterable["torch.Tensor"]) -> "torch.Tensor":
    """The Euclidean norm of all their gradients together, shape (); 0 where none has one."""
    import torch

    gradients = [_entries(weight.grad) for weight in weights if weight.grad is not None]
    if not gradients:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def _entries(gradient: "torch.Tensor") -> "torch.Tensor":
    return gradient.coalesce().values() if gradient.is_sparse else gradient
