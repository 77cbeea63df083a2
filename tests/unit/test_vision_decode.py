"""Decoding: pixels as stored, limits before allocation, and one sentence for what can't be read."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from visiondyno.errors import DatasetError
from visiondyno.vision.decode import decode_image

PIXELS = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), (40, 30))


def encoded(extension: str, pixels: np.ndarray = PIXELS) -> bytes:
    return cv2.imencode(extension, pixels)[1].tobytes()


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF block, thumbnail-like end marker and all."""
    tiff = b"II*\x00\x08\x00\x00\x00\x01\x00" + struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0)
    body = b"Exif\x00\x00" + tiff + b"\x00\x00\x00\x00" + b"\xff\xd8\xff\xda\x00\xff\xd9"
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize("extension", [".png", ".bmp"])
def test_lossless_formats_give_the_pixels(extension: str) -> None:
    np.testing.assert_array_equal(decode_image(encoded(extension), "x"), PIXELS)


@pytest.mark.parametrize("extension", [".jpg", ".webp"])
def test_lossy_formats_come_close(extension: str) -> None:
    decoded = decode_image(encoded(extension), "x")
    assert decoded.shape == PIXELS.shape
    assert np.abs(decoded.astype(int) - PIXELS).mean() < 8


def test_lossless_webp() -> None:
    flags = [cv2.IMWRITE_WEBP_QUALITY, 101]
    data = cv2.imencode(".webp", PIXELS, flags)[1].tobytes()
    np.testing.assert_array_equal(decode_image(data, "x"), PIXELS)


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_images_become_three_channels(channels: int) -> None:
    shape = (30, 40) if channels == 1 else (30, 40, 4)
    image = np.full(shape, 77, np.uint8)
    decoded = decode_image(encoded(".png", image), "x")
    assert decoded.shape == (30, 40, 3)
    assert (decoded == 77).all()


def test_sixteen_bits_become_eight() -> None:
    decoded = decode_image(encoded(".png", np.full((4, 4, 3), 0x8000, np.uint16)), "x")
    assert decoded.dtype == np.uint8
    assert (decoded == 0x80).all()


def test_orientation_is_not_applied() -> None:
    jpeg = encoded(".jpg")
    turned = with_orientation(jpeg, 6)
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (40, 30, 3)
    np.testing.assert_array_equal(decode_image(turned, "x"), decode_image(jpeg, "x"))


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


JPEG = encoded(".jpg")
BAD = {
    "empty": (b"", "is empty"),
    "text": (b"not an image at all", "isn't a JPEG, PNG, WebP or BMP"),
    "gif": (b"GIF89a" + bytes(40), "isn't a JPEG, PNG, WebP or BMP"),
    "jpeg without its second half": (JPEG[: len(JPEG) // 2], "truncated JPEG"),
    "jpeg with thumbnail, truncated": (with_orientation(JPEG, 1)[:-200], "truncated JPEG"),
    "jpeg of three bytes": (JPEG[:3], "damaged header"),
    "jpeg with garbage for markers": (JPEG[:20] + b"\x00" * 600, "damaged header"),
    "png of its signature": (b"\x89PNG\r\n\x1a\n", "damaged header"),
    "png without data": (png_header(4, 4), "damaged"),
    "png bomb": (png_header(60000, 60000), "announces 60000×60000 pixels"),
    "png of many megapixels": (png_header(16000, 16000), "200 megapixels"),
    "webp of an unknown kind": (b"RIFF\x00\x00\x00\x00WEBPxxxx" + bytes(30), "damaged header"),
    "webp header only": (b"RIFF\x00\x00\x00\x00WEBPVP8X" + bytes(14), "damaged"),
    "bmp header only": (encoded(".bmp")[:30], "damaged"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_images_are_named_in_a_sentence(kind: str) -> None:
    data, message = BAD[kind]
    with pytest.raises(DatasetError, match=message) as caught:
        decode_image(data, "folder/photo.jpg")
    assert str(caught.value).startswith("folder/photo.jpg ")
    assert str(caught.value).endswith(".")
