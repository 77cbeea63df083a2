import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from visiondyno.errors import ClassMismatch, OperationFailed
from visiondyno.predictions import Classification, ClassTruth
from visiondyno.vision.accuracy import paired_difference, score, score_classifications

NAMES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]


def likely(*class_ids: int, n_classes: int = len(NAMES)) -> Classification:
    """Probabilities in falling order of `class_ids`; the rest follow, equal."""
    logits = np.zeros(n_classes)
    logits[list(class_ids)] = np.arange(len(class_ids), 0, -1)
    odds = np.exp(logits)
    return Classification((odds / odds.sum()).astype(np.float32))


@st.composite
def labelled_images(draw):
    n = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    truths = rng.integers(0, len(NAMES), n)
    guesses = np.where(rng.random(n) < 0.6, truths, rng.integers(0, len(NAMES), n))
    return truths, guesses


def scored(truths, guesses, **options):
    return score_classifications(
        [ClassTruth(int(t)) for t in truths], [likely(int(g)) for g in guesses], NAMES, **options
    )


@settings(max_examples=50, deadline=None)
@given(labelled_images())
def test_rates_are_those_of_a_plain_count(case):
    truths, guesses = case
    accuracy = scored(truths, guesses, resamples=5)
    assert accuracy.measures["top1"].value == pytest.approx((truths == guesses).mean())
    precisions, recalls, f1s = [], [], []
    for place, name in enumerate(NAMES):
        hits = int(((truths == place) & (guesses == place)).sum())
        labelled, predicted = int((truths == place).sum()), int((guesses == place).sum())
        measures = accuracy.per_class[name]
        if predicted:
            precisions.append(hits / predicted)
            assert measures["precision"].value == pytest.approx(precisions[-1])
        else:
            assert measures["precision"].value is None
        if labelled:
            recalls.append(hits / labelled)
            f1s.append(2 * hits / (labelled + predicted))
            assert measures["recall"].value == pytest.approx(recalls[-1])
            assert measures["f1"].value == pytest.approx(f1s[-1])
        else:
            assert measures["recall"].value is None
            assert measures["f1"].value is None
    for name, values in (("precision", precisions), ("recall", recalls), ("f1", f1s)):
        assert accuracy.measures[name].value == pytest.approx(np.mean(values))


@settings(max_examples=30, deadline=None)
@given(labelled_images(), st.randoms())
def test_the_order_of_images_is_nothing(case, random):
    truths, guesses = case
    order = list(range(len(truths)))
    random.shuffle(order)
    one = scored(truths, guesses, resamples=5)
    two = scored(truths[order], guesses[order], resamples=5)
    assert one.confusion == two.confusion
    for name, measure in one.measures.items():
        assert two.measures[name].value == pytest.approx(measure.value)


def test_top_1_has_wilsons_interval():
    accuracy = scored([0] * 40, [0] * 30 + [1] * 10)
    low, high = accuracy.measures["top1"].interval
    expected = stats.binomtest(30, 40).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert accuracy.measures["accuracy"].value == 0.75


def test_top_5_looks_at_five_classes():
    truths = [ClassTruth(0)] * 2
    predictions = [likely(1, 2, 3, 4, 0), likely(1, 2, 3, 4, 5, 0)]
    assert score_classifications(truths, predictions, NAMES).measures["top5"].value == 0.5


def test_top_5_of_five_classes_is_not_measured():
    accuracy = score_classifications([ClassTruth(0)], [likely(0, n_classes=5)], NAMES[:5])
    assert accuracy.measures["top5"].value is None
    assert "6 classes" in accuracy.measures["top5"].reason
    assert "top5" not in accuracy.resampled


def test_a_restricted_scoring_leaves_images_of_other_classes_out():
    accuracy = scored([0, 0, 1, 2], [0, 3, 1, 0], scored=["ant", "bee"])
    assert accuracy.measures["top1"].value == pytest.approx(2 / 3)
    assert accuracy.measures["top1"].n == 3
    assert accuracy.confusion.labels == ("ant", "bee", "other")
    assert accuracy.confusion.counts == ((1, 0, 1), (0, 1, 0), (0, 0, 0))
    # The last image is no cat's business: neither an error nor a false alarm of `ant`.
    assert [image.errors for image in accuracy.image_errors] == [0, 1, 0, 0]
    assert accuracy.per_class["ant"]["precision"].value == 1


def test_no_image_of_a_scored_class_is_said():
    accuracy = scored([0, 0], [0, 0], scored=["dog"])
    for name in ("accuracy", "top1", "top5", "precision", "recall", "f1"):
        assert accuracy.measures[name].value is None
        assert accuracy.measures[name].reason


def test_models_are_paired_over_images():
    rng = np.random.default_rng(0)
    truths = rng.integers(0, len(NAMES), 300)
    strong = np.where(rng.random(300) < 0.9, truths, (truths + 1) % len(NAMES))
    weak = np.where(rng.random(300) < 0.9, strong, (truths + 1) % len(NAMES))
    better, worse = scored(truths, strong), scored(truths, weak)
    value, (low, high) = paired_difference(better, worse, "top1")
    assert value == pytest.approx((strong == truths).mean() - (weak == truths).mean())
    assert 0 < low < value < high
    assert paired_difference(better, better, "top1") == (0.0, None)


def test_the_chooser_scores_classifications():
    accuracy = score("classification", [ClassTruth(0)], [likely(0)], NAMES, resamples=5)
    assert accuracy.task == "classification"
    assert accuracy.precision_recall is None
    assert accuracy.measures["top1"].value == 1


def test_misfits_are_refused():
    with pytest.raises(OperationFailed, match="1 predictions"):
        score_classifications([], [likely(0)], NAMES)
    with pytest.raises(OperationFailed, match="7 classes"):
        score_classifications([ClassTruth(0)], [likely(0, n_classes=3)], NAMES)
    with pytest.raises(ClassMismatch, match="yak"):
        scored([0], [0], scored=["yak"])
