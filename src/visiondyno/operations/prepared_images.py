"""Arrays of decoded images in a folder: written as they come, read memory-mapped.

`pixels.bin` is uint8 of shape (images, channels, height, width), RGB or grey; `labels.npy` int64;
`about.json` has the shape, the classes, the SHA-256 of it all, and what was left out.
"""

import hashlib
import json
import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.base import Dataset, Sample
from visiondyno.errors import DatasetError, TooLarge
from visiondyno.operations.context import OperationContext
from visiondyno.predictions import ClassTruth, Image
from visiondyno.specs.training_data import ImageData
from visiondyno.vision.decode import decode_image

PREPARED_VERSION = 1
"""Of what this module makes of the same images: raised with any change of a pixel."""

_PIXELS, _LABELS, _ABOUT = "pixels.bin", "labels.npy", "about.json"
_AT_ONCE = 32
_AT_ONCE_BYTES = 2**28
_CHUNK_BYTES = 2**22

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PreparedImages:
    """What lies in such a folder.

    Attributes:
        pixels: (images, channels, height, width) uint8 on the file's own memory, read-only.
        labels: (images,) int64.
        classes: names by label.
        content: SHA-256 of pixels, shape, labels and classes, 64 hexadecimal digits.
        notes: what was left out.
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    content: str
    notes: tuple[str, ...]


def map_images(folder: Path) -> PreparedImages | None:
    """The arrays in `folder`; None if they aren't there, or not all of them.

    Memory that is mapped stays readable when the folder is removed.
    """
    try:
        about = json.loads((folder / _ABOUT).read_text("utf-8"))
        shape = tuple(int(size) for size in about["shape"])
        labels = np.load(folder / _LABELS, allow_pickle=False)
        with (folder / _PIXELS).open("rb") as file:
            # A page that the file doesn't have would kill the process when it is read.
            if os.fstat(file.fileno()).st_size != np.prod(shape) or len(labels) != shape[0]:
                return None
            pixels = np.asarray(np.memmap(file, np.uint8, "r", shape=shape))
        classes, notes = tuple(about["classes"]), tuple(about["notes"])
        return PreparedImages(pixels, labels, classes, str(about["content"]), notes)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prepare_images(
    folder: Path,
    dataset: Dataset,
    data: ImageData,
    max_bytes: int,
    context: OperationContext,
) -> None:
    """Decode every image of `dataset` into arrays.

    Images are resized without keeping their proportions: sides that shrink by averaging areas
    (OpenCV's INTER_AREA), then sides that grow linearly (INTER_LINEAR). Made grey, a pixel is
    0.299 R + 0.587 G + 0.114 B, after resizing (ITU-R BT.601). Where `data.channels` is None, they
    are grey if in every image the three channels of each pixel are equal.

    Args:
        folder: empty.
        dataset: of classification.
        data: size and channels wanted, and whether bad images are left out.
        max_bytes: how large the pixels may be.
        context: told of the progress; checked for each image.

    Raises:
        DatasetError: an image is bad, or of another size than the first and no size is wanted.
        TooLarge: the pixels take more than `max_bytes`.
    """
    labels: list[int] = []
    bad: list[tuple[str, str]] = []
    with (folder / _PIXELS).open("w+b", buffering=0) as file:
        pixels = _PixelFile(file, data.channels)
        with closing(_decoded(dataset, data, pixels)) as decoded:
            for index, (sample, image) in enumerate(decoded):
                context.check()
                if index % max(1, len(dataset) // 100) == 0:
                    context.progress("preparing the data", done=index, total=len(dataset))
                if isinstance(image, str):
                    if not data.skip_bad:
                        raise DatasetError(image)
                    bad.append((sample.path.name, image))
                    continue
                if not labels:
                    # Before an hour's decoding: only grey images that become RGB can take more.
                    _check_bytes(len(dataset) * image.size, data, max_bytes)
                pixels.add(image, sample)
                assert isinstance(sample.truth, ClassTruth), "the data set is one of classification"
                labels.append(sample.truth.class_id)
        if not labels:
            raise DatasetError(f"each of its {len(bad)} images is bad, first {bad[0][1]}")
        os.fsync(file.fileno())
        _check_bytes(file.tell(), data, max_bytes)
        shape = (len(labels), *pixels.shape)
        content = _content_sha256(file, shape, labels, dataset.classes, context.check)
    context.progress("preparing the data", done=len(dataset), total=len(dataset))
    _write_rest(folder, shape, labels, dataset.classes, content, bad)


def resized(image: Image, height: int, width: int) -> Image:
    """`image` with these sides: what shrinks by INTER_AREA, then what grows by INTER_LINEAR."""
    sides = image.shape[:2]
    smaller = (min(sides[0], height), min(sides[1], width))
    if smaller != sides:
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
    if smaller != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


class _PixelFile:
    """Images one after another: grey while all are, rewritten as RGB when the first one isn't."""

    def __init__(self, file: FileIO, channels: int | None) -> None:
        self._file = file
        self.channels = channels or 1
        self.undecided = channels is None
        self.count = 0
        self.size: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image."""
        assert self.size is not None, "an image was added"
        return (self.channels, *self.size)

    def add(self, image: Pixels, sample: Sample) -> None:
        """`image` of `sample`: (1 or 3, height, width); 1 where it is grey."""
        _check_size(self.size, image, sample)
        if self.undecided and len(image) == 3:
            self.undecided = False
            self._widen()
        self.size = image.shape[1:]
        self.count += 1
        _write(self._file, np.broadcast_to(image, self.shape))

    def _widen(self) -> None:
        """From the last image to the first, so that none is overwritten before it is read."""
        self.channels = 3
        if self.size is None:
            return
        height, width = self.size
        for index in reversed(range(self.count)):
            grey = os.pread(self._file.fileno(), height * width, index * height * width)
            self._file.seek(index * 3 * height * width)
            _write(self._file, np.frombuffer(grey * 3, np.uint8))
        self._file.seek(0, os.SEEK_END)


def _write(file: FileIO, values: NDArray[np.uint8]) -> None:
    rest = np.ascontiguousarray(values).data.cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def _decoded(
    dataset: Dataset, data: ImageData, pixels: _PixelFile
) -> Generator[tuple[Sample, Pixels | str], None, None]:
    """Every sample with its pixels, or with what is wrong with it."""
    # What is decoded waits in memory until it is written.
    height, width = data.size or (1, 1)
    at_once = min(_AT_ONCE, max(1, _AT_ONCE_BYTES // (3 * height * width)))
    with ThreadPoolExecutor(min(at_once, len(os.sched_getaffinity(0)))) as threads:
        for start in range(0, len(dataset), at_once):
            indices = range(start, min(start + at_once, len(dataset)))
            samples = [dataset.sample(index) for index in indices]
            images = threads.map(partial(_image, data=data, undecided=pixels.undecided), samples)
            try:
                yield from zip(samples, images, strict=True)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise


def _image(sample: Sample, data: ImageData, *, undecided: bool) -> Pixels | str:
    """(channels, height, width), with 1 channel where grey is wanted, or it's open and is grey."""
    try:
        image = decode_image(sample.path.read_bytes(), str(sample.path))
    except DatasetError as error:
        return error.message
    except OSError as error:
        return f"{sample.path} can't be read: {error.strerror}."
    grey = undecided and _is_grey(image)
    if data.size is not None:
        image = resized(image, *data.size)
    if data.channels == 1:
        only: Pixels = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        return only[np.newaxis]
    if grey:
        return image[np.newaxis, :, :, 0]
    return image[:, :, ::-1].transpose(2, 0, 1)


def _is_grey(image: Image) -> bool:
    blue, green, red = image[..., 0], image[..., 1], image[..., 2]
    return np.array_equal(blue, green) and np.array_equal(blue, red)


def _check_size(size: tuple[int, int] | None, image: Pixels, sample: Sample) -> None:
    if size is not None and size != image.shape[1:]:
        raise DatasetError(
            f"{sample.path} is {image.shape[2]}×{image.shape[1]} pixels and the first "
            f"image {size[1]}×{size[0]}; give 'image_size', to which all are resized."
        )


def _check_bytes(size_bytes: int, data: ImageData, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise TooLarge(
            f"the images of {data.data!r:.200} take {size_bytes:,} bytes decoded, and "
            f"this worker keeps {max_bytes:,} at most. Give a smaller 'image_size', fewer "
            "'max_images', or the worker a larger VISIONDYNO_CACHE_BYTES."
        )


def _content_sha256(
    file: FileIO,
    shape: tuple[int, ...],
    labels: list[int],
    classes: tuple[str, ...],
    check: Callable[[], None],
) -> str:
    total = hashlib.sha256(json.dumps([shape, labels, classes]).encode())
    file.seek(0)
    while chunk := file.read(_CHUNK_BYTES):
        check()
        total.update(chunk)
    return total.hexdigest()


def _write_rest(
    folder: Path,
    shape: tuple[int, ...],
    labels: list[int],
    classes: tuple[str, ...],
    content: str,
    bad: list[tuple[str, str]],
) -> None:
    notes = []
    if bad:
        name, reason = bad[0]
        notes.append(f"{len(bad):,} images were left out as damaged, first {name}: {reason}")
    about: dict[str, Any] = {
        "shape": shape,
        "classes": classes,
        "content": content,
        "notes": notes,
    }
    with (folder / _LABELS).open("wb") as file:
        np.save(file, np.array(labels, np.int64), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    with (folder / _ABOUT).open("w", encoding="utf-8") as text:
        json.dump(about, text)
        text.flush()
        os.fsync(text.fileno())
