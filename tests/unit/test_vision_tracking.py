"""Which boxes of successive frames are the same object."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from visiondyno.predictions import Detections
from visiondyno.vision.tracking import UNTRACKED, Tracker, iou

Rows = list[tuple[float, float, float, float, float, int]]
"""Left, top, width, height, score, class."""


def detections(rows: Rows) -> Detections:
    corners = [(x, y, x + w, y + h) for x, y, w, h, _, _ in rows]
    return Detections(
        np.array(corners, np.float32).reshape(-1, 4),
        np.array([row[4] for row in rows], np.float32),
        np.array([row[5] for row in rows], np.int64),
    )


def tracked(frames: list[Rows], **options: float) -> list[list[int]]:
    tracker = Tracker(**options)  # type: ignore[arg-type]
    return [tracker.update(detections(rows)).tolist() for rows in frames]


def moving(frame: int, speed: float = 4.0, y: float = 50.0, score: float = 0.9) -> Rows:
    return [(10 + speed * frame, y, 30, 20, score, 0)]


@given(order=st.lists(st.permutations(range(4)), min_size=2, max_size=8))
def test_the_order_of_boxes_changes_no_number(order: list[list[int]]) -> None:
    objects = [(60 * n + 2.0 * n, 20.0 * n, 40.0, 30.0, 0.5 + n / 10, n % 2) for n in range(4)]
    tracker = Tracker()
    first = tracker.update(detections([objects[n] for n in order[0]]))
    number_of = dict(zip(order[0], first.tolist(), strict=True))
    assert sorted(number_of.values()) == [1, 2, 3, 4]
    for permutation in order[1:]:
        found = tracker.update(detections([objects[n] for n in permutation]))
        assert found.tolist() == [number_of[n] for n in permutation]


@settings(deadline=None)
@given(
    speed=st.floats(-6, 6),
    gap=st.integers(1, 10),
    buffer=st.integers(1, 10),
    seen=st.integers(8, 15),
)
def test_steady_motion_keeps_its_number_through_a_gap_within_the_buffer(
    speed: float, gap: int, buffer: int, seen: int
) -> None:
    frames = [moving(n, speed) for n in range(seen)]
    frames += [[] for _ in range(gap)]
    frames += [moving(n, speed) for n in range(seen + gap, seen + gap + 3)]
    found = tracked(frames, buffer_frames=buffer)
    assert found[:seen] == [[1]] * seen
    if gap <= buffer:
        assert found[-3:] == [[1]] * 3
    else:
        assert found[-3:] == [[UNTRACKED], [2], [2]]


def test_objects_that_cross_keep_their_numbers() -> None:
    def both(frame: int) -> Rows:
        return [
            (10 + 5.0 * frame, 40 + 2.0 * frame, 30, 30, 0.9, 0),
            (210 - 5.0 * frame, 80 - 0.5 * frame, 30, 30, 0.8, 0),
        ]

    assert tracked([both(n) for n in range(40)]) == [[1, 2]] * 40


def test_boxes_of_another_class_join_no_track() -> None:
    truck = [(26.0, 50.0, 30.0, 20.0, 0.9, 1)]
    found = tracked([moving(0), moving(1), moving(2), moving(3), truck, truck])
    assert found == [[1], [1], [1], [1], [UNTRACKED], [2]]


def test_a_low_score_continues_a_track_and_begins_none() -> None:
    frames = [moving(0), moving(1), moving(2, score=0.15), moving(3, score=0.12), moving(4)]
    assert tracked(frames) == [[1]] * 5
    assert tracked([moving(n, score=0.15) for n in range(4)]) == [[UNTRACKED]] * 4
    # Out of sight for a frame: what a low score says then is not believed.
    assert tracked([*frames[:2], [], moving(3, score=0.15)])[-1] == [UNTRACKED]
    # Less than that is no box at all.
    assert tracked([moving(0), moving(1, score=0.05)]) == [[1], [UNTRACKED]]


def test_one_look_is_no_track_after_the_first_frame() -> None:
    flash: Rows = [(200, 10, 20, 20, 0.9, 0)]
    found = tracked([moving(0), moving(1) + flash, moving(2), moving(3) + flash])
    assert found == [[1], [1, UNTRACKED], [1], [1, UNTRACKED]]


def test_out_of_sight_is_counted_in_seconds_where_frames_have_times() -> None:
    def numbers(times_s: list[float | None], gap: int) -> list[list[int]]:
        """Of an object that isn't seen for so many frames after its tenth."""
        tracker = Tracker(buffer_frames=1000)
        shown = [moving(n, 0.0) if not 10 <= n < 10 + gap else [] for n in range(len(times_s))]
        return [
            tracker.update(detections(rows), time_s).tolist()
            for rows, time_s in zip(shown, times_s, strict=True)
        ]

    def every(distance_s: float) -> list[float | None]:
        return [n * distance_s for n in range(60)]

    assert numbers(every(0.04), 20)[-1] == [1]
    assert numbers(every(0.04), 30)[-1] == [2]
    assert numbers(every(0.5), 4)[-1] == [1]  # five frames in any case
    assert numbers(every(0.5), 7)[-1] == [2]
    assert numbers([None] * 60, 30)[-1] == [1]
    assert numbers([*every(0.04)[:10], *[0.0] * 50], 30)[-1] == [1]  # times that go back


