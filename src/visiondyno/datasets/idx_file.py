"""idx files, MNIST's format: a magic number, the shape in big-endian numbers, and the values.

The magic is two zero bytes, the type (8: unsigned bytes) and the number of dimensions
(http://yann.lecun.com/exdb/mnist). Files may be gzipped.
"""

import gzip
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import DatasetError

_UNSIGNED_BYTE = 8
_MAX_BYTES = 4 * 2**30
_CHUNK_BYTES = 2**20


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The values of an idx file.

    Args:
        path: the file; gzipped where its name ends in `.gz`.
        dimensions: how many it must have: 3 for images (count, height, width), 1 for labels.

    Returns:
        uint8, of the shape that the file announces.

    Raises:
        DatasetError: the file can't be read, isn't idx of unsigned bytes, has other dimensions, is
            truncated or goes on after its values.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(file, path, dimensions)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(
            f"{path} is damaged or truncated: {error}. Copy or download it again"
        ) from None
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror or error}") from None


def _read(file: gzip.GzipFile | BufferedReader, path: Path, dimensions: int) -> NDArray[np.uint8]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DatasetError(
            f"{path} isn't an idx file: it starts with {magic.hex(' ') or 'nothing'}"
        )
    if magic[2] != _UNSIGNED_BYTE or magic[3] != dimensions:
        raise DatasetError(
            f"{path} must be an idx file of unsigned bytes in {dimensions} dimensions, but it has "
            f"type {magic[2]:#04x} and {magic[3]} dimensions"
        )
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DatasetError(f"{path} is truncated: its header is incomplete")
    shape = struct.unpack(f">{dimensions}I", sizes)
    count = math.prod(shape)
    if not 0 < count <= _MAX_BYTES:
        raise DatasetError(
            f"{path} announces {'×'.join(map(str, shape))} values; 1 to {_MAX_BYTES:,} are read"
        )
    values = bytearray()
    # Read as it comes: a header that promises too much must not cost its memory.
    while chunk := file.read(min(_CHUNK_BYTES, count + 1 - len(values))):
        values += chunk
    if len(values) < count:
        raise DatasetError(
            f"{path} is truncated: it announces {count:,} values and holds {len(values):,}"
        )
    if len(values) > count:
        raise DatasetError(f"{path} goes on after the {count:,} values that it announces")
    return np.frombuffer(values, np.uint8).reshape(shape)
