"""idx files: values, parts, the split of a single part, and bad files."""

import gzip
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_factory import idx_bytes, write_idx
from visiondyno.datasets.idx import split_of
from visiondyno.datasets.idx_file import read_idx
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import DatasetError


def images_of(dataset) -> np.ndarray:
    paths = [dataset.sample(index).path for index in range(len(dataset))]
    return np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths])


def test_pixels_and_labels_are_the_files_own(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", {"train": 11, "t10k": 12})
    for part, name in (("train", ":train"), ("t10k", ":test"), ("t10k", "")):
        dataset = open_dataset(f"{tmp_path / 'data'}{name}", cache_dir=tmp_path / "cache")
        data = gzip.decompress((tmp_path / "data" / f"{part}-images-idx3-ubyte.gz").read_bytes())
        wanted = np.frombuffer(data[16:], np.uint8).reshape(-1, 7, 5)
        np.testing.assert_array_equal(images_of(dataset), wanted)
        labels = [dataset.sample(index).truth.class_id for index in range(len(dataset))]
        assert labels == [index % 10 for index in range(len(wanted))]
        assert dataset.classes == tuple("0123456789")
        assert dataset.notes == ()


def test_one_part_is_split_and_the_split_is_stated(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", {"t10k": 50})
    reference = str(tmp_path / "data")
    whole, train, test = (
        open_dataset(reference + name, cache_dir=tmp_path) for name in ("", ":train", ":test")
    )
    assert (len(whole), len(train), len(test)) == (50, 40, 10)
    ids = [{each.sample(index).image_id for index in range(len(each))} for each in (train, test)]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == set(range(50))
    assert test.notes == (
        "Its folder has one part only: 'test' is 10 of its 50 images, split by seed 0",
    )


def test_the_split_never_changes() -> None:
    """Published results depend on it: these are the numbers of version 1."""
    assert split_of(20, "test") == [4, 7, 15, 18]
    assert len(split_of(10_000, "test")) == 2000


@given(count=st.integers(2, 300))
def test_train_and_test_share_out_every_image(count: int) -> None:
    train, test = split_of(count, "train"), split_of(count, "test")
    assert sorted(train + test) == list(range(count))
    assert train == sorted(train)
    assert len(test) == max(1, round(count / 5))


def test_one_image_can_not_be_split() -> None:
    with pytest.raises(DatasetError, match="1 images can't be split"):
        split_of(1, "train")


def test_the_real_test_images_split_8000_to_2000(shared_testdata: Path, tmp_path: Path) -> None:
    reference = str(shared_testdata / "training" / "mnist")
    told: list[tuple[int, int]] = []
    train = open_dataset(
        f"{reference}:train", cache_dir=tmp_path, on_progress=lambda *at: told.append(at)
    )
    test = open_dataset(f"{reference}:test", cache_dir=tmp_path)
    assert (len(train), len(test)) == (8000, 2000)
    assert told[-1] == (10_000, 10_000)
    assert len(told) == 20, "the images are written once, for both splits"
    first = open_dataset(reference, cache_dir=tmp_path, max_images=3)
    assert [first.sample(index).truth.class_id for index in range(3)] == [7, 2, 1]
    assert first.sample(0).width == first.sample(0).height == 28


def test_names_of_classes_and_other_names_of_files(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_idx(root, {"t10k": 10})
    for kind in ("images-idx3", "labels-idx1"):
        packed = root / f"t10k-{kind}-ubyte.gz"
        (root / f"t10k-{kind.replace('-', '.')}-ubyte").write_bytes(
            gzip.decompress(packed.read_bytes())
        )
        packed.unlink()
    (root / "classes.txt").write_text("".join(f"thing {index}\n" for index in range(10)))
    dataset = open_dataset(str(root), cache_dir=tmp_path)
    assert dataset.classes[3] == "thing 3"
    one = open_dataset(str(root / "t10k-images.idx3-ubyte"), cache_dir=tmp_path)
    assert one.digest == dataset.digest
    (root / "classes.txt").write_text("one\none\n")
    with pytest.raises(DatasetError, match="none twice"):
        open_dataset(str(root), cache_dir=tmp_path)
    (root / "classes.txt").write_text("one\ntwo\n")
    with pytest.raises(DatasetError, match=r"Label 2 of .* is 2, but classes\.txt names 2"):
        open_dataset(str(root), cache_dir=tmp_path)
    assert len(open_dataset(str(root), cache_dir=tmp_path, skip_bad=True)) == 2


def test_damaged_files_of_the_cache_are_written_anew(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", {"t10k": 10})
    before = open_dataset(str(tmp_path / "data"), cache_dir=tmp_path / "cache")
    wanted = before.digest
    before.sample(4).path.write_bytes(b"")
    assert open_dataset(str(tmp_path / "data"), cache_dir=tmp_path / "cache").digest == wanted


VALUES = idx_bytes(np.zeros((4, 3, 2), np.uint8))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "isn't an idx file: it starts with nothing"),
        (b"\x1f\x8b\x08\x00", "isn't an idx file"),
        (b"\x00\x00\x0d\x03" + VALUES[4:], "type 0x0d and 3 dimensions"),
        (b"\x00\x00\x08\x01" + VALUES[4:], "type 0x08 and 1 dimensions"),
        (VALUES[:10], "its header is incomplete"),
        (VALUES[:-1], "announces 24 values and holds 23"),
        (VALUES + b"\0", "goes on after"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "are read"),
        (b"\x00\x00\x08\x03" + b"\x00" * 12, "0×0×0"),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=words) as caught:
        read_idx(path, 3)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("keep", [5, 30, -4])
def test_a_truncated_gzip(tmp_path: Path, keep: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 20), np.uint8)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx_bytes(noise))[:keep])
    with pytest.raises(DatasetError, match=r"damaged or truncated|isn't an idx file"):
        read_idx(path, 3)


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_idx(root, {"t10k": 10, "train": 12})
    labels = root / "t10k-labels-idx1-ubyte.gz"
    kept = labels.read_bytes()
    labels.write_bytes((root / "train-labels-idx1-ubyte.gz").read_bytes())
    with pytest.raises(DatasetError, match=r"holds 10 images and .* 12 labels"):
        open_dataset(str(root), cache_dir=tmp_path)
    (root / "t10k-labels-idx1-ubyte").write_bytes(gzip.decompress(kept))
    with pytest.raises(DatasetError, match="remove one"):
        open_dataset(str(root), cache_dir=tmp_path)
    (root / "t10k-labels-idx1-ubyte").unlink()
    labels.unlink()
    with pytest.raises(DatasetError, match=r"no labels for it: t10k-labels-idx1-ubyte\.gz"):
        open_dataset(str(root), cache_dir=tmp_path)
    with pytest.raises(DatasetError, match="splits are train, test"):
        open_dataset(f"{root}:val", cache_dir=tmp_path)


def test_images_too_large(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((1, 5000, 1), np.uint8)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(1, np.uint8)))
    with pytest.raises(DatasetError, match="1×5000 pixels; at most 4096"):
        open_dataset(str(tmp_path), cache_dir=tmp_path / "cache")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="can't be read: No such file"):
        read_idx(tmp_path / "gone", 1)
