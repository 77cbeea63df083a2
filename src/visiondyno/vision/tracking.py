"""Which boxes of successive frames are the same object: ByteTrack.

After Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022
(arXiv:2110.06864), algorithm 1. Boxes of a high score are matched with where tracks should be by
now; boxes of a low score, which are often hidden objects, only with the tracks that are left and
were seen a frame ago. Where a track should be is told by a Kalman filter of constant velocity, with
the state and the noise of Wojke et al., "Simple Online and Realtime Tracking with a Deep
Association Metric", ICIP 2017: centre, aspect ratio, height and their speeds; standard deviations
in proportion to the height.

Unlike there, a track has one class, and boxes of other classes are never matched with it.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from visiondyno.predictions import Detections, IntArray
from visiondyno.vision.video_form import LOW_SCORE

UNTRACKED = -1
"""In the place of a track's number."""

_LEAST_BUFFER_FRAMES = 5
_BUFFER_S = 1.0
_POSITION_SHARE, _VELOCITY_SHARE = 1 / 20, 1 / 160
_ASPECT_DEVIATION, _ASPECT_SPEED_DEVIATION = 1e-2, 1e-5
_MEASURED_ASPECT_DEVIATION = 1e-1
_LEAST_SIDE_PX = 1e-3
_FIRST_IOU, _SECOND_IOU, _NEW_IOU = 0.2, 0.5, 0.3
"""Least overlap of a match: of high scores, of low ones, and of tracks that were seen once only."""

_IMPOSSIBLE = 1e6

_Array = NDArray[np.float64]

_TRANSITION: _Array = np.eye(8) + np.eye(8, k=4)


@dataclass(slots=True, eq=False)
class _Track:
    """One object.

    Attributes:
        number: from 1, in the order in which they were confirmed; 0 before that.
        class_id: of all its boxes.
        mean: (8,) centre x, centre y, width over height, height; their changes each frame.
        covariance: (8, 8).
        seen: frame of its last box.
        seen_s: when that is shown; None where it isn't known.
        is_lost: whether it had none in the last frame.
    """

    number: int
    class_id: int
    mean: _Array
    covariance: _Array
    seen: int
    seen_s: float | None = None
    is_lost: bool = field(default=False)

    def predict(self) -> None:
        """Go on by one frame."""
        if self.is_lost:
            self.mean[7] = 0.0  # what is out of sight isn't known to come nearer
        self.mean = _TRANSITION @ self.mean
        self.mean[3] = max(self.mean[3], _LEAST_SIDE_PX)
        deviations = _deviations(self.mean[3], _ASPECT_DEVIATION, _ASPECT_SPEED_DEVIATION)
        noise = np.diag(deviations**2)
        self.covariance = _TRANSITION @ self.covariance @ _TRANSITION.T + noise

    def correct(self, measured: _Array) -> None:
        """Take in a box, as centre x, centre y, aspect ratio and height."""
        height = self.mean[3]
        share = _POSITION_SHARE * height
        noise = np.diag(np.array([share, share, _MEASURED_ASPECT_DEVIATION, share]) ** 2)
        projected = self.covariance[:4, :4] + noise
        gain = np.linalg.solve(projected, self.covariance[:4]).T
        self.mean = self.mean + gain @ (measured - self.mean[:4])
        self.covariance = self.covariance - gain @ projected @ gain.T

    @property
    def box_xyxy(self) -> _Array:
        """Where it should be."""
        x, y, aspect, height = self.mean[:4]
        half_width, half_height = max(aspect, _LEAST_SIDE_PX) * height / 2, height / 2
        return np.array([x - half_width, y - half_height, x + half_width, y + half_height])


