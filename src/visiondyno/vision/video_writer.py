"""Images to a video file that players play.

Frames of a written file have one distance in time; those of a source may not. So each image is
written as often as it is shown for, and the file lasts as long as the source does: but for gaps of
more than a minute, which a file can announce of any length, and for times that go back.
"""

import secrets
from contextlib import suppress
from pathlib import Path
from typing import Self

import cv2

from visiondyno.errors import SpecError, StorageFull, VisionDynoError
from visiondyno.predictions import Image
from visiondyno.vision.video_file import VideoFile

_CODECS = {
    ".mp4": ("mp4v", "MPEG-4"),
    ".mov": ("mp4v", "MPEG-4"),
    ".mkv": ("mp4v", "MPEG-4"),
    ".webm": ("VP80", "VP8"),
    ".avi": ("MJPG", "Motion JPEG"),
}
"""Of each form OpenCV's name of the codec, and the one that people know.

OpenCV's packages have no encoder of H.264. VP8 is what browsers play; VP9 takes six times as long,
and its speed can't be set.
"""

WRITTEN_SUFFIXES = frozenset(_CODECS)

_LONGEST_HOLD_S = 60.0
"""An image is held for so long, or for twice as long as images usually have between them."""

_SLOWEST, _FASTEST = 0.1, 240.0
_LEAST_CHOSEN = 1e-4
_WHOLE_SHARE = 0.98


class VideoWriter:
    """A video file that is being written; use as a context manager.

    The file appears under its name when it is closed, whole, whatever ended the writing; with no
    image in it, it doesn't.

    Attributes:
        path: where it will be.
        codec: its name.
        written: images taken so far.
        is_padded: whether a row or column was added, because codecs want even sizes.
        longest_s: for so long an image is held at most.
        shortened: gaps between images that were longer, and have that length now.
        went_back: images whose time was before that of the one before; they follow it at once.
    """

    def __init__(self, path: Path, frames_per_second: float) -> None:
        """Nothing is written until the first image, which sets the size.

        Args:
            path: its suffix says the form.
            frames_per_second: of the file; from .1 to 240 are taken as they are.

        Raises:
            SpecError: files of such a name aren't written.
        """
        if path.suffix.lower() not in _CODECS:
            known = ", ".join(sorted(_CODECS))
            raise SpecError(f"{path} can't be written as a video; end its name in one of {known}.")
        self.path = path
        self._fourcc, self.codec = _CODECS[path.suffix.lower()]
        self._speed = min(max(frames_per_second, _SLOWEST), _FASTEST)
        self.longest_s = max(_LONGEST_HOLD_S, 2 / max(frames_per_second, _LEAST_CHOSEN))
        # Of a name such as `a:b.mp4` FFmpeg would take the beginning for a protocol.
        self._partial = path.absolute().with_name(
            f".{path.stem}.{secrets.token_hex(4)}{path.suffix.lower()}"
        )
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._held: Image | None = None
        self._start_s: float | None = None
        self._last_s: float | None = None
        self._place = 0
        self._put_frames = 0
        self.written = 0
        self.is_padded = False
        self.shortened = 0
        self.went_back = 0

    def write(self, image: Image, time_s: float | None) -> None:
        """Take the next image.

        Args:
            image: (height, width, 3) uint8 BGR; one of another size than the first is scaled.
            time_s: when it is shown; None: right after the one before.

        Raises:
            StorageFull: the file can't be written.
        """
        if self._writer is None:
            self._writer = self._open(image)
        place = self._place_at(time_s)
        if self._held is not None:
            self._put(self._held, place - self._place)
        self._place = place
        self._held = self._fitted(image)
        self.written += 1

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            StorageFull: what was written can't be read back.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            if self._held is not None:
                writer.write(self._held)
                self._put_frames += 1
            writer.release()
            self._check()
            self._partial.replace(self.path)
        except OSError as error:
            raise self._failure(f" ({error.strerror})") from error
        finally:
            self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, image: Image) -> cv2.VideoWriter:
        height, width = image.shape[:2]
        self._size = (width + width % 2, height + height % 2)
        self.is_padded = self._size != (width, height)
        if not self.path.parent.is_dir():
            raise self._failure(" (its folder isn't there)")
        fourcc = cv2.VideoWriter.fourcc(*self._fourcc)
        writer = cv2.VideoWriter(
            str(self._partial), cv2.CAP_FFMPEG, fourcc, self._speed, self._size
        )
        if not writer.isOpened():
            raise self._failure("")
        return writer

    def _place_at(self, time_s: float | None) -> int:
        """Which frame of the file the next image begins at, from 0; never before the last one's."""
        following = self._place + 1 if self._held is not None else 0
        last_s, self._last_s = self._last_s, time_s
        if time_s is None:
            return following
        longest = self._place + round(self.longest_s * self._speed)
        if self._start_s is None or last_s is None:
            place = following
        elif time_s < last_s:
            self.went_back += 1
            place = following
        else:
            place = round((time_s - self._start_s) * self._speed)
            if place <= longest:
                return max(place, self._place)
            self.shortened += 1
            place = longest
        self._start_s = time_s - place / self._speed
        return place

    def _fitted(self, image: Image) -> Image:
        width, height = self._size
        missing = height - image.shape[0], width - image.shape[1]
        if missing == (0, 0):
            return image
        if all(0 <= one <= 1 for one in missing):
            below, beside = missing
            padded: Image = cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_REPLICATE)
            return padded
        scaled: Image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        return scaled

    def _put(self, image: Image, times: int) -> None:
        assert self._writer is not None
        self._put_frames += times
        for _ in range(times):
            self._writer.write(image)

    def _check(self) -> None:
        """OpenCV doesn't tell when a disk is full: then the end, with the length, is missing."""
        announced = None
        with suppress(VisionDynoError), VideoFile(self._partial) as video:
            announced = video.header.frames_announced if video.next_frame() is not None else None
        if announced is None or announced < _WHOLE_SHARE * self._put_frames - 1:
            raise self._failure("")

    def _failure(self, why: str) -> StorageFull:
        return StorageFull(
            f"The video {self.path} can't be written{why}; name a file in a folder that exists, "
            "may be written and has room."
        )
