"""`predict` of a video: the model on its frames, one after the other, never all in memory."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from visiondyno.errors import SpecError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.predicted import INLINE_BYTES, as_json, lowest_score, room_for_files
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.predictions import Classification, Detections, IntArray, Predictions
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.sandbox.video import DecodedFrame, DecodedVideo, notes_of
from visiondyno.specs.video import PredictVideoInput
from visiondyno.vision.chosen_classes import class_ids
from visiondyno.vision.draw import draw
from visiondyno.vision.tracking import UNTRACKED, Tracker, frames_of_a_second
from visiondyno.vision.video_file import VideoHeader, frames_expected
from visiondyno.vision.video_form import LOW_SCORE, FrameChoice, chosen_per_second
from visiondyno.vision.video_writer import VideoWriter

_TOLD_EVERY_S = 0.2

OnFrame = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class VideoSummary:
    """What came of a video, up to where it is.

    Attributes:
        video: `width`, `height`, `frames_per_second`, `frames_announced` as the file says.
        frames: predicted so far.
        found: boxes of each class (of a classifier: frames whose best answered class it is).
        tracks: objects that were numbered; None without tracking.
        frames_per_s: how fast it went, decoding and drawing included; None where no second
            inference was.
        notes: what a reader must know.
    """

    video: dict[str, Any] = field(default_factory=dict)
    frames: int = 0
    found: Counter[str] = field(default_factory=Counter)
    tracks: int | None = None
    frames_per_s: float | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Its attributes."""
        return {
            "video": self.video,
            "frames": self.frames,
            "found": dict(self.found.most_common()),
            "tracks": self.tracks,
            "frames_per_s": self.frames_per_s,
            "notes": self.notes,
        }

    def count(self, names: Sequence[str], tracks: IntArray | None, *, each: bool) -> None:
        """Take in a frame: the names of what is answered, of which `each` counts or the best."""
        self.frames += 1
        self.found.update(names if each else names[:1])
        if tracks is not None:
            self.tracks = max(self.tracks or 0, int(tracks.max(initial=0)))


def run(spec: PredictVideoInput, context: OperationContext) -> dict[str, Any]:
    """The frames' predictions, and the drawn video where one is asked for.

    `predictions` are in the answer, or are a blob of JSON lines, `predictions_file`. `drawn` is a
    blob or None.

    Raises:
        DatasetError: the video can't be read.
        SpecError: the options don't fit video or model.
        NotFound: the video is a blob that this worker's store doesn't have.
        ModelError: the model can't be read or run.
        StorageFull, TransportDown: what was made can't be kept.
    """
    files = None
    path, name = Path(spec.video), f"Video {spec.video:.200}"
    if spec.video.startswith("sha256:"):
        files = WorkerFiles.of_this_worker()
        path = files.fetch(spec.video, name, context.check)
    with room_for_files(), tempfile.TemporaryDirectory(prefix="visiondyno-") as folder:
        lines = Path(folder, "predictions.jsonl")
        drawn = None if spec.draw is None else Path(folder, f"drawn.{spec.draw}")
        summary = VideoSummary()
        with lines.open("w") as file:

            def take(frame: dict[str, Any]) -> None:
                file.write(json.dumps(frame) + "\n")

            predict_video(spec, path, context, summary, take, drawn, name=name)
        is_short = lines.stat().st_size <= INLINE_BYTES
        if not is_short or drawn is not None:
            files = files or WorkerFiles.of_this_worker()
        context.progress("keeping the results")
        return {
            "operation": "predict",
            "status": "success",
            **summary.to_json(),
            "predictions": [json.loads(line) for line in lines.read_text().splitlines()]
            if is_short
            else None,
            "predictions_file": None if is_short or files is None else files.publish_file(lines),
            "drawn": None if drawn is None or files is None else files.publish_file(drawn),
        }


