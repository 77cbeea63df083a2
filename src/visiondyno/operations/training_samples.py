"""Training data of a job as samples for the loop, wherever they come from."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from visiondyno.operations.context import OperationContext
from visiondyno.operations.sample_blobs import blob_samples
from visiondyno.operations.sample_images import image_samples
from visiondyno.specs.inline_data import InlineData
from visiondyno.specs.training_data import ImageData, TrainingData
from visiondyno.training.data import Samples, inline_samples

if TYPE_CHECKING:
    import torch
    from torch import nn

    from visiondyno.operations.worker_files import WorkerFiles


@dataclass(frozen=True)
class OpenedSamples:
    """Labelled samples, ready for the loop.

    Attributes:
        samples: what the loop takes batches from.
        digest: `sha256:…` of the samples' content, however and wherever they are kept.
        notes: what a reader of the result must know about how the data was read.
        classes: names, in the order of the labels; None where the data names none.
    """

    samples: Samples
    digest: str
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None


def open_samples(
    data: TrainingData,
    module: "nn.Module | None",
    what: str,
    files: "WorkerFiles",
    context: OperationContext,
) -> OpenedSamples:
    """The samples that `data` names.

    Args:
        data: inline, a blob, or a data set.
        module: that is to take them: it decides between float32 and whole numbers; None is
            float32.
        what: which data it is, such as `training_data`, for messages.
        files: where blobs are fetched from and prepared data are kept.
        context: told of the progress, and asked whether to stop.

    Raises:
        DatasetError: the data can't be read, or aren't what training takes; names `what`.
        SpecError: the normalisation doesn't fit the images.
        NotFound: there is no such blob.
        TooLarge, StorageFull: the worker has no room for the prepared images.
        OperationFailed, TransportDown: the store of blobs is damaged, or can't be reached.
    """
    if isinstance(data, InlineData):
        return _inline(data, module, what)
    if isinstance(data, str) and data.startswith("sha256:"):
        return OpenedSamples(blob_samples(data, module, what, files, context), data)
    place = f"{what}.data" if isinstance(data, ImageData) else what
    wanted = data if isinstance(data, ImageData) else ImageData(data=data)
    images = image_samples(wanted, place, files, context)
    return OpenedSamples(images.samples, images.digest, images.notes, images.classes)


def _inline(data: InlineData, module: "nn.Module | None", what: str) -> OpenedSamples:
    import torch

    samples = inline_samples(data, module, what)
    features = samples.features(torch.arange(len(samples)))
    return OpenedSamples(samples, _tensors_digest(features, samples.labels))


def _tensors_digest(*tensors: "torch.Tensor") -> str:
    total = hashlib.sha256()
    for tensor in tensors:
        array = tensor.contiguous().numpy()
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(array.data)
    return f"sha256:{total.hexdigest()}"
