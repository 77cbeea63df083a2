"""A video through the model, frame by frame, without taking the server from others.

The video is decoded in a process of its own (`video_child`), which waits whenever nobody takes its
frames. Of those only a few are with the replicas at a time, and none joins a queue that is full.
"""

import asyncio
import contextlib
import json
import math
import os
import struct
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from visiondyno.errors import (
    ChildDied,
    OperationFailed,
    RateLimited,
    TimeLimitExceeded,
    TooLarge,
    VisionDynoError,
)
from visiondyno.job import JobError
from visiondyno.sandbox.limits import scrubbed
from visiondyno.sandbox.video import MEMORY_BYTES, notes_of
from visiondyno.sandbox.video_child import FRAME, RECORD
from visiondyno.serving.ahead import in_order, most_ahead, room_in_queue
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.inference import Inference
from visiondyno.serving.pool import Predicted
from visiondyno.serving.spooled import SpooledFile
from visiondyno.serving.wire import Item, Kind
from visiondyno.vision.video_form import FrameChoice

DECODED_AT_ONCE = 2

MOST_ANSWER_BYTES = 200_000_000
"""Of a video's predictions, which are answered together: a depth map of each frame is long."""

_CPU_S = 600
_ENVELOPE_BYTES = 1_000_000
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Attributes:
        number: from 0.
        time_s: when it is shown; None where the file doesn't say.
        height, width: in pixels.
        pixels: (height, width, 3) uint8 BGR.
    """

    number: int
    time_s: float | None
    height: int
    width: int
    pixels: memoryview


@dataclass(frozen=True, slots=True)
class PredictedFrame:
    """A frame's place in the video, and its prediction."""

    number: int
    time_s: float | None
    predicted: Predicted


@dataclass(frozen=True, slots=True)
class PredictedVideo:
    """What came of a video.

    Attributes:
        said: `width`, `height`, `frames_per_second`, `frames_announced` as the file says.
        frames: those that were chosen, in order.
        notes: what of it isn't among them.
    """

    said: dict[str, Any]
    frames: list[PredictedFrame]
    notes: list[str]


