"""Numbers of the objects in a video's predictions: `POST /predict?track=true`.

Replicas answer frames in any order and know nothing of each other's, so the front numbers them when
all are done.
"""

import json
from dataclasses import replace
from typing import Any

from visiondyno.serving.video import PredictedFrame, PredictedVideo
from visiondyno.vision.video_form import FrameChoice, chosen_per_second

_OF_BOXES = ("boxes_xyxy", "scores", "classes", "names")


def with_tracks(video: PredictedVideo, choice: FrameChoice, least: float) -> PredictedVideo:
    """The same predictions with `track_ids`, null for a box that is of no track.

    Boxes of a lower score than `least` stay only where they continue a track. May take long: for a
    thread.

    Args:
        video: a detector's answers, with scores from `LOW_SCORE` on; frames that failed stay.
        choice: its frames.
        least: lowest score that begins a track.
    """
    # The front starts without SciPy; few servers are ever asked for tracks.
    from visiondyno.vision.tracking import Tracker, frames_of_a_second

    speed = chosen_per_second(video.said.get("frames_per_second"), choice)
    tracker = Tracker(least, frames_of_a_second(speed))
    return replace(video, frames=[_tracked(frame, tracker, least) for frame in video.frames])


def _tracked(frame: PredictedFrame, tracker: Any, least: float) -> PredictedFrame:
    import numpy as np

    from visiondyno.predictions import Detections
    from visiondyno.vision.tracking import UNTRACKED

    answer = frame.predicted.answer
    if answer.status >= 400:
        return frame
    found = json.loads(answer.body)
    detections = Detections(
        np.array(found["boxes_xyxy"], np.float32).reshape(-1, 4),
        np.array(found["scores"], np.float32),
        np.array(found["classes"], np.int64),
    )
    numbers = tracker.update(detections, frame.time_s).tolist()
    kept = [
        place
        for place, (number, score) in enumerate(zip(numbers, found["scores"], strict=True))
        if number != UNTRACKED or score >= least
    ]
    for name in _OF_BOXES:
        found[name] = [found[name][place] for place in kept]
    found["track_ids"] = [numbers[p] if numbers[p] != UNTRACKED else None for p in kept]
    body = json.dumps(found, separators=(",", ":")).encode()
    return replace(frame, predicted=replace(frame.predicted, answer=replace(answer, body=body)))
