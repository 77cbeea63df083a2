"""The frames of a video that isn't trusted, decoded in a confined process beside this one.

The process decodes ahead by what the pipe holds, so that decoding and inference overlap.
"""

import contextlib
import fcntl
import json
import math
import os
import selectors
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from visiondyno.errors import ChildDied, DatasetError, OperationFailed, VisionDynoError
from visiondyno.job import JobError
from visiondyno.predictions import Image
from visiondyno.sandbox.limits import scrubbed
from visiondyno.sandbox.video_child import FRAME, RECORD
from visiondyno.vision.video_form import (
    LONGEST_BEGIN_BYTES,
    MOST_FRAME_PIXELS,
    FrameChoice,
    is_video,
)

MEMORY_BYTES = 2_000_000_000
"""Of the process that decodes; frames of 50 megapixels are 150 MB each, and a decoder keeps 16."""

_CPU_S = 7 * 86_400
_POLL_S = 0.2
_ENVELOPE_BYTES = 1_000_000
_PIPE_BYTES = 1 << 20
_COMPLETE_SHARE = 0.98


@dataclass(frozen=True, slots=True, eq=False)
class DecodedFrame:
    """One frame.

    Attributes:
        number: from 0.
        time_s: when it is shown; None where the file doesn't say.
        image: (height, width, 3) uint8 BGR.
    """

    number: int
    time_s: float | None
    image: Image


def notes_of(said: Mapping[str, Any], end: Mapping[str, Any]) -> list[str]:
    """What of a video isn't in the frames that came, in sentences.

    Args:
        said: what the file says of itself: `frames_announced`, `frames_per_second`.
        end: what there was: `frames` passed, `last_s` of the latest, whether the file `ended`,
            chosen ones `lost`.
    """
    notes: list[str] = []
    passed, announced = end["frames"], said["frames_announced"]
    is_short = announced is not None and passed < _COMPLETE_SHARE * announced - 1
    if end["ended"] and is_short and not _lasts(end["last_s"], announced, said):
        notes.append(
            f"The video ends after {passed:,} of the {announced:,} frames that it announces: it "
            "may be cut off."
        )
    if end["lost"]:
        notes.append(f"Frames that couldn't be decoded and are left out: {end['lost']:,}.")
    return notes


def _lasts(last_s: float | None, announced: int, said: Mapping[str, Any]) -> bool:
    """Whether the frames reach to the announced end: uneven distances make fewer of them."""
    speed = said["frames_per_second"]
    if last_s is None or speed is None:
        return False
    return bool(last_s >= (_COMPLETE_SHARE * announced - 1) / speed)


class DecodedVideo:
    """The chosen frames of a video, in order; use as a context manager.

    Attributes:
        said: `width`, `height`, `frames_per_second`, `frames_announced` as the file says.
        end: after the last frame: `frames` passed, `last_s` of the latest, whether the file
            `ended`, chosen ones `lost`.
    """

    def __init__(
        self, path: Path, choice: FrameChoice, name: str, check: Callable[[], None] = lambda: None
    ) -> None:
        """Start decoding, and wait for what the file says of itself.

        Args:
            path: of the video.
            choice: the frames that are wanted.
            name: what messages call it.
            check: called several times a second while frames are waited for.

        Raises:
            DatasetError: it can't be read, is no video, or can't be decoded.
            SpecError: the choice doesn't fit it.
            TooLarge: its frames have too many pixels.
        """
        _check_file(path, name)
        self._name = name
        self._check = check
        self._child = _start(path, choice)
        self.end: dict[str, Any] = {}
        try:
            self.said = self._header()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[DecodedFrame]:
        """Each frame as it is decoded.

        Raises:
            DatasetError: nothing of it can be decoded.
            OperationFailed: the process ended before the video did.
        """
        while True:
            kind, content = self._record()
            if kind == b"Z":
                self.end = _parsed(content)
                return
            if kind != b"F":
                raise self._failure(kind, content)
            yield _frame(content)

    def close(self) -> None:
        """Leave neither process nor pipe behind."""
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()
        self._child.wait()
        assert self._child.stdout is not None
        self._child.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _header(self) -> dict[str, Any]:
        kind, content = self._record()
        if kind != b"H":
            raise self._failure(kind, content)
        return _parsed(content)

    def _record(self) -> tuple[bytes, bytearray]:
        kind, length = RECORD.unpack(self._read(RECORD.size))
        if length > MOST_FRAME_PIXELS * 3 + _ENVELOPE_BYTES:
            raise _babble()
        return kind, self._read(length)

    def _read(self, length: int) -> bytearray:
        content = bytearray(length)
        view = memoryview(content)
        assert self._child.stdout is not None
        pipe = self._child.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while view:
                self._check()
                if not selector.select(_POLL_S):
                    continue
                count = os.readv(pipe, [view])
                if count == 0:
                    raise OperationFailed(
                        f"The process that decodes {self._name} ended before the video did: it "
                        "took too much memory, or its decoder crashed. Convert or cut the video."
                    )
                view = view[count:]
        return content

    def _failure(self, kind: bytes, content: bytearray) -> VisionDynoError:
        if kind != b"E":
            return _babble()
        told = _parsed(content)
        try:
            message = str(told["message"]).replace("The video", self._name, 1)
            error = JobError(code=told["code"], message=message).to_exception()
        except (KeyError, ValueError):
            return _babble()
        return error


def _check_file(path: Path, name: str) -> None:
    try:
        with path.open("rb") as file:
            begin = file.read(LONGEST_BEGIN_BYTES)
    except OSError as error:
        raise DatasetError(f"{name} can't be read: {error.strerror}. Check the path.") from None
    if not begin:
        raise DatasetError(f"{name} is empty (0 bytes); fetch the video again.")
    if not is_video(begin):
        raise DatasetError(
            f"{name} is no MP4, MOV, AVI, MKV, WebM or MPEG file, whatever its name says: convert "
            "it to one."
        )


def _start(path: Path, choice: FrameChoice) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "visiondyno.sandbox.video_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=scrubbed(os.environ),
        cwd="/",
        start_new_session=True,
        bufsize=0,
    )
    work = {
        "path": str(path.absolute()),
        "choice": asdict(choice),
        "most_frames": None,
        "most_pixels": MOST_FRAME_PIXELS,
        "memory_bytes": MEMORY_BYTES,
        "cpu_s": _CPU_S,
    }
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(OSError):  # a smaller pipe is slower, no more
        fcntl.fcntl(child.stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    # Where it died at once, the missing header says so.
    with contextlib.suppress(BrokenPipeError), child.stdin:
        child.stdin.write(json.dumps(work).encode() + b"\n")
    return child


def _frame(content: bytearray) -> DecodedFrame:
    try:
        number, time_s, height, width = FRAME.unpack_from(content)
        pixels = np.frombuffer(content, np.uint8, offset=FRAME.size)
        image = pixels.reshape(height, width, 3)
    except (ValueError, struct.error):
        raise _babble() from None
    return DecodedFrame(number, time_s if math.isfinite(time_s) else None, image)


def _parsed(content: bytearray) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _babble()
    return found


def _babble() -> ChildDied:
    return ChildDied(
        "The process that decodes the video said what can't be read; convert the video."
    )
