"""Small images as PNG files whose bytes are the same on every machine.

A compressor's output changes with its version, and the digest of a data set covers its files'
bytes. Stored blocks (RFC 1951, 3.2.4) leave a compressor no choice; small images lose little.
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LARGEST_BLOCK_BYTES = 0xFFFF
_GREY, _COLOUR = 0, 2


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """The PNG file (ISO/IEC 15948) of an image, not compressed.

    Args:
        pixels: (height, width) uint8 grey, or (height, width, 3) uint8 in the order R, G, B.
    """
    height, width = pixels.shape[:2]
    colour_type = _GREY if pixels.ndim == 2 else _COLOUR
    rows = pixels.reshape(height, -1)
    # Every row starts with its filter: 0, none.
    raw = np.concatenate((np.zeros((height, 1), np.uint8), rows), axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", _zlib_stored(raw)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _zlib_stored(data: bytes) -> bytes:
    """The zlib stream (RFC 1950) of `data` in stored blocks."""
    blocks = []
    for start in range(0, len(data), _LARGEST_BLOCK_BYTES):
        block = data[start : start + _LARGEST_BLOCK_BYTES]
        last = start + len(block) == len(data)
        blocks.append(struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block)
    return b"\x78\x01" + b"".join(blocks) + struct.pack(">I", zlib.adler32(data))
