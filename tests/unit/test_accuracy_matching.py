"""Our matching and reweighting against pycocotools and faster-coco-eval, which decide."""

import json
from pathlib import Path

import numpy as np
import pytest
from accuracy_cases import CLASSES, data_sets, judge, judged_ap
from hypothesis import given, settings
from hypothesis import strategies as st

from visiondyno.predictions import BoxTruth, Detections
from visiondyno.vision.accuracy.average_precision import average_precisions, mean_over_classes
from visiondyno.vision.accuracy.coco import evaluate
from visiondyno.vision.accuracy.matching import AREA_NAMES, match

IDS = range(CLASSES)


def split(cases):
    return [truth for truth, _ in cases], [found for _, found in cases]


def ours(cases, weights=None, ids=IDS) -> dict[str, np.ndarray]:
    truths, found = split(cases)
    weights = np.ones((1, len(cases))) if weights is None else np.asarray(weights, np.float64)
    ap = average_precisions(match(truths, found, ids), weights)
    maps = {area: mean_over_classes(values) for area, values in ap.by_area.items()}
    return maps | {"50": mean_over_classes(ap.ap_50), "75": mean_over_classes(ap.ap_75)}


def assert_same(mine: dict[str, np.ndarray], row: int, evaluation) -> None:
    for area, name in enumerate(AREA_NAMES):
        assert mine[name][row] == pytest.approx(judged_ap(evaluation, area), abs=1e-9, nan_ok=True)
    assert mine["50"][row] == pytest.approx(judged_ap(evaluation, 0, 0), abs=1e-9, nan_ok=True)
    assert mine["75"][row] == pytest.approx(judged_ap(evaluation, 0, 5), abs=1e-9, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(data_sets())
def test_weights_of_one_are_pycocotools(cases):
    assert_same(ours(cases), 0, judge(cases))


@settings(max_examples=60, deadline=None)
@given(data_sets())
def test_weights_of_one_are_faster_coco_eval(cases):
    truths, found = split(cases)
    result, mine = evaluate(truths, found, IDS), ours(cases)
    for name in AREA_NAMES:
        value = result.average_precision(name)
        assert mine[name][0] == pytest.approx(
            float("nan") if value is None else value, abs=1e-9, nan_ok=True
        )


@settings(max_examples=60, deadline=None)
@given(data_sets(ties=False, min_size=2), st.data())
def test_a_weight_is_that_many_copies_of_the_image(cases, data):
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(cases), max_size=len(cases)))
    copies = [case for case, weight in zip(cases, weights, strict=True) for _ in range(weight)]
    if not copies:
        return
    assert_same(ours(cases, [weights]), 0, judge(copies))


