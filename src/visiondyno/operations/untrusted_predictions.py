"""Predictions that an untrusted process wrote: nothing of them is believed before it is checked.

An .npz file is a zip of arrays. A hostile one can announce arrays of any size, unpack to more than
it holds, name members twice, or hold a pickle; each member's header is therefore checked against
what it must be before any array is made.
"""

import math
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from visiondyno.datasets.base import Dataset
from visiondyno.errors import ModelError, OperationFailed
from visiondyno.measuring.prediction_files import load_predictions
from visiondyno.predictions import Classification, DepthMap, Detections, Predictions

Shape = tuple[int | None, ...]
_DEFECTS = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    SyntaxError,
    KeyError,
    EOFError,
    struct.error,
    NotImplementedError,
    RuntimeError,
)
MOST_DETECTIONS = 1000
"""Boxes an image: COCO's rule scores the best 100 of them."""


def load_untrusted(path: Path, dataset: Dataset, n_classes: int) -> Sequence[Predictions]:
    """Read predictions, one for each of the data set's images; `n_classes` is the model's.

    Raises:
        OperationFailed: the file isn't what the child writes.
        ModelError: a prediction has values that aren't finite numbers.
    """
    n = len(dataset)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, _expected(dataset, n_classes), path.stat().st_size, n)
        if dataset.task == "detection":
            _check_counts(path)
        predictions = load_predictions(path)
        if len(predictions) != n:
            raise _unreadable(f"{len(predictions)} predictions for {n} images")
    except _DEFECTS as error:
        raise _unreadable(str(error)) from error
    for index in range(n):
        _check_values(predictions[index], index, n_classes)
    return predictions


def predictions_bytes(dataset: Dataset, n_classes: int = 10_000) -> int:
    """The most that a file of predictions may take, for the child's limit."""
    n = len(dataset)
    if dataset.task == "depth":
        samples = (dataset.sample(index) for index in range(n))
        return 1_000_000 + sum(4 * one.width * one.height + 1000 for one in samples)
    row = 4 * n_classes if dataset.task == "classification" else 64 * MOST_DETECTIONS
    return 1_000_000 + n * row


def _expected(dataset: Dataset, n_classes: int) -> dict[str, tuple[str, Shape]]:
    """Each member's name, with its kind of number and its shape; None is any length."""
    n = len(dataset)
    if dataset.task == "depth":
        sizes = [(dataset.sample(index).height, dataset.sample(index).width) for index in range(n)]
        return {f"depth_{index:06d}.npy": ("f", size) for index, size in enumerate(sizes)}
    if dataset.task == "classification":
        return {"probabilities.npy": ("f", (n, n_classes))}
    return {
        "counts.npy": ("i", (n,)),
        "boxes_xyxy.npy": ("f", (None, 4)),
        "scores.npy": ("f", (None,)),
        "class_ids.npy": ("i", (None,)),
    }


def _check_members(
    archive: zipfile.ZipFile, expected: dict[str, tuple[str, Shape]], file_bytes: int, n: int
) -> None:
    members = archive.infolist()
    names = [member.filename for member in members]
    if sorted(names) != sorted(expected):
        raise _unreadable("its arrays aren't those of the images")
    if any(one.compress_type != zipfile.ZIP_STORED for one in members):
        raise _unreadable("an array is compressed")
    if sum(member.file_size for member in members) > file_bytes:
        raise _unreadable("it announces more than it holds")
    for member in members:
        with archive.open(member) as file:
            kind, shape = expected[member.filename]
            size = _check_header(file, kind, shape, n)
            if file.tell() + size != member.file_size:
                raise _unreadable(f"{member.filename} doesn't hold what it announces")


def _check_header(file: IO[bytes], kind: str, shape: Shape, n: int) -> int:
    """The bytes that the array has, if its header is as it must be."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise _unreadable(f"an array of format {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    found, _, dtype = read(file)
    fits = len(found) == len(shape) and all(
        size == wanted if wanted is not None else 0 <= size <= n * MOST_DETECTIONS
        for size, wanted in zip(found, shape, strict=True)
    )
    if not fits or dtype.kind != kind or dtype.itemsize not in (4, 8) or dtype.hasobject:
        raise _unreadable(f"an array is {dtype} {found}")
    return math.prod(found) * dtype.itemsize


def _check_counts(path: Path) -> None:
    with np.load(path, allow_pickle=False) as arrays:
        counts, found = arrays["counts"], len(arrays["scores"])
        lengths = {found, len(arrays["boxes_xyxy"]), len(arrays["class_ids"])}
    if (counts < 0).any() or lengths != {int(counts.sum())}:
        raise _unreadable("its boxes don't add up")


def _check_values(prediction: Predictions, index: int, n_classes: int) -> None:
    if isinstance(prediction, DepthMap):
        values = prediction.depth
    elif isinstance(prediction, Classification):
        values = prediction.probabilities
    else:
        assert isinstance(prediction, Detections)
        values = np.concatenate([prediction.boxes_xyxy.ravel(), prediction.scores])
        ids = prediction.class_ids
        if len(ids) and (ids.min() < 0 or ids.max() >= n_classes):
            raise ModelError(f"The model names a class that it doesn't have, in image {index}.")
    if not np.isfinite(values).all():
        raise ModelError(
            f"The model's prediction of image {index} holds values that aren't finite numbers; "
            "check the export."
        )


def _unreadable(reason: str) -> OperationFailed:
    return OperationFailed(
        f"The model's process left predictions that can't be read: {reason:.200}.", stage="run"
    )
