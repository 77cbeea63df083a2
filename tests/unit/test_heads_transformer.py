"""Heads of DETR and of separate boxes, scores and classes, against the papers' formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import ModelError
from visiondyno.predictions import Detections, Predictions
from visiondyno.specs.model_card import DetectionCard, HeadName, InputCard, ModelCard, OutputCard
from visiondyno.vision.heads import HEADS
from visiondyno.vision.preprocess import Geometry

NAMES = ("car", "truck", "sign")
WIDTH, HEIGHT = 80, 60
SAME = Geometry(1, 1, 0, 0, WIDTH, HEIGHT)


def card(head: HeadName, output: dict[str, object] | None = None, **settings: object) -> ModelCard:
    return ModelCard(
        task="detection",
        head=head,
        classes=NAMES,
        input=InputCard(height=HEIGHT, width=WIDTH),
        output=None if output is None else OutputCard.model_validate(output),
        detection=DetectionCard.model_validate({"nms_iou": None, "confidence": 0.1} | settings),
    )


def read(
    outputs: list[np.ndarray], by: ModelCard, places: list[Geometry] | None = None
) -> list[Detections]:
    found: list[Predictions] = HEADS[by.head].decode(outputs, by, places or [SAME], 0.1)
    assert all(isinstance(one, Detections) for one in found)
    return found  # type: ignore[return-value]


def f32(values: object) -> np.ndarray:
    return np.array(values, np.float32)


# ---- DETR


def restated_detr(logits: np.ndarray, boxes: np.ndarray) -> list[tuple[float, int, list[float]]]:
    """Carion et al. 2020: softmax, the no-object class left out, the best class of a query."""
    found = []
    for row, (cx, cy, w, h) in zip(logits.astype(float), boxes.astype(float), strict=True):
        shares = np.exp(row - row.max())
        shares = (shares / shares.sum())[:-1]
        best = int(shares.argmax())
        box = [(cx - w / 2) * WIDTH, (cy - h / 2) * HEIGHT, (cx + w / 2) * WIDTH]
        found.append((float(shares[best]), best, [*box, (cy + h / 2) * HEIGHT]))
    return sorted((one for one in found if one[0] > 0.1), key=lambda one: -one[0])


def restated_rt_detr(
    logits: np.ndarray, boxes: np.ndarray, most: int
) -> list[tuple[float, int, list[float]]]:
    """Deformable DETR, RT-DETR: sigmoid, the best pairs of query and class."""
    scores = 1 / (1 + np.exp(-logits.astype(float)))
    pairs = np.argsort(-scores.reshape(-1), kind="stable")[:most]
    found = []
    for pair in pairs:
        query, class_id = divmod(int(pair), logits.shape[1])
        cx, cy, w, h = boxes[query].astype(float)
        box = [(cx - w / 2) * WIDTH, (cy - h / 2) * HEIGHT, (cx + w / 2) * WIDTH]
        found.append((float(scores[query, class_id]), class_id, [*box, (cy + h / 2) * HEIGHT]))
    return [one for one in found if one[0] > 0.1]


def random_queries(seed: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(-1, 2, (1, 20, columns)).astype(np.float32)
    centre, size = random.uniform(0.3, 0.7, (20, 2)), random.uniform(0.05, 0.5, (20, 2))
    return logits, f32(np.concatenate([centre, size], axis=1))[None]


def assert_is(found: Detections, expected: list[tuple[float, int, list[float]]]) -> None:
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.scores, [one[0] for one in expected], atol=1e-5)
    assert found.class_ids.tolist() == [one[1] for one in expected]
    if expected:
        np.testing.assert_allclose(found.boxes_xyxy, [one[2] for one in expected], atol=1e-3)


@given(st.integers(0, 10_000))
def test_detr_is_its_paper(seed: int) -> None:
    logits, boxes = random_queries(seed, 4)
    by = card("detr", {"score_activation": "softmax_with_background"}, several_classes_a_box=False)
    assert_is(read([logits, boxes], by)[0], restated_detr(logits[0], boxes[0]))


@given(st.integers(0, 10_000), st.integers(1, 70))
def test_rt_detr_keeps_the_best_pairs(seed: int, most: int) -> None:
    logits, boxes = random_queries(seed, 3)
    by = card("detr", max_detections=most)
    assert_is(read([logits, boxes], by)[0], restated_rt_detr(logits[0], boxes[0], most))


def test_detr_in_one_output_and_in_the_other_order() -> None:
    logits, boxes = random_queries(1, 3)
    expected = read([logits, boxes], card("detr"))[0]
    swapped = read([boxes, logits], card("detr", {"roles": ["boxes", "scores"]}))[0]
    np.testing.assert_array_equal(swapped.boxes_xyxy, expected.boxes_xyxy)
    scores = 1 / (1 + np.exp(-logits))
    whole = np.concatenate([boxes, scores], axis=2)
    by = card("detr", {"roles": ["boxes_and_scores", "unused"], "score_activation": "none"})
    one = read([whole, np.zeros((1, 9, 9), np.float32)], by)[0]
    np.testing.assert_allclose(one.boxes_xyxy, expected.boxes_xyxy, atol=1e-4)
    with pytest.raises(ModelError, match="aren't between 0 and 1"):
        read([logits, boxes], card("detr", {"score_activation": "none"}))


WRONG_DETR = {
    "one output": ([(1, 20, 3)], {}, "reads 2 outputs"),
    "roles": ([(1, 20, 3), (1, 20, 4)], {"roles": ["scores", "scores"]}, "needs outputs of"),
    "rank": ([(1, 3), (1, 20, 4)], {}, "reads an output"),
    "box of five": ([(1, 20, 3), (1, 20, 5)], {}, "reads an output"),
    "queries": ([(1, 20, 3), (1, 21, 4)], {}, "reads an output"),
    "classes": ([(1, 20, 4), (1, 20, 4)], {}, "has 4 classes, but 3"),
    "background": (
        [(1, 20, 3), (1, 20, 4)],
        {"score_activation": "softmax_with_background"},
        "has 2 classes, but 3",
    ),
    "nothing left": ([(1, 20, 4)], {"roles": ["boxes_and_scores"]}, "reads an output"),
    "images": ([(2, 20, 3), (2, 20, 4)], {}, "1 images went in"),
}


@pytest.mark.parametrize("kind", WRONG_DETR)
def test_detr_refuses_what_does_not_fit(kind: str) -> None:
    shapes, output, message = WRONG_DETR[kind]
    outputs = [np.zeros(shape, np.float32) for shape in shapes]
    with pytest.raises(ModelError, match=message):
        read(outputs, card("detr", output))


def test_shapes_that_are_not_known_yet_pass() -> None:
    HEADS["detr"].check([(None, None, None), (None, None, 4)], card("detr"))
    HEADS["boxes_scores_classes"].check(
        [(None, None, None), (None, None), (None, None)], card("boxes_scores_classes")
    )


# ---- boxes, scores, classes

BOXES = f32([[[10, 12, 30, 40], [1, 2, 9, 8], [5, 5, 20, 20], [0, 0, 0, 0]]])
SCORES = f32([[0.5, 0.9, 0.05, 0.0]])
NUMBERS = f32([[2, 0, 1, 0]])


def test_boxes_scores_and_classes_in_pixels() -> None:
    found = read([BOXES, SCORES, NUMBERS], card("boxes_scores_classes"))[0]
    np.testing.assert_allclose(found.boxes_xyxy, [[1, 2, 9, 8], [10, 12, 30, 40]])
    np.testing.assert_allclose(found.scores, [0.9, 0.5])
    assert found.class_ids.tolist() == [0, 2]


def test_tensorflow_boxes_count_from_one_and_stop_at_the_count() -> None:
    size = f32([HEIGHT, WIDTH] * 2)
    boxes = BOXES[..., [1, 0, 3, 2]] / size
    output = {
        "roles": ["count", "classes", "unused", "boxes", "scores"],
        "boxes": "yxyx_normalised",
        "first_class": 1,
    }
    rest = [NUMBERS + 1, np.zeros((1, 4, 9), np.float32), boxes, SCORES]
    by = card("boxes_scores_classes", output)
    place = Geometry(0.5, 0.5, 0, 0, 2 * WIDTH, 2 * HEIGHT)
    found = read([f32([4]), *rest], by, [place])[0]
    np.testing.assert_allclose(found.boxes_xyxy, [[2, 4, 18, 16], [20, 24, 60, 80]], rtol=1e-5)
    assert found.class_ids.tolist() == [0, 2]
    assert read([f32([1]), *rest], by)[0].class_ids.tolist() == [2]
    with pytest.raises(ModelError, match="of role 'count' holds"):
        read([f32([4, 4]), *rest], by)
    with pytest.raises(ModelError, match="class number 0, but 3 class names are given from number"):
        read([f32([4]), NUMBERS, *rest[1:]], by)


@pytest.mark.parametrize("form", ["xyxy_normalised", "cxcywh_normalised"])
def test_fractions_are_of_the_input(form: str) -> None:
    boxes = BOXES / f32([WIDTH, HEIGHT] * 2)
    if form == "cxcywh_normalised":
        low, high = boxes[..., :2], boxes[..., 2:]
        boxes = np.concatenate([(low + high) / 2, high - low], axis=-1)
    found = read([boxes, SCORES, NUMBERS], card("boxes_scores_classes", {"boxes": form}))[0]
    np.testing.assert_allclose(found.boxes_xyxy, [[1, 2, 9, 8], [10, 12, 30, 40]], rtol=1e-5)
    rows = np.concatenate([boxes, SCORES[..., None], NUMBERS[..., None]], axis=2)
    end = read([rows], card("end_to_end", {"boxes": form}))[0]
    np.testing.assert_allclose(end.boxes_xyxy, found.boxes_xyxy)


def test_no_axis_of_images_is_one_image() -> None:
    expected = read([BOXES, SCORES, NUMBERS], card("boxes_scores_classes"))[0]
    alone = [BOXES[0], SCORES[0], NUMBERS[0].astype(np.int64)]
    head, by = HEADS["boxes_scores_classes"], card("boxes_scores_classes")
    assert head.lacks_batch_axis([one.shape for one in alone], by)
    found = read(alone, by)[0]
    np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
    with pytest.raises(ModelError, match="2 images went in"):
        read(alone, by, [SAME, SAME])


def test_a_box_and_its_score_in_one_output() -> None:
    expected = read([BOXES, SCORES, NUMBERS], card("boxes_scores_classes"))[0]
    both = np.concatenate([BOXES, SCORES[..., None]], axis=2)
    by = card("boxes_scores_classes", {"roles": ["boxes_and_scores", "classes"]})
    found = read([both, NUMBERS.astype(np.int64)], by)[0]
    np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
    np.testing.assert_array_equal(found.scores, expected.scores)


WRONG_TRIPLES = {
    "two outputs": ([(1, 4, 4), (1, 4)], {}, "reads 3 outputs"),
    "roles": ([(1, 4, 4), (1, 4)], {"roles": ["boxes", "classes"]}, "needs outputs of"),
    "twice": ([(1, 4, 4)] * 3, {"roles": ["boxes", "boxes", "classes"]}, "needs outputs of"),
    "columns": ([(1, 4, 5), (1, 4), (1, 4)], {}, "reads an output"),
    "axes": ([(1, 4, 4), (1, 4, 1), (1, 4)], {}, "reads an output"),
    "rows": ([(1, 4, 4), (1, 5), (1, 4)], {}, "reads an output"),
    "images": ([(2, 4, 4), (2, 4), (2, 4)], {}, "1 images went in"),
}


@pytest.mark.parametrize("kind", WRONG_TRIPLES)
def test_triples_that_do_not_fit_are_refused(kind: str) -> None:
    shapes, output, message = WRONG_TRIPLES[kind]
    outputs = [np.zeros(shape, np.float32) for shape in shapes]
    with pytest.raises(ModelError, match=message):
        read(outputs, card("boxes_scores_classes", output))
