"""Encoded image files to pixels, with limits that hold before any pixel is allocated."""

import cv2
import numpy as np

from visiondyno.errors import DatasetError
from visiondyno.predictions import Image
from visiondyno.vision.announced import announced_size

MAX_SIDE_PIXELS = 16384
MAX_IMAGE_PIXELS = 200_000_000

_END_OF_IMAGE, _START_OF_SCAN = b"\xff\xd9", b"\xff\xda"


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
    width, height = announced_size(data, name)
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
