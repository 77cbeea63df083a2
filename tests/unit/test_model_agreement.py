"""How two models' predictions agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.operations.model_agreement import agreement
from visiondyno.predictions import Classification, DepthMap, Detections


def boxes(count: int, shift: float = 0.0, score: float = 0.9, lost: int = 0) -> Detections:
    places = np.arange(count, dtype=np.float32)[:, None] * 100
    found = np.hstack([places, places, places + 50, places + 50]).astype(np.float32)
    return Detections(
        (found + np.float32(shift))[lost:],
        np.full(count - lost, score, np.float32),
        np.zeros(count - lost, np.int64),
    )


@given(st.floats(0, 8), st.integers(0, 60))
def test_boxes_are_found_again_as_far_away_as_they_are(shift: float, lost: int) -> None:
    found, notes = agreement([boxes(60)], [boxes(60, shift, 0.8, lost)])
    assert found["boxes"] == 60
    assert found["matched"] == pytest.approx((60 - lost) / 60)
    assert notes == ()
    if lost < 60:
        assert found["max_box_difference_px"] == pytest.approx(np.float32(shift), abs=1e-3)
        assert found["max_score_difference"] == pytest.approx(0.1, abs=1e-6)
    else:
        assert found["max_box_difference_px"] is None


def test_another_class_is_no_match() -> None:
    other = boxes(60)
    other = Detections(other.boxes_xyxy, other.scores, other.class_ids + 1)
    assert agreement([boxes(60)], [other])[0]["matched"] == 0


def test_each_box_serves_once() -> None:
    twice = Detections(
        np.repeat(boxes(1).boxes_xyxy, 2, axis=0),
        np.array([0.9, 0.8], np.float32),
        np.zeros(2, int),
    )
    assert agreement([twice], [boxes(1)])[0]["matched"] == 0.5


def test_an_unsure_source_is_looked_at_by_its_best_boxes() -> None:
    found, notes = agreement([boxes(80, score=0.01)], [boxes(80, score=0.01)])
    assert found["confidence"] == pytest.approx(0.01)
    assert found["matched"] == 1
    assert "sure (score 0.25) of 0 boxes only" in notes[0]
    few, told = agreement([boxes(3)], [boxes(3)])
    assert few["boxes"] == 3
    assert "finds 3 boxes in these images" in told[0]
    none, _ = agreement([Detections()], [Detections()])
    assert none["matched"] is None


def test_classes_and_depth_agree_by_their_own_measures() -> None:
    one = Classification(np.array([0.6, 0.4], np.float32))
    other = Classification(np.array([0.4, 0.6], np.float32))
    found, _ = agreement([one, one], [one, other])
    assert found["same_class"] == 0.5
    assert found["max_probability_difference"] == pytest.approx(0.2)
    depth, _ = agreement(
        [DepthMap(np.full((2, 2), 4, np.float32))], [DepthMap(np.full((2, 2), 5, np.float32))]
    )
    assert depth["mean_relative_difference"] == pytest.approx(0.25)
