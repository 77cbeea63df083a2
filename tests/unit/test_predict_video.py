"""Videos through a model: which frames, what is written, and what is wrong with a file."""

import errno
import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_clips import EVERYTHING, FRAMES, HEIGHT, SPEED, WIDTH, brightness, write_clip
from visiondyno.errors import (
    ChildDied,
    DatasetError,
    OperationFailed,
    SpecError,
    StorageFull,
)
from visiondyno.operations import find_operation
from visiondyno.operations.context import OperationContext
from visiondyno.operations.predict_video import (
    VideoSummary,
    _Ticker,
    predict_video,
)
from visiondyno.operations.predicted import room_for_files
from visiondyno.sandbox import video as decoding
from visiondyno.sandbox.video import DecodedVideo, notes_of
from visiondyno.specs.operations import parse
from visiondyno.specs.video import PredictVideoInput
from visiondyno.vision.video_file import VideoFile, VideoHeader, frames_expected
from visiondyno.vision.video_form import FrameChoice, chosen_per_second
from visiondyno.worker import run as run_job


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


def decoded(path: Path, choice: FrameChoice = EVERYTHING) -> list[tuple[int, float | None, float]]:
    with DecodedVideo(path, choice, f"Video {path}") as video:
        return [(one.number, one.time_s, float(one.image.mean())) for one in video]


# ---- decoding in a process of its own


def test_frames_come_in_order_with_their_times(clip: Path) -> None:
    found = decoded(clip)
    assert [number for number, _, _ in found] == list(range(FRAMES))
    assert [time_s for _, time_s, _ in found] == pytest.approx([n / SPEED for n in range(FRAMES)])
    assert [mean for _, _, mean in found] == pytest.approx([n * 10 for n in range(FRAMES)], abs=4)
    part = decoded(clip, FrameChoice(start_s=0.5, end_s=1.2, every=3))
    assert [number for number, _, _ in part] == [5, 8, 11]


def test_a_file_that_is_no_video_is_told_in_a_sentence(tmp_path: Path, clip: Path) -> None:
    for content, says in (
        (b"", "is empty"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "is no MP4, MOV"),
        (clip.read_bytes()[:400], "can't be opened: it is damaged or incomplete"),
        (b"RIFF\0\0\0\0AVI " + bytes(300), "can't be opened"),
    ):
        path = tmp_path / "bad.mp4"
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=says) as caught:
            decoded(path)
        assert str(path) in caught.value.message
    with pytest.raises(DatasetError, match="can't be read: No such file"):
        decoded(tmp_path / "none.mp4")
    with pytest.raises(DatasetError, match="can't be opened"):
        VideoFile(tmp_path / "none.mp4")


