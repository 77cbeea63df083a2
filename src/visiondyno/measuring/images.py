"""Encoded images as a measurement reads them: paths in a fixed order, bytes, decoded pixels."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from visiondyno.errors import DatasetError
from visiondyno.predictions import Image
from visiondyno.vision.decode import decode_image

_KEPT_BYTES = 512 * 1024 * 1024


class EncodedImages:
    """The image files of a data set, as bytes, in the data set's order.

    Files are kept in memory once read, up to 512 MiB, so that repeated queries don't measure the
    disk; past that they are read again from the page cache. `peak_rss_bytes` includes them.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._kept: dict[int, bytes] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        """The encoded file.

        Raises:
            DatasetError: it can't be read.
        """
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        path = self._paths[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DatasetError(f"{path} can't be read: {error.strerror}.") from error
        if self._kept_bytes + len(data) <= _KEPT_BYTES:
            self._kept[index] = data
            self._kept_bytes += len(data)
        return data

    def decode(self, index: int) -> Image:
        """The decoded image: (height, width, 3) uint8 BGR.

        Raises:
            DatasetError: it can't be read or decoded.
        """
        return decode_image(self.read(index), str(self._paths[index]))

    def shuffled(self, seed: int) -> Iterator[int]:
        """Indices without end: every image once in a random order, then all again in another."""
        generator = np.random.default_rng(seed)
        while True:
            yield from (int(index) for index in generator.permutation(len(self._paths)))
