"""Samples that stay on disk: arrays in memory-mapped files, converted a batch at a time."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from visiondyno.training.data import as_float32

if TYPE_CHECKING:
    import torch


class ArraySamples:
    """Numbers of any real dtype as float32, unscaled, or as int64.

    Whoever makes one has looked at all numbers: they are finite as float32.
    """

    finite = True

    def __init__(self, features: NDArray[Any], labels: "torch.Tensor", *, whole: bool) -> None:
        """One entry of `features`, and one of `labels`, is a sample; `whole` makes int64 of it."""
        self._features = features
        self._whole = whole
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def features(self, indices: "torch.Tensor") -> "torch.Tensor":
        import torch

        taken = self._features[indices.numpy()]
        return torch.from_numpy(taken.astype(np.int64) if self._whole else as_float32(taken))


class ImageSamples:
    """Images as float32: pixels divided by 255, then normalised; what torchvision's transforms do.

    The bits are those of `ToTensor` and `Normalize`: a sample is (pixels / 255 - mean) / std,
    each step rounded to float32.
    """

    finite = True

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        labels: "torch.Tensor",
        *,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        layout: Literal["chw", "hwc"] = "chw",
    ) -> None:
        """Samples of `pixels`.

        Args:
            pixels: shape (samples, channels, height, width), RGB or grey.
            labels: shape (samples,).
            mean: one number a channel, of pixels from 0 to 1; with `std`, or None.
            std: one number a channel.
            layout: of the samples.
        """
        import torch

        self._pixels = pixels
        self._moments: tuple[torch.Tensor, ...] = ()
        if mean is not None and std is not None:
            self._moments = tuple(
                torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
                for values in (mean, std)
            )
        self._layout = layout
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def features(self, indices: "torch.Tensor") -> "torch.Tensor":
        import torch

        batch = torch.from_numpy(self._pixels[indices.numpy()]).to(torch.float32).div_(255)
        if self._moments:
            mean, std = self._moments
            batch = batch.sub_(mean).div_(std)
        return batch if self._layout == "chw" else batch.permute(0, 2, 3, 1).contiguous()
