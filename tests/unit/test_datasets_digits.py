"""Digits: the same from every call, balanced, and something to learn."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from visiondyno.datasets.digits import SIDE_PIXELS, draw_digit, ensure_digits
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import DatasetError


def pixels(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = [draw_digit(split, index) for index in range(count)]
    return np.stack([digit.pixels for digit in drawn]), np.array([d.class_id for d in drawn])


def test_a_digit_is_the_same_on_every_call_and_differs_between_splits() -> None:
    for index in range(20):
        first, again = draw_digit("val", index), draw_digit("val", index)
        assert first.class_id == again.class_id == index % 10
        np.testing.assert_array_equal(first.pixels, again.pixels)
        assert (first.pixels.shape, first.pixels.dtype) == ((SIDE_PIXELS,) * 2, np.uint8)
        assert not np.array_equal(first.pixels, draw_digit("train", index).pixels)


def test_the_folder_holds_what_is_drawn(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    folder = ensure_digits("demo", 25, tmp_path, on_progress=lambda *at: told.append(at))
    assert (folder.name, told) == ("digits-v1-demo-25", [(25, 25)])
    for index in range(25):
        path = folder / str(index % 10) / f"{index:05d}.png"
        stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(stored, draw_digit("demo", index).pixels)
    assert ensure_digits("demo", 25, tmp_path, on_progress=lambda *at: told.append(at)) == folder
    assert told == [(25, 25)], "reused"


def test_it_opens_by_its_name_with_every_class(tmp_path: Path) -> None:
    dataset = open_dataset("digits:demo:30", cache_dir=tmp_path)
    assert (dataset.task, dataset.classes) == ("classification", tuple("0123456789"))
    labels = [dataset.sample(index).truth.class_id for index in range(len(dataset))]
    assert np.bincount(labels).tolist() == [3] * 10
    prefix = open_dataset("digits:demo:30", cache_dir=tmp_path, max_images=4)
    assert prefix.notes == ("The first 4 images, by name, are of 2 of 10 classes only",)


def test_a_damaged_folder_is_drawn_anew(tmp_path: Path) -> None:
    folder = ensure_digits("demo", 10, tmp_path)
    path = folder / "3" / "00003.png"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"")
    (tmp_path / ".digits-v1-demo-10.left.part").mkdir()
    ensure_digits("demo", 10, tmp_path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".digits-v1-demo-10.lock", "digits-v1-demo-10",
    ]  # fmt: skip


def test_neighbours_tell_digits_apart_and_a_linear_reader_does_not() -> None:
    """Hard enough to need shapes, and learnable: chance is 0.1 for both."""
    train, train_labels = pixels("train", 2000)
    val, val_labels = pixels("val", 200)

    def edges(images: np.ndarray) -> np.ndarray:
        """Strength of edges, blurred: the same for dark ink and light ink."""
        found = []
        for image in images.astype(np.float32):
            smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
            size = np.hypot(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1))
            flat = cv2.GaussianBlur(size, (0, 0), 1.0).ravel()
            found.append((flat - flat.mean()) / flat.std())
        return np.stack(found)

    nearest = (edges(val) @ edges(train).T).argmax(axis=1)
    assert (train_labels[nearest] == val_labels).mean() > 0.6
    flat = train.reshape(len(train), -1) / 255.0
    ridge = flat.T @ flat + 10 * np.eye(flat.shape[1])
    weights = np.linalg.solve(ridge, flat.T @ np.eye(10)[train_labels])
    linear = (val.reshape(len(val), -1) / 255.0 @ weights).argmax(axis=1)
    assert (linear == val_labels).mean() < 0.5


@pytest.mark.parametrize("count", [0, 100_001])
def test_counts_have_limits(tmp_path: Path, count: int) -> None:
    with pytest.raises(DatasetError, match="ask for 1 to 100000"):
        ensure_digits("val", count, tmp_path)


def test_an_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no split 'night'"):
        ensure_digits("night", 1, tmp_path)
    with pytest.raises(DatasetError, match=r"digits\[:SPLIT"):
        open_dataset("digits:night")


def test_a_cache_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="The digits can't be written"):
        ensure_digits("val", 1, tmp_path / "file")
