import json
import time
from pathlib import Path

import numpy as np
import pytest
from accuracy_cases import CLASSES, data_sets, judge, judged_ap
from hypothesis import given, settings
from hypothesis import strategies as st
from test_accuracy_matching import coco_example, made_up, split

from visiondyno.errors import ClassMismatch, DatasetError, OperationFailed
from visiondyno.predictions import BoxTruth, Detections
from visiondyno.vision.accuracy import coco_summary, paired_difference, score, score_detections
from visiondyno.vision.accuracy.matching import match
from visiondyno.vision.accuracy.operating_point import find_operating_point

NAMES = ["car", "truck", "sign"]
COCO_TWELVE = (
    0.5045806987249628, 0.6969727247299577, 0.5729816669904824, 0.5856257209410443,
    0.5193996948036719, 0.5013978986347466, 0.38681277964578054, 0.5936795762842003,
    0.595352982877607, 0.6398109626113442, 0.5664205978994309, 0.5642905982905982,
)  # fmt: skip


def boxes(*rows: tuple[float, ...], is_crowd: tuple[bool, ...] | None = None) -> BoxTruth:
    """Rows of left, top, right, bottom, class."""
    table = np.array(rows, np.float64).reshape(-1, 5)
    size = table[:, 2:4] - table[:, :2]
    crowd = np.array(is_crowd or [False] * len(table), np.bool_)
    return BoxTruth(table[:, :4], table[:, 4].astype(np.int64), crowd, size.prod(axis=1))


def found(*rows: tuple[float, ...]) -> Detections:
    """Rows of left, top, right, bottom, class, score, best first."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(
        table[:, :4].astype(np.float32), table[:, 5].astype(np.float32), table[:, 4].astype(int)
    )


def test_cocos_own_example_gives_its_twelve_numbers(shared_testdata: Path):
    folder = shared_testdata / "metrics" / "coco_fake100"
    labels = folder / "instances_val2014_100.json"
    results = folder / "instances_val2014_fakebbox100_results.json"
    assert coco_summary(labels, results) == pytest.approx(COCO_TWELVE, abs=1e-9)
    loaded = json.loads(results.read_text())
    assert coco_summary(labels, loaded) == pytest.approx(COCO_TWELVE, abs=1e-9)


def test_cocos_summary_of_no_results_is_zero(shared_testdata: Path):
    labels = shared_testdata / "metrics" / "coco_fake100" / "instances_val2014_100.json"
    assert coco_summary(labels, []) == (0.0,) * 12


def test_results_of_unknown_images_or_unreadable_files_are_named(tmp_path: Path):
    labels = tmp_path / "labels.json"
    labels.write_text('{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1}]}')
    result = {"image_id": 9, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}
    with pytest.raises(DatasetError, match="image 9"):
        coco_summary(labels, [result])
    with pytest.raises(DatasetError, match="absent"):
        coco_summary(labels, tmp_path / "absent.json")


def test_the_score_of_cocos_example(shared_testdata: Path):
    """Detections are float32, so this is pycocotools' value for float32 boxes."""
    cases = coco_example(shared_testdata / "metrics" / "coco_fake100")
    names = [str(i) for i in range(80)]
    accuracy = score_detections(*split(cases), names, resamples=200)
    judged = judge(cases, 80)
    values = {name: measure.value for name, measure in accuracy.measures.items()}
    for name, area in (("map_small", 1), ("map_medium", 2), ("map_large", 3), ("accuracy", 0)):
        assert values[name] == pytest.approx(judged_ap(judged, area), abs=1e-9)
    assert values["map_50"] == pytest.approx(judged_ap(judged, 0, 0), abs=1e-9)
    assert values["map_75"] == pytest.approx(judged_ap(judged, 0, 5), abs=1e-9)
    recall = judged.eval["recall"][:, :, 0, -1]
    assert accuracy.average_recall == pytest.approx(recall[recall > -1].mean())
    for name in ("map_50_95", "map_50", "map_small", "f1", "precision", "recall"):
        low, high = accuracy.measures[name].interval
        assert 0 <= low <= values[name] <= high <= 1
    curve = accuracy.precision_recall
    assert np.mean(curve.precision) == pytest.approx(values["map_50"])
    assert list(curve.precision) == sorted(curve.precision, reverse=True)


@settings(max_examples=40, deadline=None)
@given(data_sets(max_size=4))
def test_counts_agree_between_measures_errors_and_confusion(cases):
    truths, predictions = split(cases)
    accuracy = score_detections(truths, predictions, NAMES, resamples=5)
    table = match(truths, predictions, range(CLASSES))
    point = find_operating_point(table)
    misses = sum(image.misses for image in accuracy.image_errors)
    alarms = sum(image.false_alarms for image in accuracy.image_errors)
    objects = sum(int((~truth.is_crowd).sum()) for truth in truths)
    hits = int(point.hits.sum())
    assert misses == objects - hits
    assert alarms == point.false_alarms.sum()
    if objects:
        assert accuracy.measures["recall"].value == pytest.approx(hits / objects)
        f1 = 2 * hits / (hits + alarms + objects)
        assert accuracy.measures["f1"].value == pytest.approx(f1)
    else:
        assert accuracy.measures["map_50_95"].value is None
    counts = np.array(accuracy.confusion.counts)
    assert counts[:-1].sum() == objects
    assert accuracy.confusion.labels == (*NAMES, "background")


