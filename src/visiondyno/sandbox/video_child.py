"""A process of its own for one video: it decodes, and writes frames to its standard output.

`python -P -m visiondyno.sandbox.video_child` with its work as JSON on the first line of standard
input. What comes back is records, each its kind, its length (4 bytes, little endian) and its
content:

    H   what the file says of itself (JSON)
    F   a frame: its number (8 bytes), time in s (double; NaN: not known), height, width (4 bytes
        each), then (height, width, 3) uint8 BGR
    E   `code` and `message` of why it stopped (JSON)
    Z   all frames were sent (JSON: `frames` that the file had up to there, the time of the latest,
        `last_s`, whether it `ended`, and how many of the chosen couldn't be decoded, `lost`)

The pipe is the back-pressure: a frame is decoded when there is room for it. A file of a stranger is
read by a large library in native code, so the process is confined before that is loaded.
"""

import json
import os
import struct
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from visiondyno.vision.video_form import LONGEST_BEGIN_BYTES, FrameChoice, counts_frames

if TYPE_CHECKING:
    from visiondyno.vision.video_file import VideoFile

FRAME = struct.Struct("<QdII")
RECORD = struct.Struct("<cI")


def main() -> None:
    """Decode what the first line of standard input says."""
    work = json.loads(sys.stdin.buffer.readline())
    # What libraries print mustn't get between the records.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    _confine(work)
    from visiondyno.errors import VisionDynoError

    try:
        _decode(work, out)
    except VisionDynoError as error:
        _write_json(out, b"E", {"code": error.code, "message": error.message})
    except BrokenPipeError:
        pass
    out.flush()
    os._exit(0)


def _confine(work: dict[str, Any]) -> None:
    from visiondyno.sandbox.confine import confine
    from visiondyno.sandbox.limits import Limits

    confine(
        Limits(
            memory_bytes=work["memory_bytes"],
            cpu_s=work["cpu_s"],
            file_bytes=0,
            readable=(work["path"],),
        )
    )


def _decode(work: dict[str, Any], out: BinaryIO) -> None:
    import cv2

    from visiondyno.errors import DatasetError
    from visiondyno.vision.video_file import VideoFile

    cv2.setNumThreads(1)
    choice = FrameChoice(**work["choice"])
    with VideoFile(work["path"]) as video:
        _check(video, choice, work)
        _write_json(out, b"H", asdict(video.header))
        lost = _send_frames(video, choice, work["most_frames"], out)
        if video.passed == 0:
            raise DatasetError(
                "The video has no frame that can be decoded; is the file complete? Fetch or "
                "convert it again."
            )
        done = {
            "frames": video.passed,
            "last_s": video.last_s,
            "ended": video.ended,
            "lost": lost,
        }
        _write_json(out, b"Z", done)


def _check(video: "VideoFile", choice: FrameChoice, work: dict[str, Any]) -> None:
    from visiondyno.errors import TooLarge
    from visiondyno.vision.video_file import frames_expected

    width, height = video.header.width, video.header.height
    if width * height > work["most_pixels"]:
        raise TooLarge(
            f"The video's frames have {width}×{height} pixels; at most "
            f"{work['most_pixels'] / 1e6:g} megapixels are taken. Scale it down first."
        )
    most = work["most_frames"]
    if most is None or choice.most is not None or not _counts_frames(work["path"]):
        return
    expected = frames_expected(video.header, choice)
    if expected is not None and expected > most + 1:
        raise _too_many(most)


def _counts_frames(path: str) -> bool:
    """Whether the file's form counts them; else what it announces is its length times its speed."""
    with Path(path).open("rb") as file:
        return counts_frames(file.read(LONGEST_BEGIN_BYTES))


def _too_many(most: int) -> Exception:
    from visiondyno.errors import TooLarge

    return TooLarge(
        f"The video has more than the {most} frames that are predicted of one. "
        "Choose fewer with 'every', 'fps' or 'max_frames', or raise --max-video-frames."
    )


def _send_frames(video: "VideoFile", choice: FrameChoice, most: int | None, out: BinaryIO) -> int:
    """How many of the chosen frames couldn't be decoded."""
    lost = 0
    for count, (number, time_s) in enumerate(video.chosen_frames(choice)):
        if count == most:
            raise _too_many(most)
        image = video.image()
        if image is None:
            lost += 1
            continue
        height, width = image.shape[:2]
        head = FRAME.pack(number, time_s, height, width)
        _write(out, b"F", head, image.tobytes())
    return lost


def _write_json(out: BinaryIO, kind: bytes, content: dict[str, Any]) -> None:
    _write(out, kind, json.dumps(content).encode())


def _write(out: BinaryIO, kind: bytes, *parts: bytes) -> None:
    head = RECORD.pack(kind, sum(map(len, parts)))
    for part in (head, *parts):
        view = memoryview(part)
        while view:
            view = view[out.write(view) :]


if __name__ == "__main__":
    main()