@settings(max_examples=30, deadline=None)
@given(data_sets(ties=False, min_size=2), st.randoms())
def test_the_order_of_images_and_detections_is_nothing(cases, random):
    def shuffled(found: Detections) -> Detections:
        order = list(range(len(found)))
        random.shuffle(order)
        return Detections(found.boxes_xyxy[order], found.scores[order], found.class_ids[order])

    other = [(truth, shuffled(found)) for truth, found in cases]
    random.shuffle(other)
    first, second = ours(cases), ours(other)
    for name, value in first.items():
        assert second[name] == pytest.approx(value, abs=1e-12, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(data_sets(), st.integers(0, CLASSES - 1))
def test_scoring_one_class_is_its_own_ap(cases, class_id):
    truths, found = split(cases)
    alone = ours(cases, ids=[class_id])["all"][0]
    together = average_precisions(match(truths, found, IDS), np.ones((1, len(cases))))
    assert alone == pytest.approx(together.by_area["all"][class_id][0], nan_ok=True)


def test_many_weightings_at_once_are_each_alone(monkeypatch):
    rng = np.random.default_rng(0)
    cases = made_up(rng, 30)
    weights = rng.integers(0, 3, (50, 30))
    together = ours(cases, weights)
    monkeypatch.setattr("visiondyno.vision.accuracy.average_precision._WORKING_BYTES", 1)
    in_chunks = ours(cases, weights)
    for name, values in together.items():
        assert in_chunks[name] == pytest.approx(values, nan_ok=True)
        assert values[7] == pytest.approx(ours(cases, weights[7:8])[name][0], nan_ok=True)


def test_a_class_keeps_its_best_hundred_detections_an_image():
    box = np.array([[0.0, 0.0, 50.0, 50.0]])
    truth = BoxTruth(box, np.array([0]), np.array([False]), np.array([2500.0]))
    scores = np.linspace(0.9, 0.5, 101).astype(np.float32)
    boxes = np.tile(np.array([200, 200, 210, 210], np.float32), (101, 1))
    boxes[100] = box[0]
    found = Detections(boxes, scores, np.zeros(101, np.int64))
    assert ours([(truth, found)], ids=[0])["all"][0] == 0
    boxes[99] = box[0]
    case = [(truth, Detections(boxes, scores, found.class_ids))]
    assert ours(case, ids=[0])["all"][0] == pytest.approx(judged_ap(judge(case), 0))
    assert ours(case, ids=[0])["all"][0] > 0


def made_up(rng: np.random.Generator, n_images: int) -> list[tuple[BoxTruth, Detections]]:
    """Images with a few boxes each, found with noise, and false alarms."""
    cases = []
    for _ in range(n_images):
        n = int(rng.integers(1, 5))
        corner, size = rng.uniform(0, 300, (n, 2)), rng.uniform(10, 150, (n, 2))
        boxes = np.hstack([corner, corner + size])
        ids = rng.integers(0, CLASSES, n)
        truth = BoxTruth(boxes, ids, np.zeros(n, np.bool_), size.prod(axis=1))
        noisy = boxes + rng.normal(0, 0.1, (n, 4)) * np.tile(size, 2)
        stray = rng.uniform(0, 150, (3, 4)) + np.array([0, 0, 150, 150])
        scores = np.concatenate([rng.uniform(0.2, 1, n), rng.uniform(0, 0.6, 3)])
        order = np.argsort(-scores)
        cases.append(
            (
                truth,
                Detections(
                    np.vstack([noisy, stray])[order].astype(np.float32),
                    scores[order].astype(np.float32),
                    np.concatenate([ids, rng.integers(0, CLASSES, 3)])[order],
                ),
            )
        )
    return cases


def test_cocos_example_is_matched_as_coco_does(shared_testdata: Path):
    cases = coco_example(shared_testdata / "metrics" / "coco_fake100")
    truths, found = split(cases)
    result, mine = evaluate(truths, found, range(80)), ours(cases, ids=range(80))
    assert_same(mine, 0, judge(cases, 80))
    for name in AREA_NAMES:
        assert mine[name][0] == pytest.approx(result.average_precision(name), abs=1e-9)


def coco_example(folder: Path) -> list[tuple[BoxTruth, Detections]]:
    labels = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    places = {c["id"]: i for i, c in enumerate(sorted(labels["categories"], key=lambda c: c["id"]))}
    cases = []
    for image_id in sorted(image["id"] for image in labels["images"]):
        a = [x for x in labels["annotations"] if x["image_id"] == image_id]
        d = [x for x in results if x["image_id"] == image_id]
        d.sort(key=lambda x: -x["score"])
        truth = BoxTruth(
            corners(a),
            np.array([places[x["category_id"]] for x in a], np.int64),
            np.array([x["iscrowd"] for x in a], np.bool_),
            np.array([x["area"] for x in a], np.float64),
        )
        found = Detections(
            corners(d).astype(np.float32),
            np.array([x["score"] for x in d], np.float32),
            np.array([places[x["category_id"]] for x in d], np.int64),
        )
        cases.append((truth, found))
    return cases


def corners(rows: list[dict]) -> np.ndarray:
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