@settings(max_examples=40, deadline=None)
@given(data_sets(max_size=4))
def test_no_other_confidence_has_a_higher_f1(cases):
    truths, predictions = split(cases)
    table = match(truths, predictions, range(CLASSES))
    point = find_operating_point(table)
    objects = table.positives[0].sum()

    def f1(threshold: float) -> float:
        kept = [cut(found, threshold) for found in predictions]
        again = match(truths, kept, range(CLASSES))
        hits = (again.hits[0, 0]).sum()
        return 2 * hits / max(1, again.counted[0, 0].sum() + objects)

    best = f1(point.threshold)
    assert best == pytest.approx(2 * point.hits.sum() / max(1, point.kept.sum() + objects))
    for threshold in np.unique(table.scores):
        assert f1(threshold) <= best + 1e-12


def cut(detections: Detections, threshold: float) -> Detections:
    kept = detections.scores >= threshold
    return Detections(
        detections.boxes_xyxy[kept], detections.scores[kept], detections.class_ids[kept]
    )


@settings(max_examples=20, deadline=None)
@given(data_sets(ties=False), st.sampled_from([0.3, 0.7]))
def test_dropping_low_scores_never_raises_map(cases, threshold):
    truths, predictions = split(cases)
    full = score_detections(truths, predictions, NAMES, resamples=2).measures["map_50_95"].value
    few = [cut(found, threshold) for found in predictions]
    less = score_detections(truths, few, NAMES, resamples=2).measures["map_50_95"].value
    assert full is None or less <= full + 1e-12


def test_nothing_detected_is_zero_where_that_is_true_and_unknown_where_it_is_not():
    truths = [boxes((0, 0, 40, 40, 0)), boxes()]
    accuracy = score_detections(truths, [Detections(), Detections()], NAMES, resamples=20)
    measures = accuracy.measures
    assert measures["map_50_95"].value == measures["recall"].value == measures["f1"].value == 0
    assert measures["precision"].value is None
    assert "Nothing was detected" in measures["precision"].reason
    assert measures["f1_threshold"].value is None
    assert measures["map_small"].value is None
    assert accuracy.image_errors[0].misses == 1
    assert accuracy.confusion.counts[0][-1] == 1


def test_no_objects_at_all_have_no_map():
    case = score_detections([boxes()], [found((0, 0, 9, 9, 0, 0.8))], NAMES, resamples=20)
    assert case.measures["map_50_95"].value is None
    assert case.precision_recall is None
    assert case.measures["recall"].reason == "The data set holds no object of a scored class."
    assert case.per_class["car"]["map_50"].value is None


def test_boxes_and_classes_of_the_worst_image_are_told_apart():
    truths = [
        boxes((0, 0, 40, 40, 0), (100, 0, 140, 40, 0)),
        boxes((0, 0, 40, 40, 1), (50, 0, 90, 90, 2), is_crowd=(False, True)),
    ]
    predictions = [
        found((0, 0, 40, 40, 0, 0.9), (102, 0, 142, 40, 1, 0.8)),
        found((0, 0, 40, 40, 1, 0.95), (60, 10, 80, 30, 2, 0.85), (200, 0, 240, 40, 1, 0.7)),
    ]
    accuracy = score_detections(truths, predictions, NAMES, resamples=20)
    # Best F1 (2 of 3 found, 1 false alarm or none) leaves the 0.8 and 0.7 out.
    assert accuracy.measures["f1_threshold"].value == pytest.approx(0.9)
    first, second = accuracy.image_errors
    assert (first.misses, first.false_alarms, first.errors) == (1, 0, 1)
    assert first.truth_matched.tolist() == [True, False]
    assert first.prediction_shown.tolist() == [True, False]
    assert second.errors == 0
    assert second.prediction_matched.tolist() == [True, False, False]


def test_confusion_matches_boxes_of_any_class_once_and_leaves_crowds_out():
    truths = [
        boxes(
            (0, 0, 40, 40, 0), (100, 0, 140, 40, 1), (200, 0, 300, 100, 2),
            is_crowd=(False, False, True),
        )
    ]  # fmt: skip
    predictions = [
        found(
            (0, 0, 40, 40, 0, 0.9), (0, 0, 40, 39, 0, 0.9), (100, 0, 140, 40, 0, 0.9),
            (210, 10, 250, 50, 2, 0.9), (400, 0, 440, 40, 1, 0.9),
        )
    ]  # fmt: skip
    accuracy = score_detections(truths, predictions, NAMES, resamples=20)
    assert accuracy.confusion.counts == ((1, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0), (1, 1, 0, 0))
    shown = accuracy.image_errors[0]
    assert shown.prediction_matched.tolist() == [True, False, False, True, False]


