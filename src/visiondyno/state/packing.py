"""Byte-shuffle and Zstandard around a safetensors file.

Trained weights look random but for their exponents. Put the n-th bytes of all numbers of a width
side by side (Blosc's shuffle filter, https://www.blosc.org), and the exponents become a long run
that compresses about threefold, while the compressor sees at once that the rest doesn't.

A packed file is one Zstandard frame that names its content's length and checksum (RFC 8878). The
content is the file with its header as it was, and each run of tensors of the same width shuffled.
"""

from collections.abc import Callable, Iterator
from itertools import groupby

import numpy as np
import numpy.typing as npt
import zstandard

from visiondyno.errors import ModelError
from visiondyno.state.reading import Header, parse_header
from visiondyno.state.tensors import check_size, unreadable

LEVELS = range(1, zstandard.MAX_COMPRESSION_LEVEL + 1)

Bytes = npt.NDArray[np.uint8]

_BLOCK_ROWS = 65_536  # what a transposition touches stays inside the cache: eight times as fast
_MAX_WINDOW_BYTES = 2**27  # what level 22 needs
_LARGEST_BLOCK_BYTES = 2**17  # RFC 8878: a block of 4 bytes gives this much at most
_SMALLEST_BLOCK_BYTES = 4

# The parts of a complex number are floats on their own.
_WIDTH = {
    "U64": 8, "I64": 8, "F64": 8, "C64": 4, "F32": 4, "U32": 4, "I32": 4,
    "BF16": 2, "F16": 2, "U16": 2, "I16": 2,
}  # fmt: skip


def width_bytes(dtype: str) -> int:
    """How wide the numbers of a dtype of safetensors are."""
    return _WIDTH.get(dtype, 1)


def pack(data: bytes, level: int) -> bytes:
    """Shuffle and compress a safetensors file.

    Args:
        data: the file, of our own making.
        level: of Zstandard, one of `LEVELS`.
    """
    shuffled = _rearranged(np.frombuffer(data, np.uint8), parse_header(data), _shuffle)
    return zstandard.ZstdCompressor(level=level, write_checksum=True).compress(shuffled.data)


def is_packed(data: bytes) -> bool:
    """Whether it begins like what `pack` gives: with the magic number of a frame (RFC 8878)."""
    return data.startswith(zstandard.FRAME_HEADER)


def unpack(packed: bytes, max_bytes: int) -> memoryview:
    """The safetensors file that was packed.

    Memory is bounded by `max_bytes` twice and the window; it is taken only as content comes.

    Raises:
        ModelError: it isn't one intact frame, or there is no safetensors inside.
        TooLarge: the content is longer than `max_bytes`.
    """
    length = _declared_length(packed)
    check_size(length, max_bytes)
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    try:
        content = decompressor.decompress(
            packed, max_output_size=length, read_across_frames=False, allow_extra_data=False
        )
    except (zstandard.ZstdError, MemoryError) as error:
        raise _no_frame("it is damaged, incomplete, or followed by something else") from error
    header = parse_header(content)
    return _rearranged(np.frombuffer(content, np.uint8), header, _unshuffle).data


def _declared_length(packed: bytes) -> int:
    try:
        parameters = zstandard.get_frame_parameters(packed)
    except zstandard.ZstdError as error:
        raise _no_frame("it doesn't begin like one") from error
    if parameters.content_size == zstandard.CONTENTSIZE_UNKNOWN:
        raise _no_frame("it doesn't name the length of its content")
    blocks = len(packed) // _SMALLEST_BLOCK_BYTES + 1
    if parameters.content_size > blocks * _LARGEST_BLOCK_BYTES:
        raise _no_frame("it names a length that its bytes can't make up")
    return int(parameters.content_size)


def _no_frame(why: str) -> ModelError:
    return unreadable(f"it isn't one whole Zstandard frame, as its format says: {why}")


def _runs(header: Header) -> Iterator[tuple[int, int, int]]:
    """Begin, end (in the file) and width of each run of tensors of the same width."""
    for width, run in groupby(header.entries, lambda entry: width_bytes(entry.dtype)):
        entries = list(run)
        yield header.data_begin + entries[0].begin, header.data_begin + entries[-1].end, width


def _rearranged(data: Bytes, header: Header, move: Callable[[Bytes, Bytes, int], None]) -> Bytes:
    out = np.empty_like(data)
    out[: header.data_begin] = data[: header.data_begin]
    for begin, end, width in _runs(header):
        if data[begin:end].any():
            move(data[begin:end], out[begin:end], width)
        else:  # a difference of nothing, as from a client that sends back what it was given
            out[begin:end] = 0
    return out


def _shuffle(data: Bytes, out: Bytes, width: int) -> None:
    rows, planes = data.reshape(-1, width), out.reshape(width, -1)
    for begin in range(0, len(rows), _BLOCK_ROWS):
        planes[:, begin : begin + _BLOCK_ROWS] = rows[begin : begin + _BLOCK_ROWS].T


def _unshuffle(data: Bytes, out: Bytes, width: int) -> None:
    planes, rows = data.reshape(width, -1), out.reshape(-1, width)
    for begin in range(0, len(rows), _BLOCK_ROWS):
        rows[begin : begin + _BLOCK_ROWS] = planes[:, begin : begin + _BLOCK_ROWS].T
