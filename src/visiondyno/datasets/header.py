"""An image's size from its file header, and whether the file is all there: no pixel is decoded.

JPEG (ITU-T T.81 B.2), PNG (ISO/IEC 15948), WebP (RFC 9649) and BMP, the formats that are decoded.
A whole file can still hold damaged pixels: only decoding shows that, and decoding is measured, so
it is the caller's.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from visiondyno.errors import DatasetError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)
"""What counts as an image file in a folder, in lower case (torchvision's list). Formats that can't
be decoded are on it, so that such a file is an error and not silently missing."""

MAX_SIDE_PIXELS = 16384
MAX_IMAGE_PIXELS = 200_000_000
"""Largest image: the decoder's limits, checked before anything is measured."""

_TAIL_BYTES = 4096
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a header says.

    Attributes:
        width: of the stored pixels, which are what is decoded.
        height: of the stored pixels.
        orientation: EXIF orientation of a JPEG, 1 to 8; 1 (upright) where it says none. It isn't
            applied by decoding.
    """

    width: int
    height: int
    orientation: int = 1


class _Truncated(Exception):
    """The file ends before what its header promises."""


def read_header(path: Path) -> ImageHeader:
    """Size of the image at `path`, after checking that the file is whole.

    Raises:
        DatasetError: the file is missing, empty, truncated, unreadable or not an image.
    """
    try:
        with path.open("rb") as file:
            header = _read(file, path)
    except _Truncated:
        raise DatasetError(
            f"Image {path} is truncated: its end is missing. Copy or download it again"
        ) from None
    except FileNotFoundError:
        raise DatasetError(
            f"Image {path} is missing. Restore the file or remove its label"
        ) from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"Image {path} can't be read: {_reason(error)}") from None
    if header.width < 1 or header.height < 1:
        raise DatasetError(f"Image {path} has no pixels: {header.width}×{header.height}")
    _refuse_huge(header, path)
    return header


def _refuse_huge(header: ImageHeader, path: Path) -> None:
    width, height = header.width, header.height
    if max(width, height) > MAX_SIDE_PIXELS or width * height > MAX_IMAGE_PIXELS:
        raise DatasetError(
            f"Image {path} is {width}×{height} pixels; at most {MAX_SIDE_PIXELS} a side and "
            f"{MAX_IMAGE_PIXELS // 1_000_000} megapixels are read. Scale it down"
        )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _read(file: BinaryIO, path: Path) -> ImageHeader:
    start = file.read(16)
    if not start:
        raise DatasetError(f"Image {path} is empty (0 bytes). Copy or download it again")
    for magic, reader in _READERS:
        if start.startswith(magic) and (magic != b"RIFF" or start[8:12] == b"WEBP"):
            return reader(file)
    raise DatasetError(f"File {path} isn't a JPEG, PNG, WebP or BMP image. Convert or remove it")


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise _Truncated
    return data


def _ends_with(file: BinaryIO, marker: bytes, data_offset: int) -> None:
    """Raise unless `marker` stands after `data_offset`: in the tail, else anywhere after it.

    Writers pad files, so the marker need not be the last bytes.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(data_offset, size - _TAIL_BYTES))
    if marker in file.read():
        return
    file.seek(data_offset)
    if marker not in file.read():
        raise _Truncated


def _jpeg(file: BinaryIO) -> ImageHeader:
    file.seek(2)
    width = height = 0
    orientation = 1
    while True:
        marker = _next_marker(file)
        if marker in _STANDALONE_MARKERS:
            continue
        length = struct.unpack(">H", _exactly(file, 2))[0]
        body_offset = file.tell()
        if marker in _START_OF_FRAME:
            height, width = struct.unpack(">xHH", _exactly(file, 5))
        elif marker == 0xE1:
            orientation = _exif_orientation(_exactly(file, max(length - 2, 0)))
        elif marker in (0xDA, 0xD9):
            break
        file.seek(body_offset + max(length - 2, 0))
    _ends_with(file, b"\xff\xd9", body_offset)
    return ImageHeader(width, height, orientation)


def _next_marker(file: BinaryIO) -> int:
    """The next marker's second byte; any number of 0xFF may fill before it (T.81 B.1.1.2)."""
    byte = _exactly(file, 1)[0]
    if byte != 0xFF:
        raise ValueError("a JPEG marker is damaged")
    while byte == 0xFF:
        byte = _exactly(file, 1)[0]
    return byte


def _exif_orientation(segment: bytes) -> int:
    """Tag 0x0112 of the first directory (EXIF 2.3, 4.6.4); 1 where there is none."""
    tiff = segment[6:]
    if not segment.startswith(b"Exif\0\0") or tiff[:2] not in (b"II", b"MM"):
        return 1
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        offset = struct.unpack_from(order + "I", tiff, 4)[0]
        entries = struct.unpack_from(order + "H", tiff, offset)[0]
        for entry in range(entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, offset + 2 + 12 * entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _png(file: BinaryIO) -> ImageHeader:
    file.seek(8)
    _, kind, width, height = struct.unpack(">I4sII", _exactly(file, 16))
    if kind != b"IHDR":
        raise ValueError("its first PNG chunk isn't IHDR")
    _ends_with(file, b"IEND\xae\x42\x60\x82", file.tell())
    return ImageHeader(width, height)


def _webp(file: BinaryIO) -> ImageHeader:
    file.seek(0)
    riff_bytes, chunk = struct.unpack("<4xI4x4s4x", _exactly(file, 20))
    body = _exactly(file, 10)
    if file.seek(0, io.SEEK_END) < riff_bytes + 8:
        raise _Truncated
    if chunk == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", body[6:]))
        return ImageHeader(width, height)
    if chunk == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return ImageHeader((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if chunk == b"VP8X":
        return ImageHeader(
            int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
        )
    raise ValueError("its first WebP chunk is damaged")


def _bmp(file: BinaryIO) -> ImageHeader:
    file.seek(10)
    data_offset, info_bytes = struct.unpack("<II", _exactly(file, 8))
    if info_bytes < 40:
        raise ValueError("OS/2 bitmaps aren't supported: convert it to PNG")
    width, height, _, bits, compression = struct.unpack("<iiHHI", _exactly(file, 16))
    # A negative height is a bitmap stored top down.
    header = ImageHeader(width, abs(height))
    row_bytes = (width * bits + 31) // 32 * 4
    uncompressed = compression in (0, 3)
    size = file.seek(0, io.SEEK_END)
    if size < data_offset + (row_bytes * header.height if uncompressed else 1):
        raise _Truncated
    return header


_READERS: tuple[tuple[bytes, Callable[[BinaryIO], ImageHeader]], ...] = (
    (b"\xff\xd8", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"RIFF", _webp),
    (b"BM", _bmp),
)
