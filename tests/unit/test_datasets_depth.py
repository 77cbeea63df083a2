"""Depth folders: metres from both forms of file, what wasn't measured, and bad maps."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataset_factory import SIZES, depth_metres, encoded, with_exif_orientation, write_depth
from visiondyno.datasets.depth import read_depth
from visiondyno.datasets.indexed import class_counts, describe
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import DatasetError
from visiondyno.predictions import DepthTruth


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_depth(tmp_path / "rooms")
    return tmp_path / "rooms"


def test_metres_come_from_npy_and_png(root: Path) -> None:
    dataset = open_dataset(str(root))
    assert (dataset.task, dataset.format, dataset.classes) == ("depth", "depth-folder", ())
    for seed, (name, (width, height)) in enumerate(SIZES.items()):
        sample = dataset.sample(seed)
        assert sample.path.name == name
        depth = read_depth(sample.truth)
        wanted = depth_metres(width, height, seed)
        wanted[0, 0] = np.nan
        np.testing.assert_allclose(depth, wanted, rtol=1e-6)


def test_zero_nan_and_infinity_are_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "d.npy"
    np.save(path, np.array([[0, np.nan, np.inf, -np.inf], [1, 2, 3, 0.5]]))
    with pytest.raises(DatasetError, match="negative"):
        read_depth(DepthTruth(path, 1.0))
    np.save(path, np.array([[0, np.nan, np.inf], [1, 2, 0.5]]))
    np.testing.assert_array_equal(
        read_depth(DepthTruth(path, 1.0)), np.float32([[np.nan] * 3, [1, 2, 0.5]])
    )


@pytest.mark.parametrize("kind", [">f8", "<f2", "<f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_layout_of_npy(tmp_path: Path, kind: str, order: str) -> None:
    values = np.arange(1, 7).reshape(2, 3).astype(kind)
    np.save(tmp_path / "d.npy", np.asarray(values, order=order))
    depth = read_depth(DepthTruth(tmp_path / "d.npy", 1.0))
    np.testing.assert_array_equal(depth, np.float32([[1, 2, 3], [4, 5, 6]]))


def test_newer_npy_headers_are_read(tmp_path: Path) -> None:
    with (tmp_path / "d.npy").open("wb") as file:
        np.lib.format.write_array(file, np.ones((2, 3)), version=(2, 0))
    assert read_depth(DepthTruth(tmp_path / "d.npy", 1.0)).shape == (2, 3)


def test_describe_tells_range_and_share(root: Path) -> None:
    dataset = open_dataset(str(root))
    depth = describe(dataset)["depth"]
    pixels = sum(width * height for width, height in SIZES.values())
    assert depth["measured_share"] == pytest.approx((pixels - 4) / pixels)
    assert 0.5 <= depth["nearest_m"] < depth["median_m"] < depth["farthest_m"] <= 8
    assert class_counts(dataset) == {}


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def huge_header() -> bytes:
    file = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**9)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "isn't a .npy file"),
        (b"\x93NUMPY\x01\x00\xff", "isn't a .npy file"),
        (b"<html></html>", "isn't a .npy file"),
        (npy(np.ones((48, 64), np.int32)), "floating-point metres, but holds int32 48×64"),
        (npy(np.ones((48, 64, 1))), "48×64×1"),
        (npy(np.array(1.0)), "of no shape"),
        (npy(np.array([[{}]], object)), "floating-point metres, but holds object"),
        (npy(np.ones((48, 64)))[:-8], "truncated"),
        (huge_header(), "truncated"),
        (npy(np.ones((64, 48))), "is 64×48 pixels, but .* is 48×64"),
        (npy(np.zeros((48, 64))), "no measured pixel"),
        (npy(-np.ones((48, 64))), "negative"),
    ],
)
def test_a_bad_map_is_named_or_left_out(root: Path, data: bytes, words: str) -> None:
    (root / "depth" / "a.npy").write_bytes(data)
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset(str(root))
    assert "a.npy" in caught.value.message
    dataset = open_dataset(str(root), skip_bad=True)
    assert [bad.path.name for bad in dataset.skipped] == ["a.jpg"]


def png(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values)[1].tobytes()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png(np.ones((56, 40), np.uint8)), "16-bit grey PNG"),
        (png(np.ones((56, 40, 3), np.uint16)), "16-bit grey PNG"),
        (encoded(".jpg", 40, 56), "16-bit grey PNG"),
        (png(np.full((56, 40), 900, np.uint16))[:-20], "truncated"),
        (b"", "empty"),
    ],
)
def test_a_bad_png_is_named(root: Path, data: bytes, words: str) -> None:
    (root / "depth" / "b.png").write_bytes(data)
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset(str(root))
    assert "b.png" in caught.value.message


def test_a_png_with_broken_pixels(root: Path) -> None:
    path = root / "depth" / "b.png"
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT") + 4
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"b\.png"):
        open_dataset(str(root))


def test_every_image_has_one_map(root: Path) -> None:
    (root / "depth" / "extra.npy").write_bytes(npy(np.ones((2, 2))))
    note = "1 depth maps have no image and don't count, first extra"
    assert open_dataset(str(root)).notes == (note,)
    (root / "depth" / "a.png").write_bytes(png(np.ones((48, 64), np.uint16)))
    with pytest.raises(DatasetError, match="two depth maps"):
        open_dataset(str(root))
    (root / "depth" / "a.png").unlink()
    (root / "depth" / "a.npy").unlink()
    with pytest.raises(DatasetError, match=r"a\.jpg has no depth map: depth/a\.npy or"):
        open_dataset(str(root))


def test_no_maps_at_all(root: Path) -> None:
    for path in (root / "depth").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="has no depth"):
        open_dataset(str(root))


def test_a_turned_image(root: Path) -> None:
    path = root / "images" / "a.jpg"
    path.write_bytes(with_exif_orientation(path.read_bytes(), 6))
    with pytest.raises(DatasetError, match="EXIF orientation 6"):
        open_dataset(str(root))


def test_a_map_that_vanishes_is_told(root: Path) -> None:
    dataset = open_dataset(str(root))
    (root / "depth" / "a.npy").unlink()
    with pytest.raises(DatasetError, match=r"a\.npy can't be read"):
        read_depth(dataset.sample(0).truth)
    with pytest.raises(DatasetError, match=r"a\.npy can't be read"):
        _ = dataset.digest
