"""What an encoded image announces: its format and size, read from the header alone.

Needs no decoder, so that whoever only passes images on can refuse one.
"""

import struct

from visiondyno.errors import DatasetError

_PNG = b"\x89PNG\r\n\x1a\n"
# Markers that carry a frame's size: SOF0–SOF15 but DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_MOST_MARKERS = 4096
"""Before a JPEG's frame. A file of 20 MB that is nothing but markers would be read for seconds."""


def announced_size(data: bytes, name: str) -> tuple[int, int]:
    """Width and height in pixels that a JPEG, PNG, WebP or BMP file's header announces.

    Args:
        data: the file, or its beginning.
        name: what error messages call the image.

    Raises:
        DatasetError: the header is damaged, or is of another format.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg_size(data)
        if data.startswith(_PNG):
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
        if data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(width), abs(height)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
    except (struct.error, IndexError, ValueError) as error:
        raise DatasetError(
            f"{name} has a damaged header; fetch the image again or remove it."
        ) from error
    raise DatasetError(f"{name} isn't a JPEG, PNG, WebP or BMP image; convert or remove it.")


def is_known_image(data: bytes) -> bool:
    """Whether it begins as a JPEG, PNG, WebP or BMP file does."""
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return webp or data.startswith((b"\xff\xd8\xff", _PNG, b"BM"))


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    for _ in range(_MOST_MARKERS):
        if data[position] != 0xFF:
            raise ValueError("no marker where one must be")
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:
            position += 2
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            position += 2 + length
    raise ValueError("no frame among so many markers")


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return (
            1 + int.from_bytes(data[24:27], "little"),
            1 + int.from_bytes(data[27:30], "little"),
        )
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("unknown WebP chunk")
