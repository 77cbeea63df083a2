"""Predictions as JSON and as pictures."""

import base64
import json
from typing import Any

import cv2
import numpy as np
import pytest

from visiondyno.errors import ModelError
from visiondyno.predictions import Classification, DepthMap, Detections
from visiondyno.serving.bodies import body_of, depth_unit
from visiondyno.serving.wire import Media
from visiondyno.specs.model_card import DepthCard, InputCard, ModelCard

IMAGE = np.full((40, 60, 3), 128, np.uint8)
INPUT = InputCard(height=32, width=32)
NAMES = ("car", "bus")


def depth_card(output: Any, alignment: Any) -> ModelCard:
    depth = DepthCard(output=output, alignment=alignment)
    return ModelCard(task="depth", head="depth", input=INPUT, depth=depth)


METRES = depth_card("depth", "none")
INVERSE = depth_card("inverse_depth", "scale_and_shift")
DETECTOR = ModelCard(task="detection", head="end_to_end", classes=NAMES, input=INPUT)
BOXES = Detections(
    np.array([[1, 2, 30, 35], [5, 5, 20, 20]], np.float32),
    np.array([0.9, 0.4], np.float32),
    np.array([0, 1]),
)


def decoded(body: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(
    ("card", "unit"),
    [
        (METRES, "metres"),
        (depth_card("inverse_depth", "none"), "1/metres"),
        (depth_card("depth", "median_scale"), "relative_depth"),
        (INVERSE, "relative_inverse_depth"),
        (ModelCard(task="depth", head="depth", input=INPUT), "relative_inverse_depth"),
    ],
    ids=range(5),
)
def test_a_depth_has_the_unit_of_its_card(card: ModelCard, unit: str) -> None:
    assert depth_unit(card) == unit
    depth = np.linspace(0.5, 80, 40 * 60, dtype=np.float32).reshape(40, 60)
    media, body = body_of(DepthMap(depth), IMAGE, card, {}, 0.0)
    answer = json.loads(body)
    assert media is Media.JSON
    assert (answer["width"], answer["height"]) == (60, 40)
    assert answer["depth"]["unit"] == unit
    sent = np.frombuffer(base64.b64decode(answer["depth"]["data"]), "<f4")
    assert np.array_equal(sent.reshape(answer["depth"]["shape"]), depth)


def test_a_depth_in_metres_is_millimetres_in_a_png() -> None:
    depth = np.array([[0.001, 1.2345], [100.0, np.nan]], np.float32)
    media, body = body_of(DepthMap(depth), IMAGE[:2, :2], METRES, {"format": "png"}, 0.0)
    assert media is Media.PNG
    assert decoded(body).tolist() == [[1, 1234], [65535, 0]]
    assert decoded(body).dtype == np.uint16


@pytest.mark.parametrize(
    ("depth", "stored"),
    [([[2, 4], [3, 2]], [[0, 65535], [32768, 0]]), ([[7, 7], [7, 7]], [[0, 0], [0, 0]])],
    ids=[0, 1],
)
def test_a_relative_depth_uses_all_of_a_png(depth: Any, stored: Any) -> None:
    found = DepthMap(np.array(depth, np.float32))
    _, body = body_of(found, IMAGE[:2, :2], INVERSE, {"format": "png"}, 0.0)
    assert decoded(body).tolist() == stored


@pytest.mark.parametrize(("card", "near_is_right"), [(METRES, False), (INVERSE, True)], ids=[0, 1])
def test_what_is_near_is_bright(card: ModelCard, near_is_right: bool) -> None:
    depth = np.tile(np.linspace(1, 9, 64, dtype=np.float32), (32, 1))
    media, body = body_of(DepthMap(depth), IMAGE, card, {"format": "jpeg"}, 0.0)
    assert media is Media.JPEG
    left, right = decoded(body)[:, :8].mean(), decoded(body)[:, -8:].mean()
    assert bool(right > left) is near_is_right


def test_drawn_is_what_was_asked_for() -> None:
    def drawn(options: dict[str, Any]) -> Any:
        return decoded(body_of(BOXES, IMAGE, DETECTOR, {"format": "png", **options}, 0.1)[1])

    both, car, none = drawn({}), drawn({"classes": [0]}), drawn({"classes": []})
    assert np.array_equal(none, IMAGE)
    assert not np.array_equal(both, car)
    assert not np.array_equal(car, none)
    classifier = DETECTOR.model_copy(update={"task": "classification"})
    shares = Classification(np.array([0.7, 0.3], np.float32))
    wanted = {"format": "png"}
    one = body_of(shares, IMAGE, classifier, {**wanted, "classes": [1]}, 0.0)[1]
    assert one != body_of(shares, IMAGE, classifier, wanted, 0.0)[1]


def test_what_has_no_picture_is_told() -> None:
    options = {"format": "png", "classes": [0]}
    with pytest.raises(ModelError, match="can't be drawn"):
        body_of("no prediction", IMAGE, DETECTOR, options, 0.0)  # type: ignore[arg-type]
