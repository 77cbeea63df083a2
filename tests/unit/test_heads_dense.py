"""NanoDet, RetinaNet, FCOS and depth: encodings turned round, and every wrong shape refused."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import ModelError
from visiondyno.predictions import DepthMap, Detections
from visiondyno.specs.model_card import DetectionCard, HeadName, InputCard, ModelCard, OutputCard
from visiondyno.vision.heads import HEADS
from visiondyno.vision.heads.grid import (
    anchor_shapes,
    cells_at,
    from_anchor_offsets,
    from_distances,
    levels_of,
)
from visiondyno.vision.preprocess import Geometry, Preprocessor

NAMES = ("car", "truck", "sign")
HEIGHT, WIDTH = 96, 160
SAME = Geometry(1, 1, 0, 0, WIDTH, HEIGHT)
STRIDES = (8, 16, 32, 64, 128)
LEVELS = [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]


def card(head: HeadName, output: dict[str, object] | None = None, **settings: object) -> ModelCard:
    chosen = {"nms_iou": 0.6, "confidence": 0.1, "clip_to_image": False} | settings
    return ModelCard(
        task="detection",
        head=head,
        classes=NAMES,
        input=InputCard(height=HEIGHT, width=WIDTH),
        output=None if output is None else OutputCard.model_validate(output),
        detection=DetectionCard.model_validate(chosen),
    )


def read(outputs: list[np.ndarray], by: ModelCard, confidence: float = 0.1) -> Detections:
    found = HEADS[by.head].decode(outputs, by, [SAME], confidence)[0]
    assert isinstance(found, Detections)
    return found


# ---- encodings, turned round

numbers = st.floats(-100, 100, width=32)
sizes = st.floats(1, 200, width=32)


box_xywh = st.tuples(numbers, numbers, sizes, sizes)


@given(box_xywh, box_xywh)
def test_anchor_offsets_turn_round(
    box: tuple[float, float, float, float], base: tuple[float, float, float, float]
) -> None:
    (x, y, w, h), (ax, ay, aw, ah) = box, base
    anchor = np.array([[ax - aw / 2, ay - ah / 2, ax + aw / 2, ay + ah / 2]], np.float32)
    offsets = np.array([[(x - ax) / aw, (y - ay) / ah, np.log(w / aw), np.log(h / ah)]])
    found = from_anchor_offsets(offsets.astype(np.float32), anchor)
    # A size ratio above 1000/16 is cut, as torchvision does.
    w, h = min(w, aw * 62.5), min(h, ah * 62.5)
    np.testing.assert_allclose(found, [[x - w / 2, y - h / 2, x + w / 2, y + h / 2]], atol=0.05)


@given(st.lists(numbers, min_size=6, max_size=6))
def test_distances_turn_round(values: list[float]) -> None:
    left, top, right, bottom, x, y = np.array(values, np.float32)
    distances = np.array([[x - left, y - top, right - x, bottom - y]], np.float32)
    found = from_distances(distances, np.array([[x, y]], np.float32))
    np.testing.assert_allclose(found, [[left, top, right, bottom]], atol=1e-3)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 9))
def test_cells_come_level_by_level_row_by_row(height: int, width: int, each: int) -> None:
    levels = levels_of(InputCard(height=height, width=width), STRIDES)
    expected = [
        (column * stride, row * stride, level, which)
        for level, (stride, (rows, columns)) in enumerate(zip(STRIDES, levels, strict=True))
        for row in range(rows)
        for column in range(columns)
        for which in range(each)
    ]
    corners, level, which = cells_at(np.arange(len(expected)), levels, STRIDES, each)
    found = np.column_stack([corners, level, which])
    np.testing.assert_array_equal(found, expected)


def test_anchors_have_nine_shapes_a_level() -> None:
    shapes = anchor_shapes(STRIDES)
    assert shapes.shape == (5, 9, 4)
    # Base side 32 at stride 8; scales 32, 40, 50; ratio 1 is rows 3 to 5.
    np.testing.assert_array_equal(shapes[0, 3], [-16, -16, 16, 16])
    np.testing.assert_array_equal(shapes[0, 5], [-25, -25, 25, 25])
    np.testing.assert_array_equal(shapes[4, 3], [-256, -256, 256, 256])
    sides = shapes[..., 2:] - shapes[..., :2]
    ratio = sides[..., 1] / sides[..., 0]
    np.testing.assert_allclose(ratio.reshape(5, 3, 3).mean(axis=2), [[0.5, 1, 2]] * 5, rtol=0.06)


# ---- NanoDet

CELLS = sum(rows * columns for rows, columns in LEVELS[:4])


def nanodet_output(bins: int = 8) -> np.ndarray:
    return np.zeros((1, CELLS, 3 + 4 * bins), np.float32)


def put_distances(row: np.ndarray, distances: list[float], bins: int = 8) -> None:
    """Logits whose expectations are `distances`: two neighbouring bins share the mass."""
    for side, distance in enumerate(distances):
        low = int(distance)
        shares = np.full(bins, 1e-12)
        shares[low] = 1 - (distance - low)
        shares[min(low + 1, bins - 1)] += distance - low
        row[3 + side * bins : 3 + (side + 1) * bins] = np.log(shares + 1e-12)


@given(
    st.integers(0, CELLS - 1),
    st.lists(st.floats(0.5, 6.9), min_size=4, max_size=4),
    st.sampled_from([0.0, 0.5]),
)
def test_nanodet_boxes_are_expectations(cell: int, distances: list[float], offset: float) -> None:
    output = nanodet_output()
    output[0, cell, 1] = 0.8
    put_distances(output[0, cell], distances)
    found = read([output], card("nanodet", {"cell_offset": offset}))
    corners, level, _ = cells_at(np.array([cell]), tuple(LEVELS[:4]), STRIDES[:4])
    stride = STRIDES[level[0]]
    (x, y), (left, top, right, bottom) = corners[0] + offset * stride, distances
    expected = [x - left * stride, y - top * stride, x + right * stride, y + bottom * stride]
    np.testing.assert_allclose(found.boxes_xyxy, [expected], atol=0.02)
    np.testing.assert_allclose(found.scores, [0.8], rtol=1e-6)
    assert found.class_ids.tolist() == [1]


def test_nanodet_by_other_strides_bins_and_logits() -> None:
    output = np.full((1, 12 * 20 + 6 * 10 + 3 * 5, 3 + 4 * 11), -9.0, np.float32)
    output[0, 21, 2] = 1.5
    put_distances(output[0, 21], [1, 1, 10, 2], bins=11)
    said = {"strides": (8, 16, 32), "cell_offset": 0.5, "score_activation": "sigmoid"}
    found = read([output], card("nanodet", said))
    np.testing.assert_allclose(found.boxes_xyxy, [[4, 4, 92, 28]], atol=0.01)
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-1.5))], rtol=1e-5)
    cut = read([output], card("nanodet", said, clip_to_image=True))
    np.testing.assert_allclose(cut.boxes_xyxy, found.boxes_xyxy)


def test_nanodet_cuts_at_the_input_before_nms() -> None:
    output = nanodet_output()
    for cell, distances in ((0, [6, 6, 3, 3]), (1, [3, 6, 2, 3])):
        output[0, cell, 0] = 0.9 - cell / 10
        put_distances(output[0, cell], distances)
    # Uncut they overlap by less than .6; cut they are the same box.
    assert len(read([output], card("nanodet"))) == 2
    found = read([output], card("nanodet", clip_to_image=True))
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 24, 24]], atol=0.01)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, CELLS, 3 + 31), "can't hold 3 classes"),
        ((1, CELLS, 3 + 4), "can't hold 3 classes"),
        ((1, CELLS + 1, 35), "reads an output"),
        ((1, 35), "reads an output"),
        ((2, CELLS, 35), "1 images went in"),
    ],
)
def test_nanodet_refuses_what_does_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read([np.zeros(shape, np.float32)], card("nanodet"))


# ---- RetinaNet and FCOS

ANCHORS = 9 * sum(rows * columns for rows, columns in LEVELS)
POINTS = ANCHORS // 9


def test_retinanet_with_nothing_to_add_answers_its_anchors() -> None:
    scores = np.full((1, ANCHORS, 3), -9.0, np.float32)
    boxes = np.zeros((1, ANCHORS, 4), np.float32)
    index = 9 * (12 * 20 + 2 * 10 + 3) + 4
    scores[0, index, 2] = 2.0
    found = read([scores, boxes], card("retinanet"))
    # Stride 16, row 2, column 3; base side 64, middle scale 80.6 cut to 80, ratio 1.
    np.testing.assert_allclose(found.boxes_xyxy, [[48 - 40, 32 - 40, 48 + 40, 32 + 40]])
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-2))], rtol=1e-5)
    cut = read([scores, boxes], card("retinanet", clip_to_image=True))
    np.testing.assert_allclose(cut.boxes_xyxy, [[8, 0, 88, 72]])


def test_fcos_scores_are_geometric_means_with_the_centerness() -> None:
    scores = np.zeros((1, POINTS, 3), np.float32)
    boxes, centre = np.zeros((1, POINTS, 4), np.float32), np.zeros((1, POINTS, 1), np.float32)
    scores[0, 240 + 13, 1], centre[0, 240 + 13] = 0.81, 0.25
    boxes[0, 240 + 13] = [1, 0.5, 2, 3]
    roles = {"roles": ["scores", "boxes", "centerness"], "boxes": "distances"}
    by = card("retinanet", roles | {"score_activation": "none", "cell_offset": 0.5})
    found = read([scores, boxes, centre], by)
    np.testing.assert_allclose(found.scores, [0.45], rtol=1e-6)
    np.testing.assert_allclose(found.boxes_xyxy, [[56 - 16, 24 - 8, 56 + 32, 24 + 48]])
    assert len(read([scores, boxes, centre], by, confidence=0.46)) == 0
    logits = [np.log(np.maximum(one, 1e-6) / (1 - one)) for one in (scores, centre)]
    again = card("retinanet", roles | {"cell_offset": 0.5})
    same = read([logits[0], boxes, logits[1]], again, confidence=0.2)
    np.testing.assert_allclose(same.scores, [0.45], rtol=1e-4)


@given(st.floats(0, 0.99), st.integers(0, 1000))
def test_a_lower_cut_only_adds_boxes(confidence: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(0, 3, (1, ANCHORS, 3)).astype(np.float32)
    boxes = random.normal(0, 0.3, (1, ANCHORS, 4)).astype(np.float32)
    by = card("retinanet", nms_iou=None, max_detections=10_000_000, max_candidates=10_000_000)
    expected = 1 / (1 + np.exp(-scores.astype(np.float64)))
    found = read([scores, boxes], by, confidence)
    clear = int((expected > confidence + 1e-6).sum())
    unclear = int((np.abs(expected - confidence) <= 1e-6).sum())
    assert clear <= len(found) <= clear + unclear


WRONG_DENSE = {
    "one output": ([(1, ANCHORS, 3)], {}, "reads 2 outputs"),
    "no boxes": ([(1, ANCHORS, 3)] * 2, {"roles": ["scores", "unused"]}, "needs outputs of"),
    "two levels": (
        [(1, ANCHORS, 3), (1, ANCHORS, 4)] * 2,
        {"roles": ["scores", "boxes"] * 2},
        "needs outputs of the roles scores, boxes",
    ),
    "rows": ([(1, ANCHORS - 1, 3), (1, ANCHORS, 4)], {}, "reads an output"),
    "classes": ([(1, ANCHORS, 4), (1, ANCHORS, 4)], {}, "has 4 classes, but 3"),
    "columns": ([(1, ANCHORS, 3), (1, ANCHORS, 5)], {}, "reads an output"),
    "rank": ([(1, 3), (1, ANCHORS, 4)], {}, "reads an output"),
    "images": ([(2, ANCHORS, 3), (2, ANCHORS, 4)], {}, "1 images went in"),
    "map": (
        [(1, 27, *LEVELS[0])] + [(1, 27, *level) for level in LEVELS[:-1]]
        + [(1, 36, *level) for level in LEVELS],
        {"roles": ["scores"] * 5 + ["boxes"] * 5},
        "reads an output",
    ),
    "channels": (
        [(1, 28, *level) for level in LEVELS] + [(1, 36, *level) for level in LEVELS],
        {"roles": ["scores"] * 5 + ["boxes"] * 5},
        "reads an output",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_DENSE)
def test_dense_heads_refuse_what_does_not_fit(kind: str) -> None:
    shapes, output, message = WRONG_DENSE[kind]
    outputs = [np.zeros(shape, np.float32) for shape in shapes]
    with pytest.raises(ModelError, match=message):
        read(outputs, card("retinanet", output))


# ---- depth


def depth_card(resize: str, height: int = 64, width: int = 96) -> ModelCard:
    said = {"height": height, "width": width, "resize": resize}
    return ModelCard(task="depth", head="depth", input=InputCard.model_validate(said))


def ramp_image(height: int, width: int) -> np.ndarray:
    """Grey levels that rise smoothly to the right and to the bottom."""
    x, y = np.meshgrid(np.linspace(20, 130, width), np.linspace(0, 100, height))
    return np.repeat((x + y)[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "letterbox_top_left"])
@pytest.mark.parametrize("size", [(64, 96), (48, 96), (120, 80), (333, 500), (31, 17)])
@pytest.mark.parametrize("shrink", [1, 2])
def test_depth_finds_its_way_back(resize: str, size: tuple[int, int], shrink: int) -> None:
    """A model that answers the grey level it sees gives the image back."""
    by, image = depth_card(resize), ramp_image(*size)
    batch = Preprocessor(by.input)([image])
    seen = np.ascontiguousarray(batch.tensor[0, 0] * 255)
    output = cv2.resize(seen, (96 // shrink, 64 // shrink), interpolation=cv2.INTER_AREA)
    found = HEADS["depth"].decode([output[None, None]], by, batch.geometries, 0.0)[0]
    assert isinstance(found, DepthMap)
    assert found.depth.shape == size
    assert found.depth.dtype == np.float32
    error = np.abs(found.depth - image[..., 0])
    # Half-size maps mix the border with the padding beside it.
    inner = error[size[0] // 8 : -size[0] // 8, size[1] // 8 : -size[1] // 8]
    assert (error if shrink == 1 else inner).max() < 8
    assert np.median(error) < 2


def test_depth_of_the_inputs_size_is_untouched() -> None:
    output = np.random.default_rng(0).normal(5, 2, (2, 64, 96, 1)).astype(np.float32)
    places = [Geometry(1, 1, 0, 0, 96, 64)] * 2
    found = HEADS["depth"].decode([output], depth_card("stretch"), places, 0.0)
    for one, expected in zip(found, output[..., 0], strict=True):
        assert isinstance(one, DepthMap)
        np.testing.assert_array_equal(one.depth, expected)


@pytest.mark.parametrize("shape", [(1, 2, 64, 96), (1, 64), (1, 1, 1, 64, 96)])
def test_depth_refuses_what_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="reads an output"):
        HEADS["depth"].decode([np.zeros(shape, np.float32)], depth_card("stretch"), [SAME], 0.0)