class Tracker:
    """Numbers the objects of one video, frame by frame. Not for several threads."""

    def __init__(self, high_score: float = 0.25, buffer_frames: int = 30) -> None:
        """An empty scene.

        Args:
            high_score: boxes from this score on begin tracks, and are matched first.
            buffer_frames: a track that isn't seen for more frames has ended; its number isn't
                given again. Where frames have times, it has ended after more than a second instead,
                and five frames at least.
        """
        self._high_score = high_score
        self._buffer_frames = buffer_frames
        self._tracks: list[_Track] = []
        self._frame = 0
        self._numbers = 0

    def update(self, detections: Detections, time_s: float | None = None) -> IntArray:
        """Take in the next frame.

        Args:
            detections: all boxes with a score from `LOW_SCORE` on; lower ones are passed over.
            time_s: when the frame is shown; None: not known.

        Returns:
            (n,) int64, of each box its track's number, or `UNTRACKED`: it belongs to none, or it
            is the only box yet of an object that appeared after the first frame.
        """
        self._frame += 1
        for track in self._tracks:
            track.predict()
        boxes = detections.boxes_xyxy.astype(np.float64)
        usable = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] - boxes[:, :2] > 0).all(axis=1)
        high = usable & (detections.scores >= self._high_score)
        low = usable & ~high & (detections.scores >= LOW_SCORE)
        matching = _Matching(boxes, detections.class_ids, high, low)
        confirmed = [track for track in self._tracks if track.number]
        fresh = [track for track in self._tracks if not track.number]
        left = matching.match(confirmed, matching.high, _FIRST_IOU)
        in_sight = [track for track in left if not track.is_lost]
        matching.match(in_sight, matching.low, _SECOND_IOU)
        matching.match(fresh, matching.high, _NEW_IOU)
        self._take_in(matching, time_s)
        self._begin(matching, time_s)
        return matching.numbers()

    def _take_in(self, matching: "_Matching", time_s: float | None) -> None:
        for track, index in matching.pairs:
            track.correct(matching.measured(index))
            track.seen, track.seen_s = self._frame, time_s
            track.number = track.number or self._next_number()
        kept = []
        for track in self._tracks:
            track.is_lost = track.seen != self._frame
            if not self._has_ended(track, time_s) and not (track.is_lost and not track.number):
                kept.append(track)
        self._tracks = kept

    def _begin(self, matching: "_Matching", time_s: float | None) -> None:
        """Tracks of the boxes that are left: at once in the first frame, else on a second look."""
        for index in matching.high:
            measured = matching.measured(index)
            height = measured[3]
            deviations = _deviations(
                height, _ASPECT_DEVIATION, _ASPECT_SPEED_DEVIATION, np.array([2.0] * 4 + [10.0] * 4)
            )
            track = _Track(
                number=self._next_number() if self._frame == 1 else 0,
                class_id=int(matching.class_ids[index]),
                mean=np.concatenate([measured, np.zeros(4)]),
                covariance=np.diag(deviations**2),
                seen=self._frame,
                seen_s=time_s,
            )
            self._tracks.append(track)
            matching.pairs.append((track, index))

    def _has_ended(self, track: _Track, time_s: float | None) -> bool:
        unseen = self._frame - track.seen
        if time_s is None or track.seen_s is None or time_s < track.seen_s:
            return unseen > self._buffer_frames
        # A file's frames a second are a guess where their distances are uneven.
        return unseen > _LEAST_BUFFER_FRAMES and time_s - track.seen_s > _BUFFER_S

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers


class _Matching:
    """One frame's boxes on their way to tracks.

    Attributes:
        high, low: indices of the boxes that have no track yet.
        pairs: tracks and their boxes' indices.
    """

    def __init__(
        self, boxes: _Array, class_ids: IntArray, high: NDArray[np.bool_], low: NDArray[np.bool_]
    ) -> None:
        self.class_ids = class_ids
        self.high: list[int] = np.flatnonzero(high).tolist()
        self.low: list[int] = np.flatnonzero(low).tolist()
        self.pairs: list[tuple[_Track, int]] = []
        self._boxes = boxes

    def match(self, tracks: list[_Track], among: list[int], least: float) -> list[_Track]:
        """Pair tracks with boxes of `among`, which are taken from it; the tracks without one.

        Args:
            tracks: that have no box yet.
            among: indices of boxes.
            least: overlap from which on a pair is one.
        """
        if not tracks or not among:
            return tracks
        overlap = iou(np.stack([track.box_xyxy for track in tracks]), self._boxes[among])
        same_class = np.array([[track.class_id] for track in tracks]) == self.class_ids[among]
        possible = same_class & (overlap >= least)
        cost = np.where(possible, 1.0 - overlap, _IMPOSSIBLE)
        rows, columns = linear_sum_assignment(cost)
        found = [
            (row, column)
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            if possible[row, column]
        ]
        self.pairs += [(tracks[row], among[column]) for row, column in found]
        taken = {among[column] for _, column in found}
        among[:] = [index for index in among if index not in taken]
        matched = {row for row, _ in found}
        return [track for row, track in enumerate(tracks) if row not in matched]

    def measured(self, index: int) -> _Array:
        """A box as centre x, centre y, aspect ratio and height."""
        left, top, right, bottom = self._boxes[index]
        height = bottom - top
        return np.array([(left + right) / 2, (top + bottom) / 2, (right - left) / height, height])

    def numbers(self) -> IntArray:
        """Of each box its track's number."""
        found = np.full(len(self.class_ids), UNTRACKED, np.int64)
        for track, index in self.pairs:
            found[index] = track.number or UNTRACKED
        return found


def frames_of_a_second(frames_per_second: float) -> int:
    """For how many frames an object may be out of sight: a second's, and five at least."""
    return max(_LEAST_BUFFER_FRAMES, round(frames_per_second))


def iou(a: _Array, b: _Array) -> _Array:
    """Intersection over union of each pair: (n, 4) and (m, 4) corners to (n, m)."""
    corners = np.minimum(a[:, None, 2:], b[None, :, 2:]), np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.clip(corners[0] - corners[1], 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    found: _Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def _deviations(
    height: float, aspect: float, aspect_speed: float, times: _Array | float = 1.0
) -> _Array:
    position, velocity = _POSITION_SHARE * height, _VELOCITY_SHARE * height
    found = np.array(
        [position, position, aspect, position, velocity, velocity, aspect_speed, velocity]
    )
    scaled = found * times
    scaled[[2, 6]] = found[[2, 6]]
    return scaled