def test_only_scored_classes_count():
    cases = made_up(np.random.default_rng(1), 20)
    truths, predictions = split(cases)
    everything = score_detections(truths, predictions, NAMES, resamples=50)
    trucks = score_detections(truths, predictions, NAMES, ["truck"], resamples=50)
    assert list(trucks.per_class) == ["truck"]
    assert trucks.confusion.labels == ("truck", "background")
    ap = everything.per_class["truck"]["map_50_95"]
    assert trucks.measures["map_50_95"].value == pytest.approx(ap.value)
    assert trucks.measures["map_50_95"].interval == pytest.approx(ap.interval)
    marks = trucks.image_errors[0].truth_matched[truths[0].class_ids != 1]
    assert marks.all()


def test_a_model_is_tied_with_itself_and_beats_its_blunt_copy():
    rng = np.random.default_rng(2)
    truths, predictions = split(made_up(rng, 60))
    blunt = [Detections(p.boxes_xyxy + 6, p.scores, p.class_ids) for p in predictions]
    good, bad = (score("detection", truths, p, NAMES, resamples=200) for p in (predictions, blunt))
    assert paired_difference(good, good, "map_50_95") == (0.0, None)
    value, (low, high) = paired_difference(good, bad, "map_50_95")
    assert 0 < low <= value <= high
    other_seed = score_detections(truths, blunt, NAMES, resamples=200, seed=1)
    with pytest.raises(ValueError, match="same images"):
        paired_difference(good, other_seed, "map_50_95")


def test_a_difference_that_every_half_sample_shows_is_certain():
    truths = [boxes((0, 0, 40, 40, 0))] * 12
    right = score_detections(truths, [found((0, 0, 40, 40, 0, 0.9))] * 12, NAMES, resamples=50)
    wrong = score_detections(truths, [Detections()] * 12, NAMES, resamples=50)
    assert right.measures["map_50_95"].interval is None
    value, interval = paired_difference(right, wrong, "map_50_95")
    assert interval == (value, value) == pytest.approx((1.0, 1.0))
    with pytest.raises(ValueError, match="not measured"):
        paired_difference(right, wrong, "precision")


def test_equal_seeds_give_equal_results():
    truths, predictions = split(made_up(np.random.default_rng(3), 25))
    one, two = (score_detections(truths, predictions, NAMES, resamples=50) for _ in range(2))
    assert one.measures == two.measures
    assert one.resampled.keys() == two.resampled.keys()
    assert all(np.array_equal(one.resampled[k], two.resampled[k], True) for k in one.resampled)


def test_few_images_have_no_interval():
    truths, predictions = split(made_up(np.random.default_rng(4), 9))
    accuracy = score_detections(truths, predictions, NAMES, resamples=50)
    assert accuracy.measures["map_50_95"].interval is None


def test_unknown_classes_and_missing_predictions_are_refused():
    with pytest.raises(ClassMismatch, match="bicycle"):
        score_detections([boxes()], [Detections()], NAMES, ["bicycle"])
    with pytest.raises(ClassMismatch, match="no class"):
        score_detections([boxes()], [Detections()], NAMES, [])
    with pytest.raises(OperationFailed, match="2 images"):
        score_detections([boxes(), boxes()], [Detections()], NAMES)


def test_a_thousand_resamples_of_twelve_thousand_detections(capsys):
    """The size of a small COCO run: 128 images, 80 classes, 100 detections each."""
    rng = np.random.default_rng(5)
    truths, predictions = [], []
    for _ in range(128):
        corner, size = rng.uniform(0, 400, (7, 2)), rng.uniform(10, 200, (7, 2))
        labelled = np.hstack([corner, corner + size])
        ids = rng.integers(0, 80, 7)
        truths.append(BoxTruth(labelled, ids, np.zeros(7, np.bool_), size.prod(axis=1)))
        source = rng.integers(0, 7, 100)
        boxes_found = labelled[source] + rng.normal(0, 0.15, (100, 4)) * np.tile(size[source], 2)
        class_ids = np.where(rng.random(100) < 0.3, ids[source], rng.integers(0, 80, 100))
        scores = np.sort(rng.random(100))[::-1]
        predictions.append(
            Detections(boxes_found.astype(np.float32), scores.astype(np.float32), class_ids)
        )
    started = time.perf_counter()
    accuracy = score_detections(truths, predictions, [str(i) for i in range(80)])
    with capsys.disabled():
        print(f" [{time.perf_counter() - started:.2f} s]", end="")
    assert accuracy.measures["map_50_95"].interval is not None
