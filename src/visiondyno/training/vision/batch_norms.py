"""Batch norms in small trainings: where they are, and that none learns from a single image."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from visiondyno.errors import SpecError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm


def norms(module: "nn.Module") -> "list[_BatchNorm]":
    """The batch norms of a module, in its order."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def without_single(batches: "Iterator[torch.Tensor]") -> "list[torch.Tensor]":
    """Indices of each batch; a last one of a single image joins the batch before it."""
    import torch

    found = list(batches)
    if len(found) > 1 and len(found[-1]) == 1 < len(found[-2]):
        found[-2:] = [torch.cat(found[-2:])]
    return found


@contextmanager
def several_values(name: str, image_size: int) -> Iterator[None]:
    """Inside, what torch says of a batch with one value a channel is said of the training.

    Raises:
        SpecError: the batch is of one image that comes to one pixel.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise SpecError(
            f"{name} can't learn from one image of {image_size} pixels at a time: its batch norms "
            "need more than one value. Take a larger 'batch_size', more images, or a larger "
            "'image_size'."
        ) from error