class Videos:
    """Predicts videos, `DECODED_AT_ONCE` at a time."""

    def __init__(self, inference: Inference, config: ServingConfig) -> None:
        self._inference = inference
        self._config = config
        self._turns = asyncio.Semaphore(DECODED_AT_ONCE)
        self._ahead = most_ahead(config)

    async def predict(
        self, video: SpooledFile, choice: FrameChoice, options: Mapping[str, Any]
    ) -> PredictedVideo:
        """The chosen frames' predictions.

        Raises:
            DatasetError: it can't be decoded.
            TooLarge: it has too many frames, or too large ones, or their answer is too long.
            TimeLimitExceeded: a frame took longer than a request may.
            RateLimited: it was not its turn within that time.
        """
        limit_s = self._config.time_limit_s
        try:
            async with asyncio.timeout(limit_s):
                await self._turns.acquire()
        except TimeoutError:
            late = RateLimited(
                f"{DECODED_AT_ONCE} other videos were decoded all the {limit_s:g} s; come again "
                "later.",
                retry_after_s=limit_s,
            )
            self._inference.refused(late)
            raise late from None
        try:
            async with contextlib.aclosing(self._decoded(video, choice)) as records:
                return await self._predict(records, options)
        finally:
            self._turns.release()

    async def _predict(
        self, records: AsyncIterator[dict[str, Any] | Frame], options: Mapping[str, Any]
    ) -> PredictedVideo:
        told: list[dict[str, Any]] = []

        async def works() -> AsyncGenerator[Coroutine[Any, Any, PredictedFrame], None]:
            async for record in records:
                if isinstance(record, dict):
                    told.append(record)
                else:
                    yield self._predict_frame(record, options)

        frames = in_order(works(), self._ahead)
        found: list[PredictedFrame] = []
        answered_bytes = 0
        async with contextlib.aclosing(frames):
            async for frame in frames:
                answered_bytes += len(frame.predicted.answer.body)
                if answered_bytes > MOST_ANSWER_BYTES:
                    raise _too_much(len(found))
                found.append(frame)
        try:
            said, end = told
            return PredictedVideo(said, found, notes_of(said, end))
        except (ValueError, KeyError, TypeError):
            raise _babble() from None

    async def _predict_frame(self, frame: Frame, options: Mapping[str, Any]) -> PredictedFrame:
        size = {"height": frame.height, "width": frame.width}
        item = Item(Kind.PIXELS, frame.pixels, {**options, **size})
        await room_in_queue(self._inference.pool, self._config.time_limit_s)
        (predicted,) = await self._inference.predict([item])
        return PredictedFrame(frame.number, frame.time_s, predicted)

    async def _decoded(
        self, video: SpooledFile, choice: FrameChoice
    ) -> AsyncGenerator[dict[str, Any] | Frame, None]:
        """What the video says of itself, its frames, and how it ended."""
        most_pixels = int(self._config.max_megapixels * 1e6)
        work = {
            "path": str(video.path),
            "choice": asdict(choice),
            "most_frames": self._config.max_video_frames,
            "most_pixels": most_pixels,
            "memory_bytes": MEMORY_BYTES,
            "cpu_s": _CPU_S,
        }
        child = await _start(work)
        try:
            assert child.stdout is not None
            while True:
                kind, content = await self._record(child.stdout, most_pixels)
                if kind in (b"H", b"Z"):
                    yield json.loads(content)
                    if kind == b"Z":
                        return
                elif kind == b"F":
                    yield _frame(content)
                else:
                    told = json.loads(content)
                    raise JobError(code=told["code"], message=told["message"]).to_exception()
        except VisionDynoError as error:
            self._inference.refused(error)
            raise
        except (ValueError, KeyError, struct.error):
            self._inference.refused(babble := _babble())
            raise babble from None
        finally:
            await _end(child)

    async def _record(self, out: asyncio.StreamReader, most_pixels: int) -> tuple[bytes, bytes]:
        limit_s = self._config.time_limit_s
        try:
            async with asyncio.timeout(limit_s):
                kind, length = RECORD.unpack(await out.readexactly(RECORD.size))
                if length > most_pixels * 3 + _ENVELOPE_BYTES:
                    raise ValueError(length)
                return kind, await out.readexactly(length)
        except TimeoutError:
            raise TimeLimitExceeded(
                f"No frame of the video was decoded within {limit_s:g} s; choose fewer of its "
                "frames, make it smaller, or raise --time-limit."
            ) from None
        except asyncio.IncompleteReadError:
            raise OperationFailed(
                "The process that decodes the video ended before the video did: it took too much "
                "memory or time, or its decoder crashed. Convert or cut the video."
            ) from None


def _babble() -> ChildDied:
    return ChildDied("The process that decodes the video said what can't be read.")


def _too_much(frames: int) -> TooLarge:
    return TooLarge(
        f"The predictions of the video's first {frames:,} chosen frames have "
        f"{MOST_ANSWER_BYTES / 1e6:g} MB already, the most that is answered at once. Choose fewer "
        "with 'every', 'fps' or 'max_frames', or make the frames smaller."
    )


def _frame(content: bytes) -> Frame:
    number, time_s, height, width = FRAME.unpack_from(content)
    pixels = memoryview(content)[FRAME.size :]
    if len(pixels) != height * width * 3:
        raise ValueError(len(pixels))
    return Frame(number, time_s if math.isfinite(time_s) else None, height, width, pixels)


async def _start(work: dict[str, Any]) -> asyncio.subprocess.Process:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "visiondyno.sandbox.video_child"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=_BUFFER_BYTES,
        env=scrubbed(os.environ),
        cwd="/",
        start_new_session=True,
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(work).encode() + b"\n")
    return child


async def _end(child: asyncio.subprocess.Process) -> None:
    """Leave neither process nor pipe behind, whatever the child is at and whoever hangs up."""
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    # To the pipe's end, at most what it and the reader hold: an unread one stays open for good.
    ending = asyncio.ensure_future(child.communicate())
    cancelled = False
    while not ending.done():
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            cancelled = True  # of this task: it still takes only the moment that a kill takes
    if cancelled:
        raise asyncio.CancelledError
