"""Annotations: seen, inside the image, and on a copy."""

import numpy as np
import pytest

from visiondyno.predictions import Classification, Detections
from visiondyno.vision.draw import class_colour, draw

NAMES = ("car", "truck", "straße")


def boxes(*rows: tuple[float, float, float, float]) -> Detections:
    return Detections(
        np.array(rows, np.float32),
        np.linspace(0.9, 0.5, len(rows), dtype=np.float32),
        np.arange(len(rows)) % 3,
    )


@pytest.mark.parametrize("background", [0, 127, 255])
def test_boxes_and_labels_show_on_any_background(background: int) -> None:
    image = np.full((240, 320, 3), background, np.uint8)
    drawn = draw(image, boxes((60, 80, 200, 180)), NAMES)
    assert drawn.shape == image.shape
    assert (image == background).all()
    changed = (drawn != background).any(axis=2)
    assert changed[80, 60:200].all()
    assert changed[80:180, 60].all()
    assert not changed[100:160, 80:180].any()
    # The label stands above the box, in its class's colour.
    assert (drawn[:79] == class_colour(0)).all(axis=2).sum() > 300


@pytest.mark.parametrize(
    "row", [(0, 0, 40, 30), (300, 220, 320, 240), (-50, -50, 500, 500), (310, 0, 320, 5)]
)
def test_labels_stay_inside_the_image(row: tuple[float, float, float, float]) -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    drawn = draw(image, boxes(row), NAMES)
    label = (drawn == class_colour(0)).all(axis=2)
    # More than the box's thin lines: a filled label is visible.
    assert label.sum() > 300


def test_the_best_box_lies_on_top() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    drawn = draw(image, boxes((20, 40, 80, 90), (20, 40, 80, 90)), NAMES)
    np.testing.assert_array_equal(drawn[90, 50], class_colour(0))


def test_nothing_found_leaves_the_image_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw(image, Detections(), NAMES), image)


def test_tiny_images_are_drawn_on() -> None:
    image = np.zeros((3, 2, 3), np.uint8)
    assert draw(image, boxes((0, 0, 2, 3)), NAMES).any()


def test_classes_are_listed_best_first() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    drawn = draw(image, Classification(np.array([0.1, 0.2, 0.7], np.float32)), NAMES)
    first_row = np.argwhere((drawn == class_colour(2)).all(axis=2))[:, 0].mean()
    last_row = np.argwhere((drawn == class_colour(0)).all(axis=2))[:, 0].mean()
    assert first_row < last_row


def test_colours_differ() -> None:
    assert len({class_colour(index) for index in range(80)}) == 80
