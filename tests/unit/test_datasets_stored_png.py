"""PNG files without compression: every reader reads them, and bytes never change."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visiondyno.datasets.header import read_header
from visiondyno.datasets.stored_png import png_bytes
from visiondyno.vision.decode import decode_image


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 70), height=st.integers(1, 70), colour=st.booleans(), seed=st.integers(0)
)
def test_pixels_survive(width: int, height: int, colour: bool, seed: int) -> None:
    shape = (height, width, 3) if colour else (height, width)
    image = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    read = cv2.imdecode(np.frombuffer(png_bytes(image), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read[..., ::-1] if colour else read, image)


@pytest.mark.parametrize("side", [255, 256, 300])
def test_more_than_one_stored_block(side: int) -> None:
    image = np.random.default_rng(side).integers(0, 256, (side, side), np.uint8)
    read = decode_image(png_bytes(image), "x")
    np.testing.assert_array_equal(read, np.repeat(image[..., None], 3, axis=2))


def test_our_own_header_reader_reads_it(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png_bytes(np.zeros((5, 9), np.uint8)))
    header = read_header(tmp_path / "x.png")
    assert (header.width, header.height) == (9, 5)


def test_the_bytes_are_these_on_every_machine() -> None:
    image = np.arange(100 * 700, dtype=np.uint32).astype(np.uint8).reshape(100, 700)
    assert hashlib.sha256(png_bytes(image)).hexdigest()[:16] == "de06fefb983ae1ba"