def test_boxes_without_an_area_are_passed_over() -> None:
    tracker = Tracker()
    boxes = np.array([[5, 5, 5, 9], [np.nan, 1, 2, 3], [9, 9, 2, 2]], np.float32)
    bad = Detections(boxes, np.full(3, 0.9, np.float32), np.zeros(3, np.int64))
    assert tracker.update(bad).tolist() == [UNTRACKED] * 3
    assert tracker.update(Detections()).tolist() == []


@given(
    boxes=st.lists(
        st.tuples(*[st.floats(0, 50)] * 2, *[st.floats(0.1, 50)] * 2), min_size=1, max_size=5
    )
)
def test_overlap_is_symmetric_and_of_itself_whole(boxes: list[tuple[float, ...]]) -> None:
    corners = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes])
    found = iou(corners, corners)
    assert np.allclose(found, found.T)
    assert np.allclose(np.diag(found), 1)
    assert ((found >= 0) & (found <= 1 + 1e-9)).all()
    assert iou(corners, np.array([[1.0, 1, 1, 1]])).tolist() == [[0.0]] * len(boxes)


# ---- a street with noise, misses and false alarms


def street(seed: int, frames: int = 120) -> tuple[list[Rows], list[NDArray[np.int64]]]:
    """Six lanes of cars at steady speeds: what a detector finds, and whose each box is (−1: none).

    Each is missed in 8 % of the frames, has a low score in as many, and its box is off by a pixel
    or two; in every fifth frame there is a box of nothing.
    """
    rng = np.random.default_rng(seed)
    found: list[Rows] = []
    whose: list[NDArray[np.int64]] = []
    speeds = rng.uniform(1.5, 5, 6) * np.array([1, -1] * 3)
    for frame in range(frames):
        rows: Rows = []
        owners = []
        for car, speed in enumerate(speeds):
            x = (20 if speed > 0 else 640) + speed * frame
            luck = rng.random()
            if luck < 0.08 or not 0 < x < 700:
                continue
            score = rng.uniform(0.12, 0.24) if luck < 0.16 else rng.uniform(0.5, 0.95)
            dx, dy, dw, dh = rng.normal(0, 1.5, 4)
            rows.append((x + dx, 30 + 25 * car + dy, 60 + dw, 40 + dh, score, 0))
            owners.append(car)
        if frame % 5 == 0:
            rows.append((*rng.uniform(0, 500, 2), 30, 30, rng.uniform(0.3, 0.6), 0))
            owners.append(-1)
        found.append(rows)
        whose.append(np.array(owners, np.int64))
    return found, whose


@pytest.mark.parametrize("seed", range(3))
def test_a_noisy_street_is_tracked_well(seed: int) -> None:
    frames, whose = street(seed)
    numbers = tracked(frames)
    truth = misses = false_alarms = switches = 0
    last: dict[int, int] = {}
    shared: dict[tuple[int, int], int] = {}
    for owners, given_numbers in zip(whose, numbers, strict=True):
        for car, number in zip(owners.tolist(), given_numbers, strict=True):
            truth += car >= 0
            misses += car >= 0 and number == UNTRACKED
            false_alarms += car < 0 and number != UNTRACKED
            if car >= 0 and number != UNTRACKED:
                switches += last.get(car, number) != number
                last[car] = number
                shared[car, number] = shared.get((car, number), 0) + 1
    mota = 1 - (misses + false_alarms + switches) / truth
    assert mota > 0.95
    assert identity_f1(shared, truth, sum(n != UNTRACKED for f in numbers for n in f)) > 0.95
    assert switches == 0


def identity_f1(shared: dict[tuple[int, int], int], truth: int, answered: int) -> float:
    """IDF1 (Ristani et al., 2016): of the best pairing of objects and tracks, one to one."""
    table = np.zeros((1 + max(car for car, _ in shared), 1 + max(n for _, n in shared)))
    for (car, number), count in shared.items():
        table[car, number] = count
    rows, columns = linear_sum_assignment(-table)
    return float(2 * table[rows, columns].sum() / (truth + answered))
