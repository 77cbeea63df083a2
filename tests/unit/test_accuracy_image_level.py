import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visiondyno.errors import ClassMismatch, OperationFailed
from visiondyno.measurements.measure import MEASURES
from visiondyno.predictions import BoxTruth, Classification, Detections
from visiondyno.vision.accuracy import paired_difference, score_image_level
from visiondyno.vision.accuracy.ranking_scores import average_precision, roc_auc

NAMES = ["car", "truck", "sign"]
DETECTOR, CLASSIFIER = 0.25, 0.5


def truth(*class_ids: int, crowds: tuple[int, ...] = ()) -> BoxTruth:
    ids = np.array([*class_ids, *crowds], np.int64)
    boxes = np.tile([2.0, 3.0, 12.0, 13.0], (len(ids), 1))
    is_crowd = np.array([False] * len(class_ids) + [True] * len(crowds), np.bool_)
    return BoxTruth(boxes, ids, is_crowd, np.full(len(ids), 100.0))


def found(*pairs: tuple[int, float]) -> Detections:
    ordered = sorted(pairs, key=lambda pair: -pair[1])
    return Detections(
        np.tile(np.array([0, 0, 5, 5], np.float32), (len(ordered), 1)),
        np.array([score for _, score in ordered], np.float32),
        np.array([class_id for class_id, _ in ordered], np.int64),
    )


def probable(*values: float) -> Classification:
    return Classification(np.array(values, np.float32))


@st.composite
def answers(draw):
    n = draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Few distinct scores: ties between images are the rule.
    return rng.choice([0.0, 0.1, 0.25, 0.5, 0.9], n), rng.random(n) < 0.5


def area_under_steps(scores, positive):
    """By definition: one step for each distinct score, highest first."""
    area = recall_before = 0.0
    for threshold in sorted(set(scores), reverse=True):
        shown = scores >= threshold
        recall = (shown & positive).sum() / positive.sum()
        area += (recall - recall_before) * (shown & positive).sum() / shown.sum()
        recall_before = recall
    return area


def won_pairs(scores, positive):
    pairs = list(itertools.product(scores[positive], scores[~positive]))
    return sum(1.0 if yes > no else 0.5 if yes == no else 0.0 for yes, no in pairs) / len(pairs)


@settings(max_examples=150, deadline=None)
@given(answers())
def test_areas_are_those_of_their_definitions(case):
    scores, positive = case
    once = np.ones((1, len(scores)))
    ap, auc = average_precision(scores, positive, once), roc_auc(scores, positive, once)
    if positive.any():
        assert ap[0] == pytest.approx(area_under_steps(scores, positive))
    else:
        assert np.isnan(ap[0])
    if positive.any() and not positive.all():
        assert auc[0] == pytest.approx(won_pairs(scores, positive))
    else:
        assert np.isnan(auc[0])


@settings(max_examples=50, deadline=None)
@given(answers(), st.integers(0, 2**32))
def test_a_weight_is_that_many_copies(case, seed):
    scores, positive = case
    weights = np.random.default_rng(seed).integers(0, 3, (3, len(scores)))
    for area in (average_precision, roc_auc):
        weighted = area(scores, positive, weights.astype(np.float64))
        for row, value in zip(weights, weighted, strict=True):
            copies = np.ones((1, int(row.sum())))
            again = area(np.repeat(scores, row), np.repeat(positive, row), copies)[0]
            assert value == pytest.approx(again, nan_ok=True)


def test_large_sets_are_scored_in_portions(monkeypatch):
    from visiondyno.vision.accuracy import ranking_scores

    rng = np.random.default_rng(5)
    scores, positive = rng.random(40), rng.random(40) < 0.4
    weights = rng.integers(0, 2, (60, 40)).astype(np.float64)
    whole = average_precision(scores, positive, weights), roc_auc(scores, positive, weights)
    monkeypatch.setattr(ranking_scores, "_WORKING_BYTES", 8 * 6 * 40 * 7)
    parts = average_precision(scores, positive, weights), roc_auc(scores, positive, weights)
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


def test_nothing_to_rank_has_no_area():
    nothing = np.zeros(0), np.zeros(0, np.bool_), np.zeros((2, 0))
    assert np.isnan(average_precision(*nothing)).all()
    assert np.isnan(roc_auc(*nothing)).all()


def test_a_detector_and_a_classifier_that_say_the_same_score_the_same():
    truths = [truth(0, 0), truth(1), truth(), truth(0, 2)] * 5
    boxes = [
        found((0, 0.9), (0, 0.3), (1, 0.1)),
        found((1, 0.8)),
        found((2, 0.6)),
        found((0, 0.4), (2, 0.2)),
    ] * 5
    shares = [
        probable(0.9, 0.1, 0),
        probable(0, 0.8, 0),
        probable(0, 0, 0.6),
        probable(0.4, 0, 0.2),
    ] * 5
    detector = score_image_level(truths, boxes, NAMES, threshold=DETECTOR)
    classifier = score_image_level(truths, shares, NAMES, threshold=DETECTOR)
    assert detector.measures == classifier.measures
    assert detector.per_class == classifier.per_class
    assert detector.measures["accuracy"].value == detector.measures["image_ap"].value
    assert paired_difference(detector, classifier, "image_ap") == (0.0, None)