def predict_video(
    spec: PredictVideoInput,
    path: Path,
    context: OperationContext,
    summary: VideoSummary,
    on_frame: OnFrame,
    drawn: Path | None = None,
    *,
    name: str | None = None,
) -> None:
    """Predict the chosen frames of a video in order.

    Whatever ends it, an interrupt too, `drawn` holds the frames until then and can be played.

    Args:
        spec: which frames, and how; its `video` and `draw` aren't looked at.
        path: of the video.
        context: of the job; told `done`, `total` and how fast it goes.
        summary: filled in as it goes.
        on_frame: called with each frame's prediction: `frame`, `time_s`, what `predict` answers of
            an image, and `track_ids` (null: of no track) with tracking.
        drawn: the video to make.
        name: what messages call the video, at a sentence's beginning.

    Raises:
        DatasetError, SpecError, TooLarge, ModelError, StorageFull: as the message says.
    """
    choice = FrameChoice(spec.every, spec.fps, spec.start_s, spec.max_frames, spec.end_s)
    options = LoadOptions(device=spec.device, intra_op_threads=spec.threads)
    with ExitStack() as stack:
        # The video first: what is wrong with it is found out before a model is downloaded.
        decoding = DecodedVideo(path, choice, name or f"Video {path}", context.check)
        video = stack.enter_context(decoding)
        summary.video = video.said
        header = VideoHeader(**video.said)
        model = stack.enter_context(context.model(spec.model, options))
        speed = chosen_per_second(header.frames_per_second, choice)
        frames = _Frames(spec, model, speed)
        writer = None
        if drawn is not None:
            frames.check_drawable()
            writer = stack.enter_context(VideoWriter(drawn, speed))
        ticker = _Ticker(context, frames_expected(header, choice), summary, frames.at_once)
        for frame, prediction, tracks in frames.predicted(video):
            found = frames.to_json(frame, prediction, tracks)
            on_frame(found)
            if writer is not None:
                image = draw(frame.image, prediction, frames.names, _numbers(tracks))
                writer.write(image, frame.time_s)
            summary.count(found["names"], tracks, each=frames.has_boxes)
            ticker.tell()
        ticker.tell(at_end=True)
        summary.notes += _notes(video, model, writer)
        if summary.frames == 0:
            raise SpecError(
                f"None of the video's {video.end['frames']} frames was chosen; begin earlier than "
                f"at {spec.start_s:g} s, or end later."
            )


class _Frames:
    """The model, and what is kept of its answers.

    Attributes:
        names: of the model's classes.
        has_boxes: whether it is a detector.
        at_once: frames that are predicted together.
    """

    def __init__(self, spec: PredictVideoInput, model: LoadedModel, speed: float) -> None:
        card = model.description.card
        self.names = card.classes
        self._least = lowest_score(spec.confidence, card)
        self._model = model
        self._task = card.task
        self.has_boxes = card.task == "detection"
        self.at_once = model.description.batch_size or 1
        self._kept = None if spec.classes is None else class_ids(spec.classes, card.classes)
        self._tracker: Tracker | None = None
        if spec.track:
            if card.task != "detection":
                raise SpecError(
                    f"{spec.model} is a {card.task} model: only boxes can be tracked. Leave "
                    "tracking out, or use a detector."
                )
            self._tracker = Tracker(self._least, frames_of_a_second(speed))

    def check_drawable(self) -> None:
        """Refuse before anything is predicted.

        Raises:
            SpecError: nothing can be drawn of such a model's answers.
        """
        if self._task == "depth":
            raise SpecError("A depth model's answers aren't drawn on videos; leave the file away.")

    def predicted(
        self, video: DecodedVideo
    ) -> Iterator[tuple[DecodedFrame, Predictions, IntArray | None]]:
        """Each frame with its prediction and, with tracking, the tracks of its boxes."""
        least = min(LOW_SCORE, self._least) if self._tracker else self._least
        batch: list[DecodedFrame] = []
        for frame in video:
            batch.append(frame)
            if len(batch) == self.at_once:
                yield from self._answered(batch, least)
                batch = []
        if batch:
            yield from self._answered(batch, least)

    def _answered(
        self, batch: list[DecodedFrame], least: float
    ) -> Iterator[tuple[DecodedFrame, Predictions, IntArray | None]]:
        answers = self._model.predict([frame.image for frame in batch], confidence=least)
        for frame, answer in zip(batch, answers, strict=True):
            if not isinstance(answer, Detections):
                yield frame, self._of_chosen(answer), None
                continue
            chosen = answer
            if self._kept is not None:
                chosen = _of(answer, np.isin(answer.class_ids, self._kept))
            if self._tracker is None:
                yield frame, chosen, None
                continue
            tracks = self._tracker.update(chosen, frame.time_s)
            shown = (chosen.scores >= self._least) | (tracks != UNTRACKED)
            yield frame, _of(chosen, shown), tracks[shown]

    def _of_chosen(self, answer: Predictions) -> Predictions:
        """A classifier's answer without the classes that aren't asked for."""
        if self._kept is None or not isinstance(answer, Classification):
            return answer
        probabilities = np.zeros_like(answer.probabilities)
        probabilities[self._kept] = answer.probabilities[self._kept]
        return Classification(probabilities)

    def to_json(
        self, frame: DecodedFrame, prediction: Predictions, tracks: IntArray | None
    ) -> dict[str, Any]:
        """What is answered of a frame."""
        time_s = None if frame.time_s is None else round(frame.time_s, 6)
        found = as_json(prediction, self.names, self._least, self._kept)
        numbered = {} if tracks is None else {"track_ids": _numbers(tracks)}
        return {"frame": frame.number, "time_s": time_s, **found, **numbered}


