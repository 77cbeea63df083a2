"""Encoded image files to pixels, with limits that hold before any pixel is allocated."""

import struct

import cv2
import numpy as np

from visiondyno.errors import DatasetError
from visiondyno.predictions import Image

MAX_SIDE_PIXELS = 16384
MAX_IMAGE_PIXELS = 200_000_000

_PNG = b"\x89PNG\r\n\x1a\n"
_END_OF_IMAGE, _START_OF_SCAN = b"\xff\xd9", b"\xff\xda"
# Markers that carry a frame's size: SOF0–SOF15 but DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def decode_image(data: bytes, name: str) -> Image:
    """The pixels of a JPEG, PNG, WebP or BMP file.

    Pixels come as they are stored: an EXIF orientation tag is not applied, because COCO's labels
    (and widths and heights in every label format) refer to the stored pixels. Grey, palette and
    transparent images become three channels of 8 bits.

    Args:
        data: the whole encoded file.
        name: what error messages call the image, usually its path.

    Returns:
        (height, width, 3) uint8, BGR.

    Raises:
        DatasetError: the file is empty, damaged, of another format, or its header announces more
            than 16384 pixels a side or 200 megapixels.
    """
    if not data:
        raise DatasetError(f"{name} is empty (0 bytes); replace or remove the image.")
    width, height = _announced_size(data, name)
    if max(width, height) > MAX_SIDE_PIXELS or width * height > MAX_IMAGE_PIXELS:
        raise DatasetError(
            f"{name} announces {width}×{height} pixels; at most {MAX_SIDE_PIXELS} a side and "
            f"{MAX_IMAGE_PIXELS // 1_000_000} megapixels are read. Scale it down first."
        )
    if data.startswith(b"\xff\xd8") and _jpeg_stops_early(data):
        raise DatasetError(f"{name} is a truncated JPEG; fetch the image again or remove it.")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image: Image | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise _damaged(name) from error
    if image is None:
        raise _damaged(name)
    return image


def _damaged(name: str) -> DatasetError:
    return DatasetError(f"{name} is damaged and can't be decoded; fetch it again or remove it.")


def _jpeg_stops_early(data: bytes) -> bool:
    # OpenCV fills the missing part of a truncated JPEG with grey and reports success. A complete
    # file has no start-of-scan marker after its last end-of-image marker (an EXIF thumbnail has
    # its own pair before the real scan). Inside scan data both markers are escaped.
    end = data.rfind(_END_OF_IMAGE)
    return end < 0 or data.find(_START_OF_SCAN, end) >= 0


def _announced_size(data: bytes, name: str) -> tuple[int, int]:
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


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    while True:
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