def test_decisions_are_those_of_a_plain_count():
    truths = [truth(0), truth(0), truth(1), truth()]
    shares = [probable(0.7, 0, 0), probable(0.4, 0, 0), probable(0.5, 0.9, 0), probable(0, 0, 0)]
    accuracy = score_image_level(truths, shares, NAMES, ["car"], threshold=CLASSIFIER)
    measures = accuracy.measures
    assert {name: measures[name].value for name in ("precision", "recall", "f1")} == {
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
    }
    assert measures["image_accuracy"].value == 0.5
    # Ranked: yes (.7), no (.5), yes (.4), no (0).
    assert measures["image_ap"].value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert measures["image_auc"].value == pytest.approx(3 / 4)
    for name in ("image_accuracy", "precision", "recall", "f1"):
        assert "from a score of 0.5 on" in measures[name].method
    for name in ("image_ap", "image_auc"):
        assert "no threshold" in measures[name].method
    assert [errors.errors for errors in accuracy.image_errors] == [0, 1, 1, 0]
    assert set(measures) <= set(MEASURES)


def test_the_mean_is_over_the_classes_that_allow_it():
    truths = [truth(0), truth(0, 1)]
    shares = [probable(0.9, 0.2, 0.1), probable(0.8, 0.7, 0.6)]
    accuracy = score_image_level(truths, shares, NAMES, threshold=CLASSIFIER)
    assert accuracy.per_class["sign"]["image_ap"].value is None
    assert accuracy.per_class["sign"]["recall"].value is None
    assert accuracy.per_class["car"]["image_auc"].value is None
    assert accuracy.per_class["car"]["image_auc"].reason
    assert accuracy.measures["image_ap"].value == pytest.approx(1.0)
    assert accuracy.measures["image_auc"].value == pytest.approx(1.0)
    assert accuracy.measures["image_accuracy"].value == pytest.approx((1 + 1 + 0.5) / 3)


def test_no_yes_has_no_precision_rather_than_zero():
    accuracy = score_image_level([truth(0)] * 3, [found()] * 3, NAMES, threshold=DETECTOR)
    assert accuracy.measures["precision"].value is None
    assert accuracy.measures["precision"].reason
    assert accuracy.measures["recall"].value == 0.0
    # Nothing was found anywhere: all images are one step, and its precision is their share.
    assert accuracy.per_class["car"]["image_ap"].value == 1.0


def test_an_image_with_a_crowd_only_takes_no_part_for_its_class():
    truths = [truth(0), truth(crowds=(0,)), truth(1)]
    boxes = [found((0, 0.9)), found((0, 0.99)), found((0, 0.1))]
    crowded = score_image_level(truths, boxes, NAMES, ["car"], threshold=DETECTOR)
    plain = score_image_level(
        [truths[0], truths[2]], [boxes[0], boxes[2]], NAMES, ["car"], threshold=DETECTOR
    )
    for name, measure in plain.measures.items():
        assert crowded.measures[name].value == measure.value, name
    assert crowded.image_errors[1].errors == 0
    assert crowded.image_errors[1].prediction_matched.all()
    also_single = score_image_level(
        [truth(0, crowds=(0,))], [found((0, 0.9))], NAMES, ["car"], threshold=DETECTOR
    )
    assert also_single.measures["recall"].value == 1.0


def test_errors_are_those_of_the_gallery():
    truths = [truth(0, 1, crowds=(2,))]
    boxes = [found((0, 0.9), (2, 0.8), (1, 0.1), (0, 0.05))]
    (errors,) = score_image_level(truths, boxes, NAMES, threshold=DETECTOR).image_errors
    assert (errors.misses, errors.false_alarms) == (1, 0)
    assert errors.truth_matched.tolist() == [True, False, True]
    assert errors.prediction_shown.tolist() == [True, True, False, False]
    assert errors.prediction_matched.tolist() == [True, True, False, False]


def test_intervals_are_paired_over_images():
    rng = np.random.default_rng(3)
    here = rng.random(200) < 0.6
    truths = [truth(0) if one else truth(1) for one in here]
    clues = here + rng.normal(0, 0.7, 200)
    good = [probable(1 / (1 + np.exp(-3 * clue)), 0.5, 0) for clue in clues]
    noise = rng.normal(0, 0.6, 200)
    worse = [probable(1 / (1 + np.exp(-3 * c)), 0.5, 0) for c in clues + noise]
    a, b = (
        score_image_level(truths, each, NAMES, ["car"], threshold=CLASSIFIER)
        for each in (good, worse)
    )
    low, high = a.measures["image_ap"].interval
    assert low < a.measures["image_ap"].value < high
    value, interval = paired_difference(a, b, "image_ap")
    assert value > 0
    assert interval is not None
    own = [np.diff(each.measures["image_ap"].interval)[0] for each in (a, b)]
    assert np.diff(interval)[0] < np.hypot(*own)


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(OperationFailed, match="1 predictions"):
        score_image_level([truth()] * 2, [found()], NAMES, threshold=DETECTOR)
    with pytest.raises(ClassMismatch, match="bus"):
        score_image_level([truth()], [found()], NAMES, ["bus"], threshold=DETECTOR)
