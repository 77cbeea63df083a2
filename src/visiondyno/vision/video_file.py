"""Video files, read by OpenCV's FFmpeg: what they say of themselves, and their frames in order.

Frames are read from the start: seeking lands on key frames, and on others in damaged files. A turn
that the container asks for (a telephone held upright) is applied, so that frames are as players
show them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2

from visiondyno.errors import DatasetError, SpecError
from visiondyno.predictions import Image
from visiondyno.vision.video_form import FrameChoice

_MOST_FRAMES_ANNOUNCED = 1e12
_TOLERANCE_S = 1e-6
_EARLY_SHARE = 0.2
"""Of the time between two frames: so much before its time one is taken, since containers round."""


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """What a video file says of itself.

    Attributes:
        width: of a frame as it is shown, in pixels.
        height: in pixels.
        frames_per_second: on average; None where the file doesn't say.
        frames_announced: by the container, often an estimate; None where it doesn't say.
    """

    width: int
    height: int
    frames_per_second: float | None
    frames_announced: int | None


class VideoFile:
    """An open video. Not for several threads.

    Attributes:
        header: see `VideoHeader`.
        passed: frames read so far.
        last_s: time of the latest frame of them that has one, in seconds; None: none has.
        ended: whether the file's last frame was passed.
    """

    def __init__(self, path: str | Path, name: str = "The video") -> None:
        """Open it; `name` stands at the beginning of messages.

        Raises:
            DatasetError: the file isn't there, or can't be opened as a video.
        """
        # A file that isn't there is looked for as a numbered series of images, with a warning; of a
        # relative name such as `a:b.mp4` the beginning would be taken for a protocol.
        self._capture = (
            cv2.VideoCapture(str(Path(path).absolute()), cv2.CAP_FFMPEG)
            if Path(path).is_file()
            else None
        )
        if self._capture is None or not self._capture.isOpened():
            raise DatasetError(
                f"{name} can't be opened: it is damaged or incomplete, holds sound only, or is of "
                "a codec that OpenCV doesn't decode. Convert it to MP4 with H.264, or fetch it "
                "again."
            )
        self.header = _header(self._capture)
        self.passed = 0
        self.last_s: float | None = None
        self.ended = False

    def next_frame(self) -> float | None:
        """Go to the next frame; the time when it is shown, in seconds.

        Returns:
            NaN where the file doesn't say; None after the last frame.
        """
        assert self._capture is not None
        if not self._capture.grab():
            self.ended = True
            return None
        at_ms = float(self._capture.get(cv2.CAP_PROP_POS_MSEC))
        self.passed += 1
        if self.passed > 1 and not at_ms > 0:
            return math.nan
        self.last_s = max(self.last_s or 0.0, at_ms / 1e3)
        return at_ms / 1e3

    def chosen_frames(self, choice: FrameChoice) -> Iterator[tuple[int, float]]:
        """Go to each chosen frame in turn; its number from 0, and its time in seconds or NaN.

        Raises:
            SpecError: seconds are asked of a file that doesn't say how many frames they have.
        """
        timed = choice.frames_per_second or choice.start_s or choice.end_s is not None
        if timed and self.header.frames_per_second is None:
            raise SpecError(
                "The video doesn't say how many frames a second it has, so 'fps', 'start_s' and "
                "'end_s' choose nothing; use 'every' and 'max_frames'."
            )
        offered = chosen = 0
        due_s = choice.start_s
        wanted_s = 1 / choice.frames_per_second if choice.frames_per_second else 0.0
        early_s = _EARLY_SHARE * min(wanted_s, 1 / (self.header.frames_per_second or math.inf))
        while (time_s := self.next_frame()) is not None:
            if time_s < choice.start_s:
                continue
            if choice.end_s is not None and time_s >= choice.end_s:
                return
            offered += 1
            if choice.frames_per_second is not None:
                if time_s + early_s + _TOLERANCE_S < due_s:
                    continue
                due_s += wanted_s
                if due_s < time_s - wanted_s:  # after a gap
                    due_s = time_s + wanted_s
            elif (offered - 1) % (choice.every or 1):
                continue
            chosen += 1
            yield self.passed - 1, time_s
            if chosen == choice.most:
                return

    def image(self) -> Image | None:
        """The frame that it stands at, (height, width, 3) uint8 BGR; None: can't be decoded."""
        assert self._capture is not None
        decoded, image = self._capture.retrieve()
        return image if decoded else None

    def close(self) -> None:
        """Let go of the file."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _header(capture: cv2.VideoCapture) -> VideoHeader:
    speed = float(capture.get(cv2.CAP_PROP_FPS))
    announced = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return VideoHeader(
        width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        frames_per_second=speed if math.isfinite(speed) and speed > 0 else None,
        frames_announced=int(announced) if 0 < announced < _MOST_FRAMES_ANNOUNCED else None,
    )


def frames_expected(header: VideoHeader, choice: FrameChoice) -> int | None:
    """About how many frames will be chosen; None where the file doesn't say."""
    left = header.frames_announced
    if left is None:
        return choice.most
    speed = header.frames_per_second or 0.0
    expected = float(left)
    if choice.end_s is not None:
        expected = min(expected, choice.end_s * speed)
    expected -= choice.start_s * speed
    if choice.every is not None:
        expected /= choice.every
    elif choice.frames_per_second is not None and speed:
        expected *= min(1.0, choice.frames_per_second / speed)
    found = max(0, math.ceil(expected - _TOLERANCE_S))
    return found if choice.most is None else min(found, choice.most)
