"""A process of its own for one video: it decodes, and writes frames to its standard output.

`python -P -m visiondyno.serving.video_child` with its work as JSON on the first line of standard
input. What comes back is records, each its kind, its length (4 bytes, little endian) and its
content:

    H   what the file says of itself (JSON)
    F   a frame: its number (8 bytes), time in s (double; NaN: not known), height, width (4 bytes
        each), then (height, width, 3) uint8 BGR
    E   `code` and `message` of why it stopped (JSON)
    Z   all frames were sent (JSON: how many the file had up to there)

The pipe is the back-pressure: a frame is decoded when there is room for it. A file of a stranger is
read by a large library in native code, so the process is confined before that is loaded.
"""

import json
import math
import os
import struct
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import cv2

FRAME = struct.Struct("<QdII")
_RECORD = struct.Struct("<cI")


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

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(work["path"], cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise DatasetError("The video can't be opened: it is damaged, or of an unknown codec.")
    said = _said(capture)
    _check(said, work)
    _write_json(out, b"H", said)
    number = _send_frames(capture, work, out)
    if number == 0:
        raise DatasetError("The video has no frame that can be decoded; is the file complete?")
    _write_json(out, b"Z", {"frames": number})


def _said(capture: "cv2.VideoCapture") -> dict[str, Any]:
    import cv2

    speed = float(capture.get(cv2.CAP_PROP_FPS))
    announced = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return {
        "width": int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        "height": int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        "frames_per_second": speed if math.isfinite(speed) and speed > 0 else None,
        "frames_announced": int(announced) if 0 < announced < 1e12 else None,
    }


def _check(said: dict[str, Any], work: dict[str, Any]) -> None:
    from visiondyno.errors import SpecError, TooLarge

    width, height = said["width"], said["height"]
    if width * height > work["most_pixels"]:
        raise TooLarge(
            f"The video's frames have {width}×{height} pixels; at most "
            f"{work['most_pixels'] / 1e6:g} megapixels are taken. Scale it down first."
        )
    speed, choice = said["frames_per_second"], work["choice"]
    if speed is None and (choice["frames_per_second"] or choice["start_s"]):
        raise SpecError(
            "The video doesn't say how many frames a second it has, so 'fps' and 'start_s' choose "
            "nothing; use 'every'."
        )
    announced = said["frames_announced"]
    if choice["most"] is None and announced is not None:
        left = announced - (choice["start_s"] or 0) * (speed or 0)
        if choice["every"] is not None:
            left /= choice["every"]
        elif choice["frames_per_second"] is not None:
            left *= min(1.0, choice["frames_per_second"] / speed)
        if left > work["most_frames"] + 1:
            raise _too_many(work)


def _too_many(work: dict[str, Any]) -> Exception:
    from visiondyno.errors import TooLarge

    return TooLarge(
        f"The video has more than the {work['most_frames']} frames that are predicted of one. "
        "Choose fewer with 'every', 'fps' or 'max_frames', or raise --max-video-frames."
    )


def _send_frames(capture: "cv2.VideoCapture", work: dict[str, Any], out: BinaryIO) -> int:
    """How many frames were passed."""
    choice = work["choice"]
    most = min(choice["most"] or work["most_frames"], work["most_frames"])
    number = sent = offered = 0
    due_s = choice["start_s"]
    while capture.grab():
        time_s = _time_s(capture, number)
        number += 1
        if time_s < choice["start_s"]:
            continue
        offered += 1
        if choice["frames_per_second"] is not None:
            if time_s + 1e-6 < due_s:
                continue
            due_s = max(due_s + 1 / choice["frames_per_second"], time_s)
        elif (offered - 1) % (choice["every"] or 1):
            continue
        if sent == most:
            if choice["most"] is None or choice["most"] > most:
                raise _too_many(work)
            break
        decoded, image = capture.retrieve()
        if decoded:
            height, width = image.shape[:2]
            head = FRAME.pack(number - 1, time_s, height, width)
            _write(out, b"F", head, image.tobytes())
            sent += 1
    return number


def _time_s(capture: "cv2.VideoCapture", number: int) -> float:
    """When the grabbed frame is shown; NaN where the file doesn't say."""
    import cv2

    at_ms = float(capture.get(cv2.CAP_PROP_POS_MSEC))
    return at_ms / 1e3 if number == 0 or at_ms > 0 else math.nan


def _write_json(out: BinaryIO, kind: bytes, content: dict[str, Any]) -> None:
    _write(out, kind, json.dumps(content).encode())


def _write(out: BinaryIO, kind: bytes, *parts: bytes) -> None:
    head = _RECORD.pack(kind, sum(map(len, parts)))
    for part in (head, *parts):
        view = memoryview(part)
        while view:
            view = view[out.write(view) :]


if __name__ == "__main__":
    main()