def test_a_turned_video_is_shown_upright(tmp_path: Path) -> None:
    path = tmp_path / "turned.mp4"
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, SPEED, (WIDTH, HEIGHT))
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[: HEIGHT // 2] = 200
    for _ in range(4):
        writer.write(image)
    writer.release()
    data = bytearray(path.read_bytes())
    matrix = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, HEIGHT << 16, 0, 1 << 30)
    place = data.index(b"tkhd") + 4 + 40  # ISO 14496-12, 8.3.2: the matrix of version 0
    data[place : place + 36] = matrix
    path.write_bytes(data)
    with DecodedVideo(path, EVERYTHING, "It") as video:
        assert (video.said["width"], video.said["height"]) == (HEIGHT, WIDTH)
        frame = next(iter(video))
    assert frame.image.shape == (WIDTH, HEIGHT, 3)
    assert frame.image[:, HEIGHT * 3 // 4 :].mean() > 150  # turned by 90° clockwise
    assert frame.image[:, : HEIGHT // 4].mean() < 50


def test_a_decoder_that_crashes_or_babbles_is_told(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Python:
        """In place of the interpreter: a shell that does this."""

        executable = str(tmp_path / "python")

    monkeypatch.setattr(decoding, "sys", Python)
    header = r"printf 'H\002\0\0\0{}';"
    for does, error, says in (
        ("exit 1", OperationFailed, "ended before the video did"),
        (header + "exit 1", OperationFailed, "ended before the video did"),
        (r"printf 'F\377\377\377\377'", ChildDied, "can't be read"),
        (r"printf 'H\001\0\0\0x'", ChildDied, "can't be read"),
        (r"printf 'Q\002\0\0\0{}'", ChildDied, "can't be read"),
        (r"printf 'E\002\0\0\0{}'", ChildDied, "can't be read"),
        (header + r"printf 'F\030\0\0\0123456789012345678901234'", ChildDied, "can't be read"),
    ):
        Path(Python.executable).write_text(f"#!/bin/sh\n{does}\n")
        Path(Python.executable).chmod(0o755)
        with pytest.raises(error, match=says):
            decoded(clip)


def test_waiting_for_a_frame_can_be_stopped(clip: Path) -> None:
    class Stop(Exception):
        pass

    stopped: list[bool] = []

    def check() -> None:
        if stopped:
            raise Stop

    with DecodedVideo(clip, EVERYTHING, "It", check) as video:
        stopped.append(True)
        with pytest.raises(Stop):
            list(video)
    assert video._child.poll() is not None


def test_what_is_missing_of_a_video_is_told() -> None:
    said = {"frames_announced": 100, "frames_per_second": 10.0}
    whole = {"frames": 100, "last_s": None, "ended": True, "lost": 0}
    assert notes_of(said, whole) == []
    assert notes_of(said, {**whole, "frames": 50, "ended": False}) == []
    assert notes_of({**said, "frames_announced": None}, {**whole, "frames": 1}) == []
    (cut,) = notes_of(said, {**whole, "frames": 50})
    assert "ends after 50 of the 100 frames" in cut
    assert notes_of(said, {**whole, "frames": 50, "last_s": 4.9}) == [cut]
    assert notes_of(said, {**whole, "frames": 50, "last_s": 9.8}) == []  # at uneven distances
    assert notes_of(said, {**whole, "lost": 1}) == [
        "Frames that couldn't be decoded and are left out: 1."
    ]


class TimedFile(VideoFile):
    """A video of frames that are shown at these times."""

    def __init__(self, times_s: list[float], frames_per_second: float) -> None:
        self._times = iter(times_s)
        self.header = VideoHeader(8, 8, frames_per_second, len(times_s))
        self.passed = 0

    def next_frame(self) -> float | None:
        self.passed += 1
        return next(self._times, None)


@pytest.mark.parametrize("speed", [24.0, 29.97, 30.0, 60.0, 240.0])
def test_rounded_times_are_the_frames_that_are_meant(speed: float) -> None:
    rounded = [round(number / speed, 3) for number in range(500)]  # as MKV and WebM have them
    for every in (1, 2, 3):
        choice = FrameChoice(frames_per_second=speed / every)
        found = [number for number, _ in TimedFile(rounded, speed).chosen_frames(choice)]
        assert found == list(range(0, 500, every))


def test_after_a_gap_no_frame_is_chosen_twice() -> None:
    times_s = [0.0, 0.5, 1.0, 10.0, 10.1, 10.2, 10.9, 11.0, 11.1]
    choice = FrameChoice(frames_per_second=1.0)
    found = [time_s for _, time_s in TimedFile(times_s, 10.0).chosen_frames(choice)]
    assert found == [0.0, 1.0, 10.0, 11.0]
    uneven = [0.0, 0.02, 0.08, 0.10, 0.16, 0.18, 0.24, 0.26, 0.32]
    choice = FrameChoice(frames_per_second=25.0)
    assert len(list(TimedFile(uneven, 25.0).chosen_frames(choice))) >= 7


@given(
    announced=st.integers(1, 500),
    every=st.none() | st.integers(1, 50),
    most=st.none() | st.integers(1, 50),
)
def test_expected_frames_are_those_that_come(
    announced: int, every: int | None, most: int | None
) -> None:
    header = VideoHeader(8, 8, 25.0, announced)
    expected = frames_expected(header, FrameChoice(every=every, most=most))
    assert expected == min(math.ceil(announced / (every or 1)), most or announced)


def test_expected_frames_of_a_part() -> None:
    header = VideoHeader(8, 8, 10.0, 100)
    assert frames_expected(header, FrameChoice(frames_per_second=2.0, start_s=5.0)) == 10
    assert frames_expected(header, FrameChoice(end_s=3.0)) == 30
    assert frames_expected(header, FrameChoice(start_s=20.0)) == 0
    assert frames_expected(VideoHeader(8, 8, None, None), FrameChoice(most=7)) == 7
    assert chosen_per_second(10.0, FrameChoice(every=4)) == 2.5
    assert chosen_per_second(10.0, FrameChoice(frames_per_second=50.0)) == 10
    assert chosen_per_second(None, EVERYTHING) == 25


# ---- the operation


def predicted(
    path: Path, drawn: Path | None = None, **given: Any
) -> tuple[list[Any], VideoSummary]:
    fields = {"model": "fake:detection", "video": str(path), "confidence": 0.5, **given}
    spec = parse(PredictVideoInput, fields, "wrong")
    summary, frames = VideoSummary(), []
    predict_video(spec, path, OperationContext(), summary, frames.append, drawn)
    return frames, summary


def test_a_video_is_predicted_and_drawn(clip: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.mp4"
    frames, summary = predicted(clip, drawn, confidence=0.1)
    assert [one["frame"] for one in frames] == list(range(FRAMES))
    assert [one["time_s"] for one in frames] == pytest.approx([n / 10 for n in range(FRAMES)])
    assert summary.frames == FRAMES
    assert summary.found.total() == sum(len(one["names"]) for one in frames) > 0
    assert summary.frames_per_s is not None
    assert "The drawn video is MPEG-4, without sound." in summary.notes
    with VideoFile(drawn) as video:
        header = video.header
    assert header == VideoHeader(WIDTH, HEIGHT, SPEED, FRAMES)
    few, summary = predicted(clip, drawn, every=5)
    assert [one["frame"] for one in few] == [0, 5, 10, 15]
    with VideoFile(drawn) as video:
        assert (video.header.frames_per_second, video.header.frames_announced) == (2.0, 4)


def test_only_the_chosen_classes_are_kept(clip: Path) -> None:
    frames, _ = predicted(clip, confidence=0.0, classes=("car", "2"))
    found = {name for one in frames for name in one["names"]}
    assert found == {"car", "pedestrian"}
    with pytest.raises(SpecError, match="no class 'plane'"):
        predicted(clip, classes=("plane",))


def test_tracked_boxes_have_numbers(tmp_path: Path) -> None:
    path = tmp_path / "still.avi"
    still = np.full((HEIGHT, WIDTH, 3), 70, np.uint8)
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), SPEED, (WIDTH, HEIGHT)
    )
    for _ in range(4):
        writer.write(still)
    writer.release()
    frames, summary = predicted(path, tmp_path / "drawn.webm", track=True, confidence=0.0)
    assert all(one["track_ids"] == frames[0]["track_ids"] for one in frames)
    assert summary.tracks == len(frames[0]["track_ids"]) > 0
    with pytest.raises(SpecError, match="only boxes can be tracked"):
        predicted(path, model="fake:classification", track=True)


def test_a_classifier_answers_each_frame(clip: Path, tmp_path: Path) -> None:
    frames, summary = predicted(
        clip, tmp_path / "out.avi", model="fake:classification", max_frames=3, confidence=0.0
    )
    assert len(frames) == summary.found.total() == 3
    assert "boxes_xyxy" not in frames[0]


def test_the_classes_that_a_classifier_is_asked_for_are_counted(clip: Path) -> None:
    given = {"model": "fake:classification", "max_frames": 3, "classes": ("sign",)}
    frames, summary = predicted(clip, confidence=0.0, **given)
    assert [one["names"] for one in frames] == [["sign"]] * 3
    assert summary.found == {"sign": 3}
    _, summary = predicted(clip, confidence=1.0, **given)
    assert summary.found == {}


def test_how_fast_it_goes_leaves_out_the_first_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr("visiondyno.operations.predict_video.time.monotonic", lambda: now_s)
    summary = VideoSummary()
    ticker = _Ticker(OperationContext(), 12, summary, 4)
    for batch_s in (100.0, 2.0, 2.0):
        now_s += batch_s
        for _ in range(4):
            summary.count([], None, each=True)
            ticker.tell()
    assert summary.frames_per_s == 2.0


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_is_told_where_predictions_are_kept(error: int) -> None:
    with pytest.raises(OSError if error == errno.EACCES else StorageFull), room_for_files():
        raise OSError(error, os.strerror(error))


def test_no_frame_is_an_error_and_not_an_empty_answer(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="None of the video's 20 frames was chosen"):
        predicted(clip, tmp_path / "out.mp4", start_s=100.0)
    assert not (tmp_path / "out.mp4").exists()


def test_a_cut_off_video_is_predicted_as_far_as_it_goes(clip: Path, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", "MJPG").read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(whole[: len(whole) * 8 // 10])
    frames, summary = predicted(path)
    assert 1 < len(frames) < FRAMES
    assert any(f"ends after {len(frames)} of the 20 frames" in note for note in summary.notes)


def test_an_interrupt_leaves_a_file_that_plays(clip: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.mp4"
    spec = PredictVideoInput(model="fake:detection", video=str(clip))
    summary = VideoSummary()

    def interrupt(frame: dict[str, Any]) -> None:
        if frame["frame"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_video(spec, clip, OperationContext(), summary, interrupt, drawn)
    assert summary.frames == 7
    assert len(brightness(drawn)) == 7
    assert list(tmp_path.iterdir()) == [drawn]


def test_the_job_answers_with_predictions_and_blobs(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    job = {"operation": "predict", "model": "fake:detection", "video": str(clip), "draw": "avi"}
    assert find_operation(job).input_type is PredictVideoInput
    output = run_job({**job, "track": True}, OperationContext())
    assert (output["status"], output["frames"], output["predictions_file"]) == ("success", 20, None)
    assert len(output["predictions"]) == 20
    assert json.loads(json.dumps(output)) == output

    def blob(reference: str) -> Path:
        (found,) = tmp_path.rglob(reference.removeprefix("sha256:"))
        return found

    assert len(brightness_of_blob(blob(output["drawn"]), tmp_path)) == 20
    monkeypatch.setattr("visiondyno.operations.predict_video.INLINE_BYTES", 100)
    long = run_job({**job, "draw": None}, OperationContext())
    assert (long["predictions"], long["drawn"]) == (None, None)
    lines = blob(long["predictions_file"]).read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(20))
    again = run_job({**job, "video": output["drawn"], "max_frames": 2}, OperationContext())
    assert again["frames"] == 2


def brightness_of_blob(blob: Path, folder: Path) -> list[float]:
    path = folder / "copy.avi"
    path.write_bytes(blob.read_bytes())
    return brightness(path)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"every": 2, "fps": 1.0}, "one of 'every' and 'fps'"),
        ({"start_s": 3.0, "end_s": 2.0}, "'end_s' must be after"),
        ({"draw": "gif"}, "draw"),
        ({"every": 0}, "every"),
    ],
)
def test_options_of_videos_are_checked(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse(PredictVideoInput, {"model": "m", "video": "v.mp4", **given}, "Wrong")
