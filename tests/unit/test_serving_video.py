"""What the process that decodes videos sends, and what its other end makes of it."""

import asyncio
import io
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from coroutines import run
from prometheus_client import CollectorRegistry

from serving_stand_ins import Launcher, ask, started_pool
from visiondyno.errors import (
    ChildDied,
    DatasetError,
    OperationFailed,
    RateLimited,
    SpecError,
    TimeLimitExceeded,
    TooLarge,
)
from visiondyno.sandbox.video_child import FRAME, _decode
from visiondyno.serving import video as video_module
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.inference import Inference
from visiondyno.serving.metrics import ServingMetrics
from visiondyno.serving.spooled import SpooledFile, SpoolRoom
from visiondyno.serving.video import PredictedVideo, Videos
from visiondyno.telemetry.traces import Tracing
from visiondyno.vision.video_form import FrameChoice

EVERYTHING = {"every": None, "frames_per_second": None, "start_s": 0.0, "most": None}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames, 10 a second, each 5 brighter than the one before."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for number in range(20):
        writer.write(np.full((24, 32, 3), number * 5, np.uint8))
    writer.release()
    return path


def records(path: Path, choice: dict[str, Any], **limits: Any) -> Iterator[tuple[str, bytes]]:
    """What the child writes."""
    out = io.BytesIO()
    work = {"path": str(path), "most_frames": 100, "most_pixels": 10_000, **limits}
    _decode({**work, "choice": {**EVERYTHING, **choice}}, out)
    out.seek(0)
    while head := out.read(5):
        kind, length = struct.unpack("<cI", head)
        yield kind.decode(), out.read(length)


def frames(path: Path, **choice: Any) -> list[int]:
    """The numbers of the frames that are sent."""
    found = []
    for kind, content in records(path, choice):
        if kind == "F":
            number, time_s, height, width = FRAME.unpack_from(content)
            assert (height, width) == (24, 32)
            assert time_s == pytest.approx(number / 10)
            pixels = np.frombuffer(content, np.uint8, offset=FRAME.size)
            assert abs(pixels.astype(float).mean() - number * 5) < 3
            found.append(number)
    return found


def test_the_chosen_frames_are_sent(clip: Path) -> None:
    assert frames(clip) == list(range(20))
    assert frames(clip, every=7) == [0, 7, 14]
    assert frames(clip, every=7, start_s=0.5) == [5, 12, 19]
    assert frames(clip, frames_per_second=2.5) == [0, 4, 8, 12, 16]
    assert frames(clip, frames_per_second=100.0, most=2) == [0, 1]
    assert frames(clip, start_s=1.9) == [19]
    kinds = [kind for kind, _ in records(clip, {"every": 10})]
    assert kinds == ["H", "F", "F", "Z"]
    said = json.loads(next(records(clip, {}))[1])
    assert said == {"width": 32, "height": 24, "frames_per_second": 10.0, "frames_announced": 20}


def test_too_much_is_refused_before_it_is_decoded(clip: Path) -> None:
    with pytest.raises(TooLarge, match="32×24 pixels"):
        list(records(clip, {}, most_pixels=700))
    with pytest.raises(TooLarge, match="more than the 5 frames"):
        list(records(clip, {}, most_frames=5))
    with pytest.raises(TooLarge, match="more than the 5 frames"):
        list(records(clip, {"frames_per_second": 5.0}, most_frames=5))
    with pytest.raises(TooLarge, match="more than the 5 frames"):
        list(records(clip, {"most": 9}, most_frames=5))
    assert len(list(records(clip, {"every": 4}, most_frames=5))) == 7


