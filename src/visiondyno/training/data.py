"""Labelled samples for the loop, and the order in which they are taken."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import DatasetError
from visiondyno.specs.inline_data import InlineData

if TYPE_CHECKING:
    import torch
    from torch import nn


class Samples(Protocol):
    """A labelled set that the loop takes batches from.

    Attributes:
        labels: of every sample, on the processor; shape (samples, …).
        finite: whether all features are known to be finite numbers: nobody needs to look again.
    """

    labels: "torch.Tensor"
    finite: bool

    def __len__(self) -> int: ...

    def features(self, indices: "torch.Tensor") -> "torch.Tensor":
        """Of these samples, in this order; on the processor, shape (len(indices), …)."""


class TensorSamples:
    """Samples that lie in memory."""

    finite = False

    def __init__(self, features: "torch.Tensor", labels: "torch.Tensor") -> None:
        """`features` and `labels` have the same first dimension, one entry a sample.

        Raises:
            DatasetError: they haven't, or there are none.
        """
        if len(features) != len(labels) or len(labels) == 0:
            raise DatasetError(
                f"There are {len(features)} samples and {len(labels)} labels; each sample needs "
                "one label, and one sample is the least."
            )
        self._features = features
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def features(self, indices: "torch.Tensor") -> "torch.Tensor":
        return self._features[indices]


def inline_samples(
    data: InlineData, module: "nn.Module | None", what: str = "training_data"
) -> TensorSamples:
    """Samples of a job; `what` is which data it is, for messages.

    Features become what the module takes: int64 where its first layer is an embedding or its
    exported program takes whole numbers, else float32. Labels are int64 if all are whole and
    written so, else float32.

    Raises:
        DatasetError: the module takes whole numbers, and the features have fractions.
    """
    import torch

    features, labels = data.features_array(), data.labels_array()
    if takes_whole_numbers(module):
        if features.dtype.kind != "i":
            raise DatasetError(
                f"'{what}.features' must be whole numbers: the model begins with an embedding."
            )
    else:
        features = as_float32(features)
        check_finite(features, f"{what}.features")
    if labels.dtype.kind == "f":
        labels = as_float32(labels)
        check_finite(labels, f"{what}.labels")
    return TensorSamples(torch.from_numpy(features), torch.from_numpy(labels))


def as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """The nearest float32 of each, infinity for what is too large; float32 itself as it is."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def check_finite(values: NDArray[np.float32], place: str, first: int = 0) -> None:
    """Refuses NaN and infinity.

    Args:
        values: as they are used.
        place: where they come from, for the message.
        first: index there of the first of `values`.

    Raises:
        DatasetError: names the first that is wrong.
    """
    right = np.isfinite(values)
    if right.all():
        return
    wrong = tuple(int(index) for index in np.argwhere(~right)[0])
    index = "".join(f"[{index}]" for index in (wrong[0] + first, *wrong[1:]))
    raise DatasetError(
        f"'{place}{index}' is {float(values[wrong])} as float32; every number must be finite."
    )


def takes_whole_numbers(module: "nn.Module | None") -> bool:
    """Whether the first thing that happens to the features is a look-up; False without a module."""
    import torch
    from torch import fx, nn

    if isinstance(module, fx.GraphModule):
        taken = next(node for node in module.graph.nodes if node.op == "placeholder")
        value = taken.meta.get("val")
        return isinstance(value, torch.Tensor) and not value.is_floating_point()
    first = module[0] if isinstance(module, nn.Sequential) else None
    return isinstance(first, nn.Embedding | nn.EmbeddingBag)


def epoch_seeds(seed: int, epoch: int) -> tuple[int, int]:
    """The seeds of one epoch: of the order of samples, and of dropout and the like.

    They are the two of `numpy.random.SeedSequence((seed, epoch)).generate_state(2, uint64) >> 1`:
    a pure function, so that a training that was cut off goes on as if it hadn't been, and one
    that differs between neighbouring seeds and epochs.
    """
    order, noise = np.random.SeedSequence((seed, epoch)).generate_state(2, np.uint64)
    return int(order >> np.uint64(1)), int(noise >> np.uint64(1))


def batches(
    count: int, batch_size: int, *, order_seed: int | None = None, drop_last: bool = False
) -> Iterator["torch.Tensor"]:
    """Indices of the samples of each batch.

    Args:
        count: of samples.
        batch_size: of all batches but the last, which holds what is left.
        order_seed: of `torch.randperm`; None keeps the order of the data.
        drop_last: leave out what doesn't fill a batch.
    """
    import torch

    if order_seed is None:
        order = torch.arange(count)
    else:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(order_seed))
    for start in range(0, count, batch_size):
        if drop_last and start + batch_size > count:
            return
        yield order[start : start + batch_size]


def batch_count(count: int, batch_size: int, *, drop_last: bool = False) -> int:
    """How many batches `batches` yields."""
    return count // batch_size if drop_last else -(-count // batch_size)