def _of(detections: Detections, kept: Any) -> Detections:
    return Detections(
        detections.boxes_xyxy[kept], detections.scores[kept], detections.class_ids[kept]
    )


def _numbers(tracks: IntArray | None) -> list[int | None] | None:
    if tracks is None:
        return None
    return [None if number == UNTRACKED else number for number in tracks.tolist()]


class _Ticker:
    """Tells how far it is, and how fast it goes."""

    def __init__(
        self, context: OperationContext, total: int | None, summary: VideoSummary, first: int
    ) -> None:
        """`first`: so many frames come together at the beginning, after a slower inference."""
        self._first = first
        self._context = context
        self._total = total
        self._summary = summary
        self._start_s = self._told_s = 0.0

    def tell(self, *, at_end: bool = False) -> None:
        """Progress, every few frames."""
        now_s = time.monotonic()
        done = self._summary.frames
        if done <= self._first:
            self._start_s = now_s
        elif now_s > self._start_s and not at_end:
            self._summary.frames_per_s = (done - self._first) / (now_s - self._start_s)
        if not at_end and now_s - self._told_s < _TOLD_EVERY_S:
            return
        self._told_s = now_s
        self._context.progress(
            "predicting frames", done=done, total=self._total, detail=self._detail(done)
        )

    def _detail(self, done: int) -> str:
        rate = self._summary.frames_per_s
        if rate is None:
            return ""
        speed = f"{rate:.1f} frames/s"
        if self._total is None or self._total <= done:
            return speed
        minutes, seconds = divmod(round((self._total - done) / rate), 60)
        return f"{speed}, {minutes}:{seconds:02d} left"


def _notes(video: DecodedVideo, model: LoadedModel, writer: VideoWriter | None) -> list[str]:
    notes = list(model.description.notes)
    notes += notes_of(video.said, video.end)
    if writer is not None:
        padded = "; a row or column was added, since codecs want even sizes" * writer.is_padded
        notes.append(f"The drawn video is {writer.codec}, without sound{padded}.")
    if writer is not None and writer.shortened:
        notes.append(
            f"Gaps of more than {writer.longest_s:g} s between frames of the video, which last "
            f"{writer.longest_s:g} s each in the drawn one: {writer.shortened:,}."
        )
    if writer is not None and writer.went_back:
        notes.append(
            "Places where times of the video go back, and frames just follow each other in the "
            f"drawn one: {writer.went_back:,}."
        )
    return notes
