"""Class-wise NMS equals the plain rule."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visiondyno.vision.nms import class_wise_nms


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (areas - shared)


def plain_nms(boxes, scores, class_ids, threshold: float, limit: int) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        rivals = (k for k in kept if class_ids[k] == class_ids[index])
        if all(iou(boxes[k], boxes[index]) <= threshold for k in rivals):
            kept.append(index)
    return kept[:limit]


@st.composite
def candidates(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = draw(st.integers(0, 40))
    whole = st.integers(-20, 60)
    corner = draw(hnp.arrays(np.float64, (count, 2), elements=whole))
    size = draw(hnp.arrays(np.float64, (count, 2), elements=st.integers(1, 40)))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    # Few distinct scores: ties are common.
    scores = draw(hnp.arrays(np.float32, count, elements=st.sampled_from([0.1, 0.25, 0.5, 1.0])))
    class_ids = draw(hnp.arrays(np.int64, count, elements=st.integers(0, 3)))
    return boxes, scores, class_ids


@given(candidates(), st.sampled_from([0.3, 0.45, 0.5, 0.65, 1.0]), st.integers(1, 45))
def test_equals_the_plain_rule(given_boxes, threshold: float, limit: int) -> None:
    boxes, scores, class_ids = given_boxes
    wide = boxes.astype(np.float64)
    # OpenCV compares in float32: leave out pairs at the very threshold.
    for i in range(len(wide)):
        for j in range(i):
            assume(abs(iou(wide[i], wide[j]) - threshold) > 1e-6 or threshold == 1.0)
    kept = class_wise_nms(boxes, scores, class_ids, threshold, limit)
    assert kept.tolist() == plain_nms(wide, scores, class_ids, threshold, limit)


def test_a_growing_prefix_changes_nothing() -> None:
    random = np.random.default_rng(3)
    centre = random.uniform(0, 200, (20, 2))[random.integers(0, 20, 1500)]
    centre = centre + random.normal(0, 4, (1500, 2))
    half = random.uniform(8, 30, (1500, 2))
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    scores = random.uniform(0.001, 1, 1500).astype(np.float32)
    class_ids = random.integers(0, 2, 1500)
    everything = class_wise_nms(boxes, scores, class_ids, 0.5, 1500)
    assert everything.tolist() == plain_nms(boxes.astype(float), scores, class_ids, 0.5, 1500)
    assert 20 < len(everything) < 1500
    for limit in (1, 5, len(everything) - 1):
        kept = class_wise_nms(boxes, scores, class_ids, 0.5, limit)
        assert kept.tolist() == everything[:limit].tolist()


def test_classes_do_not_touch_each_other_wherever_boxes_lie() -> None:
    boxes = np.array([[-900, -900, -100, -100], [-890, -890, -100, -100]], np.float32)
    scores = np.array([0.5, 0.9], np.float32)
    assert class_wise_nms(boxes, scores, np.array([0, 1]), 0.5, 9).tolist() == [1, 0]
    assert class_wise_nms(boxes, scores, np.array([1, 1]), 0.5, 9).tolist() == [1]


def test_absurdly_large_boxes_are_handled() -> None:
    boxes = np.array([[-1e30, -1e30, 1e30, 1e30], [0, 0, 9, 9]], np.float32)
    kept = class_wise_nms(boxes, np.array([0.9, 0.8], np.float32), np.array([0, 0]), 0.5, 9)
    assert kept.tolist() == [0, 1]
