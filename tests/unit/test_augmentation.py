from pathlib import Path

import cv2
import numpy as np
import pytest

from visiondyno.errors import DatasetError
from visiondyno.training.vision.augmentation import augmented
from visiondyno.training.vision.base import LabelledImage


@pytest.fixture
def image(tmp_path: Path) -> LabelledImage:
    """A red block where its box is."""
    pixels = np.full((20, 30, 3), 100, np.uint8)
    pixels[4:9, 2:12] = (0, 0, 200)
    cv2.imwrite(str(tmp_path / "image.png"), pixels)
    box = np.array([[2.0, 4.0, 12.0, 9.0]])
    return LabelledImage(tmp_path / "image.png", 30, 20, box, np.array([1]))


def drawn(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_mirrored_box_surrounds_what_it_did(image: LabelledImage) -> None:
    plain = augmented(image, drawn(), flip=0, brightness=0)
    mirrored = augmented(image, drawn(), flip=1, brightness=0)
    for one in (plain, mirrored):
        left, top, right, bottom = one.boxes_xyxy[0].astype(int)
        is_red = one.pixels[..., 2] == 200
        assert is_red[top:bottom, left:right].all()
        assert is_red.sum() == (right - left) * (bottom - top)
    assert mirrored.boxes_xyxy.tolist() == [[18, 4, 28, 9]]
    np.testing.assert_array_equal(mirrored.pixels, plain.pixels[:, ::-1])


def test_brightness_is_a_factor_within_its_limits(image: LabelledImage) -> None:
    factors = set()
    for seed in range(20):
        one = augmented(image, drawn(seed), flip=0, brightness=0.5)
        factors.add(int(one.pixels[0, 0, 0]))
        assert one.boxes_xyxy.tolist() == image.boxes_xyxy.tolist()
    assert min(factors) >= 50
    assert max(factors) <= 150
    assert len(factors) > 10


def test_as_many_numbers_are_drawn_whatever_comes_of_them(image: LabelledImage) -> None:
    one, other = drawn(), drawn()
    augmented(image, one, flip=1, brightness=0.5)
    augmented(image, other, flip=0, brightness=0)
    assert one.random() == other.random()


def test_an_image_that_is_gone_is_named(image: LabelledImage) -> None:
    image.path.unlink()
    with pytest.raises(DatasetError, match=r"image\.png"):
        augmented(image, drawn(), flip=0.5, brightness=0.3)
