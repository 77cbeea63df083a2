"""Box conversions and what a labelled box may be."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.datasets.boxes import (
    box_problem,
    box_truth,
    coco_to_xyxy,
    polygon_area,
    polygon_box,
    xyxy_to_coco,
    xyxy_to_yolo,
    yolo_to_xyxy,
)

sides = st.integers(1, 16384)
fractions = st.floats(0, 1)
coordinates = st.floats(-20000, 20000)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates)


@given(boxes)
def test_coco_there_and_back(box) -> None:
    assert xyxy_to_coco(coco_to_xyxy(box)) == pytest.approx(box, abs=1e-9)


@given(boxes, sides, sides)
def test_yolo_there_and_back(box, width: int, height: int) -> None:
    assert yolo_to_xyxy(xyxy_to_yolo(box, width, height), width, height) == pytest.approx(
        box, abs=1e-8
    )


@given(boxes, sides, sides)
def test_coco_and_yolo_name_the_same_box(box, width: int, height: int) -> None:
    left, top, box_width, box_height = box
    yolo = (
        (left + box_width / 2) / width,
        (top + box_height / 2) / height,
        box_width / width,
        box_height / height,
    )
    assert yolo_to_xyxy(yolo, width, height) == pytest.approx(coco_to_xyxy(box), abs=1e-8)


def test_conversions_by_hand() -> None:
    assert coco_to_xyxy((10, 20, 30, 40)) == (10, 20, 40, 60)
    assert yolo_to_xyxy((0.5, 0.5, 0.5, 0.25), 200, 80) == (50, 30, 150, 50)
    assert xyxy_to_yolo((50, 30, 150, 50), 200, 80) == (0.5, 0.5, 0.5, 0.25)


@given(coordinates, coordinates, st.floats(0.1, 1000), st.floats(0.1, 1000))
def test_a_rectangle_s_polygon_is_its_box(left, top, width, height) -> None:
    right, bottom = left + width, top + height
    points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    assert polygon_box(points) == (left, top, right, bottom)
    # Coordinates of 2·10⁴ leave about 10⁻⁷ of a product.
    assert polygon_area(points) == pytest.approx(width * height, rel=1e-5, abs=1e-5)


def test_area_of_a_triangle_whichever_way_it_turns() -> None:
    points = [(0.0, 0.0), (6.0, 0.0), (0.0, 5.0)]
    assert polygon_area(points) == polygon_area(points[::-1]) == 15


@given(sides, sides, fractions, fractions, fractions, fractions)
def test_a_box_inside_its_image_is_right(width, height, a, b, c, d) -> None:
    box = (min(a, b) * width, min(c, d) * height, max(a, b) * width, max(c, d) * height)
    assert (box_problem(box, width, height) is None) == (box[0] < box[2] and box[1] < box[3])


@pytest.mark.parametrize("edge", range(4))
@pytest.mark.parametrize(("outside", "right"), [(0.99, True), (1.01, False), (50, False)])
def test_a_pixel_of_rounding_is_allowed(edge: int, outside: float, right: bool) -> None:
    box = [0.0, 0.0, 60.0, 40.0]
    box[edge] += -outside if edge < 2 else outside
    problem = box_problem(tuple(box), 60, 40)
    assert problem is None if right else "outside the 60×40 image" in problem


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_must_be_finite(value: float) -> None:
    assert "finite" in box_problem((0, 0, value, 5), 10, 10)


def test_truth_of_no_boxes_keeps_its_shape() -> None:
    truth = box_truth([], [], [])
    assert truth.boxes_xyxy.shape == (0, 4)
    assert [len(truth), truth.is_crowd.dtype, truth.class_ids.dtype] == [0, np.bool_, np.int64]
