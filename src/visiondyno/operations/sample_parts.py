"""A part of samples that are kept whole: no copy is made of it."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from visiondyno.training.data import Samples

if TYPE_CHECKING:
    import torch


class SamplesPart:
    """Some samples of a whole, which several parts may share."""

    def __init__(self, whole: Samples, chosen: NDArray[np.int64]) -> None:
        """`chosen` are indices of `whole`, in the order that the part has."""
        import torch

        self._whole = whole
        self._chosen = torch.from_numpy(chosen.copy())
        self.labels = whole.labels[self._chosen]
        self.finite = whole.finite

    def __len__(self) -> int:
        return len(self.labels)

    def features(self, indices: "torch.Tensor") -> "torch.Tensor":
        return self._whole.features(self._chosen[indices])
