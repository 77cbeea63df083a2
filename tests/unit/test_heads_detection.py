"""Each head reads its family's output: values worked out by hand or by the family's formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import ModelError
from visiondyno.predictions import Detections
from visiondyno.specs.model_card import DetectionCard, HeadName, InputCard, ModelCard
from visiondyno.vision.heads import HEADS, check_no_nan
from visiondyno.vision.preprocess import Geometry

NAMES = ("car", "truck", "sign")
SAME = Geometry(1, 1, 0, 0, 64, 64)


def card(head: HeadName, **settings: object) -> ModelCard:
    chosen = {"nms_iou": 0.5, "confidence": 0.1} | settings
    return ModelCard(
        task="detection",
        head=head,
        classes=NAMES,
        input=InputCard(height=64, width=64),
        detection=DetectionCard.model_validate(chosen),
    )


def read(output: np.ndarray, by: ModelCard, geometry: Geometry = SAME) -> Detections:
    found = HEADS[by.head].decode([output], by, [geometry], by.detection.confidence)  # type: ignore[union-attr]
    assert isinstance(found[0], Detections)
    return found[0]


def yolov8_output(rows: list[list[float]]) -> np.ndarray:
    """Rows of cx cy w h and 3 class scores, as [1, 7, n]."""
    return np.array(rows, np.float32).T[None]


def test_yolov8_boxes_scores_and_classes() -> None:
    output = yolov8_output([[20, 30, 10, 20, 0.05, 0.2, 0.1], [40, 40, 8, 8, 0.9, 0, 0]])
    found = read(output, card("yolov8"))
    np.testing.assert_allclose(found.boxes_xyxy, [[36, 36, 44, 44], [15, 20, 25, 40]])
    np.testing.assert_allclose(found.scores, [0.9, 0.2])
    # 0.1 isn't above the confidence of 0.1.
    assert found.class_ids.tolist() == [0, 1]


def test_several_classes_a_box_or_the_best() -> None:
    output = yolov8_output([[20, 30, 10, 20, 0.5, 0.7, 0.3]])
    assert read(output, card("yolov8")).class_ids.tolist() == [1, 0, 2]
    best = read(output, card("yolov8", several_classes_a_box=False))
    assert best.class_ids.tolist() == [1]


def test_nms_is_class_wise_and_can_be_left_out() -> None:
    rows = [[20, 20, 10, 10, 0.9, 0, 0], [20, 20, 10, 10, 0.8, 0, 0], [20, 20, 10, 10, 0, 0.7, 0]]
    np.testing.assert_allclose(read(yolov8_output(rows), card("yolov8")).scores, [0.9, 0.7])
    everything = read(yolov8_output(rows), card("yolov8", nms_iou=None))
    np.testing.assert_allclose(everything.scores, [0.9, 0.8, 0.7])


def test_limits_keep_the_best() -> None:
    rows = [[8 * i, 32, 6, 6, 0.9 - i / 10, 0, 0] for i in range(6)]
    output = yolov8_output(rows)
    best = read(output, card("yolov8", max_detections=2))
    np.testing.assert_allclose(best.scores, [0.9, 0.8])
    few = read(output, card("yolov8", max_candidates=3))
    np.testing.assert_allclose(few.scores, [0.9, 0.8, 0.7], rtol=1e-6)


def test_boxes_are_cut_at_the_image_or_not_as_the_card_says() -> None:
    geometry = Geometry(0.5, 0.5, 10, 0, 80, 100)
    output = yolov8_output([[10, 10, 20, 40, 0.9, 0, 0], [-30, 10, 20, 20, 0.8, 0, 0]])
    cut = read(output, card("yolov8"), geometry)
    np.testing.assert_allclose(cut.boxes_xyxy, [[0, 0, 20, 60]])
    whole = read(output, card("yolov8", clip_to_image=False), geometry)
    np.testing.assert_allclose(whole.boxes_xyxy, [[-20, -20, 20, 60], [-100, 0, -60, 40]])


def test_yolov5_multiplies_objectness_and_class() -> None:
    output = np.array([[[20, 30, 10, 20, 0.5, 0.9, 0.1, 0.4], [9, 9, 4, 4, 0.05, 1, 1, 1]]])
    found = read(output.astype(np.float32), card("yolov5"))
    np.testing.assert_allclose(found.boxes_xyxy, [[15, 20, 25, 40]] * 2)
    np.testing.assert_allclose(found.scores, [0.45, 0.2])
    assert found.class_ids.tolist() == [0, 2]


def test_yolox_decodes_each_stride() -> None:
    # A 64 × 64 input has 8², 4² and 2² cells.
    output = np.zeros((1, 84, 8), np.float32)
    for cell, raw in {8 * 2 + 5: 0.0, 64 + 4 * 3 + 1: 0.1, 64 + 16 + 2 * 1 + 0: 0.2}.items():
        output[0, cell] = [0.5, 0.25, np.log(1.5), raw, 0.8, 0.5, 0, 0]
    found = read(output, card("yolox", clip_to_image=False))
    expected = []
    for column, row, stride, raw in ((5, 2, 8, 0.0), (1, 3, 16, 0.1), (0, 1, 32, 0.2)):
        cx, cy = (column + 0.5) * stride, (row + 0.25) * stride
        w, h = 1.5 * stride, np.exp(raw) * stride
        expected.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    np.testing.assert_allclose(found.boxes_xyxy, expected, rtol=1e-5)
    np.testing.assert_allclose(found.scores, [0.4] * 3)


def test_yolox_on_an_input_that_is_not_square() -> None:
    wide = card("yolox").model_copy(update={"input": InputCard(height=32, width=96)})
    output = np.zeros((1, 4 * 12 + 2 * 6 + 3, 8), np.float32)
    output[0, 48 + 6 * 1 + 4] = [0, 0, 0, 0, 1, 0, 0, 1]
    found = read(output, wide, Geometry(1, 1, 0, 0, 96, 32))
    np.testing.assert_allclose(found.boxes_xyxy, [[56, 8, 72, 24]])
    assert found.class_ids.tolist() == [2]


def test_yolox_survives_wild_sizes() -> None:
    output = np.zeros((1, 84, 8), np.float32)
    output[0, 0] = [0, 0, 500, 500, 1, 1, 0, 0]
    np.testing.assert_allclose(read(output, card("yolox")).boxes_xyxy, [[0, 0, 64, 64]])


def test_fastestdet_follows_its_formula() -> None:
    output = np.zeros((1, 8, 4, 4), np.float32)
    output[0, :, 1, 2] = [0.64, 0.3, -0.2, -1.0, 0.5, 0.1, 0.9, 0.2]
    by = card("fastestdet", several_classes_a_box=False, clip_to_image=False)
    found = read(output, by)
    cx, cy = (2 + np.tanh(0.3)) / 4 * 64, (1 + np.tanh(-0.2)) / 4 * 64
    w, h = 64 / (1 + np.exp(1.0)), 64 / (1 + np.exp(-0.5))
    expected = [[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]]
    np.testing.assert_allclose(found.boxes_xyxy, expected, rtol=1e-5)
    np.testing.assert_allclose(found.scores, [0.64**0.6 * 0.9**0.4], rtol=1e-6)
    assert found.class_ids.tolist() == [1]


def test_end_to_end_does_no_nms_and_drops_empty_rows() -> None:
    rows = [[1, 2, 9, 8, 0.3, 2], [1, 2, 9, 8, 0.6, 2], [0, 0, 0, 0, 0, 0], [1, 1, 1, 9, 0.9, 0]]
    found = read(np.array([rows], np.float32), card("end_to_end"))
    np.testing.assert_allclose(found.boxes_xyxy, [[1, 2, 9, 8]] * 2)
    np.testing.assert_allclose(found.scores, [0.6, 0.3])
    assert found.class_ids.dtype == np.int64


def test_end_to_end_refuses_a_class_without_a_name() -> None:
    with pytest.raises(ModelError, match="class number 3, but 3 class names"):
        read(np.array([[[1, 2, 9, 8, 0.6, 3]]], np.float32), card("end_to_end"))


HEAD_OUTPUTS: dict[HeadName, tuple[int, ...]] = {
    "yolov8": (2, 7, 20),
    "yolov5": (2, 20, 8),
    "yolox": (2, 84, 8),
    "fastestdet": (2, 8, 4, 4),
    "end_to_end": (2, 20, 6),
}


@given(st.sampled_from(list(HEAD_OUTPUTS)), st.integers(0, 10_000))
def test_any_output_gives_well_formed_detections(head: HeadName, seed: int) -> None:
    random = np.random.default_rng(seed)
    output = random.normal(0, 3, HEAD_OUTPUTS[head]).astype(np.float32)
    if head == "end_to_end":
        output[..., 5] = random.integers(0, 3, output.shape[:2])
    geometries = [Geometry(0.5, 0.4, 3, 2, 110, 140), SAME]
    by = card(head, max_detections=7)
    for found, geometry in zip(
        HEADS[head].decode([output], by, geometries, 0.2), geometries, strict=True
    ):
        assert isinstance(found, Detections)
        assert len(found) <= 7
        assert (found.scores > 0.2).all()
        assert (np.diff(found.scores) <= 0).all()
        assert (found.boxes_xyxy[:, 2:] > found.boxes_xyxy[:, :2]).all()
        limit = [geometry.width, geometry.height] * 2
        assert ((found.boxes_xyxy >= 0) & (found.boxes_xyxy <= limit)).all()
        assert ((found.class_ids >= 0) & (found.class_ids < 3)).all()


@pytest.mark.parametrize("head", HEAD_OUTPUTS)
def test_nothing_found_is_an_empty_answer(head: HeadName) -> None:
    output = np.zeros(HEAD_OUTPUTS[head], np.float32)
    for found in HEADS[head].decode([output], card(head), [SAME, SAME], 0.1):
        assert len(found) == 0  # type: ignore[arg-type]
        assert found.boxes_xyxy.shape == (0, 4)  # type: ignore[union-attr]


@pytest.mark.parametrize("head", HEAD_OUTPUTS)
def test_outputs_that_do_not_fit_are_refused(head: HeadName) -> None:
    reader, by = HEADS[head], card(head)
    good = np.zeros(HEAD_OUTPUTS[head], np.float32)
    with pytest.raises(ModelError, match="reads one output"):
        reader.decode([good, good], by, [SAME, SAME], 0.1)
    with pytest.raises(ModelError, match="reads an output"):
        reader.decode([good[..., None]], by, [SAME, SAME], 0.1)
    with pytest.raises(ModelError, match="3 images went in"):
        reader.decode([good], by, [SAME] * 3, 0.1)
    if head != "end_to_end":
        named = by.model_copy(update={"classes": ("car", "truck")})
        with pytest.raises(ModelError, match="has 3 classes, but 2 class names"):
            reader.decode([good], named, [SAME, SAME], 0.1)


def test_infinite_boxes_are_refused() -> None:
    output = yolov8_output([[np.inf, 30, 10, 20, 0.9, 0, 0]])
    with pytest.raises(ModelError, match="isn't finite"):
        read(output, card("yolov8"))


def test_nan_is_found_wherever_it_is() -> None:
    good = np.full((2, 3), np.inf, np.float32)
    check_no_nan([good, np.arange(3), np.zeros((0, 4), np.float32)], ["a", "b", "c"])
    bad = good.copy()
    bad[1, 1] = np.nan
    with pytest.raises(ModelError, match="'b' holds NaN"):
        check_no_nan([good, bad], ["a", "b"])
