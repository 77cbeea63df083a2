"""Image sizes from headers, against what OpenCV decodes."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_factory import encoded, with_exif_orientation
from visiondyno.datasets import header
from visiondyno.datasets.header import ImageHeader, read_header
from visiondyno.errors import DatasetError
from visiondyno.vision import decode

FORMATS = [".jpg", ".png", ".bmp", ".webp"]


def written(folder: Path, data: bytes) -> Path:
    path = folder / "image"
    path.write_bytes(data)
    return path


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(1, 90), st.integers(1, 90))
def test_size_is_that_of_the_decoded_image(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, width: int, height: int
) -> None:
    path = written(tmp_path_factory.mktemp("header"), encoded(suffix, width, height))
    assert read_header(path) == ImageHeader(width, height)


@pytest.mark.parametrize(
    ("suffix", "flags"),
    [
        (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    ],
)
def test_variants_of_a_format(tmp_path: Path, suffix: str, flags: list[int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (37, 51, 3), np.uint8)
    data = cv2.imencode(suffix, image, flags)[1].tobytes()
    assert read_header(written(tmp_path, data)) == ImageHeader(51, 37)


def test_extended_webp(tmp_path: Path) -> None:
    plain = encoded(".webp", 51, 37)
    canvas = (51 - 1).to_bytes(3, "little") + (37 - 1).to_bytes(3, "little")
    chunks = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + plain[12:]
    path = written(tmp_path, b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    assert cv2.imread(str(path)).shape == (37, 51, 3)
    assert read_header(path) == ImageHeader(51, 37)


def test_bitmap_stored_top_down(tmp_path: Path) -> None:
    data = bytearray(encoded(".bmp", 5, 7))
    data[22:26] = struct.pack("<i", -7)
    assert read_header(written(tmp_path, bytes(data))) == ImageHeader(5, 7)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_told_and_size_stays_that_of_the_stored_pixels(
    tmp_path: Path, orientation: int, order: str
) -> None:
    data = with_exif_orientation(encoded(".jpg", 30, 20), orientation, order)
    found = read_header(written(tmp_path, data))
    assert found == ImageHeader(30, 20, orientation)
    assert decode.decode_image(data, "image").shape == (20, 30, 3)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_impossible_orientation_is_none(tmp_path: Path, orientation: int) -> None:
    data = with_exif_orientation(encoded(".jpg", 30, 20), orientation)
    assert read_header(written(tmp_path, data)).orientation == 1


def test_a_damaged_exif_segment_does_no_harm(tmp_path: Path) -> None:
    body = b"Exif\0\0II*\0\xff\xff\xff\xff"
    jpeg = encoded(".jpg", 30, 20)
    data = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
    assert read_header(written(tmp_path, data)) == ImageHeader(30, 20)


def test_an_exif_segment_without_orientation_is_upright(tmp_path: Path) -> None:
    data = with_exif_orientation(encoded(".jpg", 30, 20), 6).replace(b"\x12\x01", b"\x13\x01", 1)
    assert read_header(written(tmp_path, data)).orientation == 1


def test_padding_around_a_whole_jpeg_is_fine(tmp_path: Path) -> None:
    jpeg = encoded(".jpg", 30, 20)
    data = jpeg[:2] + b"\xff\xff\xff" + jpeg[2:] + bytes(10_000)
    assert read_header(written(tmp_path, data)) == ImageHeader(30, 20)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMATS), st.floats(0, 1, exclude_max=True), st.integers(1, 40))
def test_no_truncated_file_passes(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, share: float, side: int
) -> None:
    data = encoded(suffix, side, side)
    # RIFF pads to even: without the pad byte, a WebP is still whole.
    cut = data[: int(share * (len(data) - 1))]
    with pytest.raises(DatasetError):
        read_header(written(tmp_path_factory.mktemp("cut"), cut))


def test_a_thumbnail_s_end_is_not_the_image_s(tmp_path: Path) -> None:
    thumbnail = encoded(".jpg", 8, 8)
    body = b"Exif\0\0" + thumbnail
    jpeg = encoded(".jpg", 60, 60)
    data = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
    assert read_header(written(tmp_path, data)) == ImageHeader(60, 60)
    with pytest.raises(DatasetError, match="truncated"):
        read_header(written(tmp_path, data[:-300]))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF0000WEBP", b"BM", b""]),
    st.binary(max_size=60),
)
def test_no_bytes_make_it_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, magic: bytes, rest: bytes
) -> None:
    path = written(tmp_path_factory.mktemp("noise"), magic + rest)
    try:
        found = read_header(path)
    except DatasetError as error:
        message = error.message
    else:
        message = f"{path} has pixels" if found.width > 0 < found.height else "none"
    assert str(path) in message


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "missing"),
        (lambda path: path.mkdir(), "can't be read"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"GIF89a" + bytes(40)), "isn't a JPEG"),
        (lambda path: path.write_bytes(b"\xff\xd8\x00\x00" + bytes(40)), "damaged"),
        (lambda path: path.write_bytes(b"BM" + bytes(60)), "OS/2"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60)), "IHDR"),
        (lambda path: path.write_bytes(b"RIFF\0\0\0\0WEBPXXXX" + bytes(60)), "damaged"),
    ],
)
def test_each_kind_of_bad_file_is_told(tmp_path: Path, make, words: str) -> None:
    path = tmp_path / "bad.jpg"
    make(path)
    with pytest.raises(DatasetError, match=words) as caught:
        read_header(path)
    assert "bad.jpg" in caught.value.message


def test_an_image_too_large_to_decode_is_told_before_it_is(tmp_path: Path) -> None:
    data = bytearray(encoded(".png", 3, 3))
    data[16:24] = struct.pack(">II", 16385, 1)
    with pytest.raises(DatasetError, match="16384 a side"):
        read_header(written(tmp_path, bytes(data)))
    assert (header.MAX_SIDE_PIXELS, header.MAX_IMAGE_PIXELS) == (
        decode.MAX_SIDE_PIXELS,
        decode.MAX_IMAGE_PIXELS,
    )


def test_no_pixels(tmp_path: Path) -> None:
    data = bytearray(encoded(".png", 3, 3))
    data[16:24] = struct.pack(">II", 0, 3)
    with pytest.raises(DatasetError, match="no pixels"):
        read_header(written(tmp_path, bytes(data)))