def test_a_guess_of_how_many_frames_there_are_refuses_none(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", capture_that({cv2.CAP_PROP_FRAME_COUNT: 9000.0}))
    with pytest.raises(TooLarge, match="more than the 100 frames"):  # AVI counts them
        list(records(clip, {}))
    path = tmp_path / "clip.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for _ in range(20):
        writer.write(np.zeros((24, 32, 3), np.uint8))
    writer.release()
    assert [kind for kind, _ in records(path, {})].count("F") == 20
    with pytest.raises(TooLarge, match="more than the 5 frames"):
        list(records(path, {}, most_frames=5))


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    path.write_bytes(b"RIFF\0\0\0\0AVI " + bytes(100))
    with pytest.raises(DatasetError, match="can't be opened"):
        list(records(path, {}))


def capture_that(told: dict[int, float], *, frames: bool = True) -> type:
    """OpenCV's capture, of a file whose container tells these instead, or holds no frame."""
    real = cv2.VideoCapture

    class Capture:
        def __init__(self, *given: Any) -> None:
            self._real = real(*given)

        def get(self, what: int) -> float:
            return told.get(what, self._real.get(what))

        def grab(self) -> bool:
            return frames and self._real.grab()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    return Capture


def test_a_video_without_a_speed_has_no_seconds(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {cv2.CAP_PROP_FPS: math.nan, cv2.CAP_PROP_FRAME_COUNT: -1.0, cv2.CAP_PROP_POS_MSEC: 0.0}
    monkeypatch.setattr(cv2, "VideoCapture", capture_that(told))
    with pytest.raises(SpecError, match="use 'every'"):
        list(records(clip, {"frames_per_second": 1.0}))
    found = list(records(clip, {"every": 10}))
    assert json.loads(found[0][1])["frames_per_second"] is None
    times = [FRAME.unpack_from(content)[1] for kind, content in found if kind == "F"]
    assert times[0] == 0
    assert math.isnan(times[1])
    with pytest.raises(TooLarge):  # found out only by counting
        list(records(clip, {}, most_frames=5))


def test_a_video_without_frames_is_told(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", capture_that({}, frames=False))
    with pytest.raises(DatasetError, match="no frame that can be decoded"):
        list(records(clip, {}))


# ---- the other end, over a pool whose replicas a test answers for


class Prediction:
    """A video on its way through such a pool."""

    def __init__(self, clip: Path, **given: Any) -> None:
        self.config = ServingConfig(model="m", _env_file=None, **given)
        self.launcher = Launcher()
        self.clip = clip

    async def start(self) -> "asyncio.Task[PredictedVideo]":
        pool = await started_pool(
            self.launcher, queue=self.config.queue, time_limit_s=self.config.time_limit_s
        )
        self.pool = pool
        metrics = ServingMetrics(CollectorRegistry(), "m")
        self.videos = Videos(Inference(pool, metrics, Tracing(None)), self.config)
        return asyncio.create_task(self.predict())

    def spooled(self) -> SpooledFile:
        video = SpoolRoom("video", 10**6, "--max-video-mb").take()
        video.write(self.clip.read_bytes())
        video.flush()
        return video

    async def predict(self, **choice: Any) -> PredictedVideo:
        with self.spooled() as video:
            return await self.videos.predict(video, FrameChoice(**choice), {})


def test_few_frames_are_with_the_replicas_at_a_time(clip: Path) -> None:
    async def scenario() -> None:
        prediction = Prediction(clip, queue=8)
        predicting = await prediction.start()
        (replica,) = prediction.launcher.all
        while prediction.pool.depth + prediction.pool.in_flight < 2:
            await asyncio.sleep(0.001)
        waited = 0
        while not predicting.done():
            waited = max(waited, prediction.pool.depth + prediction.pool.in_flight)
            if replica.given:
                replica.answer()
            await asyncio.sleep(0.001)
        found = predicting.result()
        assert [frame.number for frame in found.frames] == list(range(20))
        assert waited == 2  # a quarter of the queue
        await prediction.pool.close()

    run(scenario())


def test_a_video_never_joins_a_queue_that_is_full(clip: Path) -> None:
    async def scenario() -> None:
        prediction = Prediction(clip, queue=4)
        pool = prediction.pool = await started_pool(prediction.launcher, queue=4)
        others = ask(pool, *"abcdef")
        inference = Inference(pool, ServingMetrics(CollectorRegistry(), "m"), Tracing(None))
        prediction.videos = Videos(inference, prediction.config)
        predicting = asyncio.create_task(prediction.predict(most=1))
        (replica,) = prediction.launcher.all
        while not frame_waits(predicting):
            await asyncio.sleep(0.001)
        assert pool.depth >= 4
        while not predicting.done():
            if replica.given:
                replica.answer()
            await asyncio.sleep(0.001)
        await others
        shapes = [len(one) for batch in replica.seen for one in batch]
        assert shapes == [1] * 6 + [24 * 32 * 3]  # after all that came before it
        await pool.close()

    run(scenario())


def frame_waits(predicting: "asyncio.Task[PredictedVideo]") -> bool:
    """Whether a frame waits for room in the queue."""
    return not predicting.done() and any(
        task.get_coro().__qualname__.endswith("_predict_frame")  # type: ignore[union-attr]
        for task in asyncio.all_tasks()
    )


def test_a_child_that_hangs_crashes_or_babbles_is_told(
    clip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Python:
        """In place of the interpreter: a shell that does this."""

        def __init__(self, does: str) -> None:
            path = tmp_path / "python"
            path.write_text(f"#!/bin/sh\n{does}\n")
            path.chmod(0o755)
            self.executable = str(path)

    async def scenario(does: str, error: type[Exception], says: str) -> None:
        monkeypatch.setattr(video_module, "sys", Python(does))
        prediction = Prediction(clip, time_limit_s=0.5 if error is TimeLimitExceeded else 60)
        predicting = await prediction.start()
        with pytest.raises(error, match=says):
            await predicting
        await prediction.pool.close()

    large = r"printf 'F\377\377\377\377'"
    wrong = r"printf 'F\030\0\0\0123456789012345678901234'"
    for does, error, says in (
        ("exec sleep 60", TimeLimitExceeded, "No frame of the video was decoded within 0.5 s"),
        ("exit 1", OperationFailed, "ended before the video did"),
        (large, ChildDied, "can't be read"),
        (wrong, ChildDied, "can't be read"),
        (r"printf 'H\001\0\0\0x'", ChildDied, "can't be read"),
        (r"printf 'E\002\0\0\0{}'", ChildDied, "can't be read"),
    ):
        run(scenario(does, error, says))


def test_a_video_waits_for_its_turn(clip: Path) -> None:
    async def scenario() -> None:
        prediction = Prediction(clip, time_limit_s=0.3)
        first = await prediction.start()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        for _ in range(video_module.DECODED_AT_ONCE):  # two that go on
            await prediction.videos._turns.acquire()
        with pytest.raises(RateLimited, match="2 other videos"):
            await prediction.predict()
        await prediction.pool.close()

    run(scenario())


def test_predictions_longer_than_an_answer_are_refused(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_module, "MOST_ANSWER_BYTES", 10)

    async def scenario() -> None:
        prediction = Prediction(clip)
        predicting = await prediction.start()
        (replica,) = prediction.launcher.all
        while not predicting.done():
            if replica.given:
                replica.answer()
            await asyncio.sleep(0.001)
        with pytest.raises(TooLarge, match=r"first \d+ chosen frames have .* Choose fewer"):
            predicting.result()
        await prediction.pool.close()

    run(scenario())
