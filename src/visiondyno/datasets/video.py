"""A video file as a data set: `clip.mp4`, and COCO JSON of its frames in `clip.json` beside it.

Without labels, where those aren't needed, some hundred frames at even distances.

An image of the JSON is a frame: its `file_name` is `frame_000012` (with or without an image's
suffix) or the number alone, counted from 0. Only frames that the JSON lists are in the data set;
they are decoded once, from the start of the video and in order, since seeking lands on key frames.
A sample is an encoded image file, so frames are kept as JPEG files of quality 95 in a folder of the
cache that is named by the video's content and the frames: nearly lossless, and a fifth of PNG's
size.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import cv2

from visiondyno.datasets.cache_folder import Progress, ensure_folder
from visiondyno.datasets.coco import Document, open_coco_document, read_json
from visiondyno.datasets.indexed import IndexedDataset, OpenOptions
from visiondyno.datasets.unlabelled import unlabelled
from visiondyno.errors import DatasetError
from visiondyno.vision.video_file import VideoFile, VideoHeader
from visiondyno.vision.video_form import LONGEST_BEGIN_BYTES, MOST_FRAME_PIXELS, is_video
from visiondyno.whole_file import file_sha256

JPEG_QUALITY = 95

MOST_UNLABELLED_FRAMES = 300
"""Of a video without labels, where no other number is asked for."""

_FORMAT_VERSION = 1
_FRAME_NAME = re.compile(r"^(?:frame_)?(\d{1,9})(?:\.(?:jpe?g|png|bmp|webp))?$", re.IGNORECASE)


def open_video(path: Path, options: OpenOptions) -> IndexedDataset:
    """Open a video with its labels, or without any where that is taken.

    Args:
        path: the video file; its labels are `path` with the suffix `.json`.
        options: reference, skipping, limit, and where decoded frames are kept. Its progress is
            the position in the video.

    Raises:
        DatasetError: there are no labels, a label names no frame, the video can't be decoded or
            ends before a labelled frame, or a sample is bad and `skip_bad` is off.
    """
    json_path = path.with_suffix(".json")
    has_labels = json_path.is_file()
    if not has_labels and not options.unlabelled:
        raise DatasetError(
            f"Video {path} has no labels, so nothing can be scored on it. Put COCO JSON beside it "
            f"as {json_path.name}, each image's file_name the number of its frame (frame_000012). "
            "Without labels dyno compare measures speed and agreement"
        )
    header = _checked_header(path)
    if not has_labels:
        return _open_frames(path, header, options)
    document = read_json(json_path)
    frames = _name_frames(document, json_path)
    folder = _ensure_frames(path, frames, options)
    note = _note(path, header, f"{len(frames):,} labelled ones")
    return open_coco_document(
        json_path, document, options, form="video", find=lambda name: folder / name, notes=(note,)
    )


def _open_frames(path: Path, header: VideoHeader, options: OpenOptions) -> IndexedDataset:
    """Frames of a video without labels, at even distances from its first to its last."""
    most = options.max_images or MOST_UNLABELLED_FRAMES
    announced = header.frames_announced or _frames_in(path)
    count = min(most, announced)
    frames = sorted({round(at * (announced - 1) / max(count - 1, 1)) for at in range(count)})
    folder = _ensure_frames(path, frames, options, all_needed=False)
    paths = sorted(folder.glob("frame_*.jpg"))
    note = _note(path, header, f"{len(paths):,} at even distances")
    return unlabelled(paths, options, "frames", (note,))


def _frames_in(path: Path) -> int:
    """How many there are, by decoding all; at least 1."""
    with VideoFile(path, f"Video {path}") as video:
        while video.next_frame() is not None:
            pass
        return max(1, video.passed)


def _note(path: Path, header: VideoHeader, which: str) -> str:
    speed = (
        f"{header.frames_per_second:g} frames a second"
        if header.frames_per_second is not None
        else "speed unknown"
    )
    length = (
        f"{header.frames_announced:,} frames as it says"
        if header.frames_announced is not None
        else "length unknown"
    )
    return (
        f"Frames of {path.name} ({header.width}×{header.height}, {speed}, {length}): the {which}, "
        f"kept as JPEG of quality {JPEG_QUALITY}. Frames of one video are alike: intervals "
        "are of this one, and narrower than of other scenes"
    )


def _checked_header(path: Path) -> VideoHeader:
    """What a plain container says: of a playlist the decoder would open the files that it names.

    Raises:
        DatasetError: it begins as none, can't be read, or its frames are too large.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(LONGEST_BEGIN_BYTES)
    except OSError as error:
        raise DatasetError(f"Video {path} can't be read: {error.strerror}") from None
    if not is_video(begin):
        raise DatasetError(
            f"Video {path} is no MP4, MOV, AVI, MKV, WebM or MPEG file, whatever its name says: "
            "convert it to one"
        )
    with VideoFile(path, f"Video {path}") as video:
        header = video.header
    if header.width * header.height > MOST_FRAME_PIXELS:
        raise DatasetError(
            f"The frames of video {path} have {header.width}×{header.height} pixels; at most "
            f"{MOST_FRAME_PIXELS / 1e6:g} megapixels are read. Scale it down first"
        )
    return header


def write_frames(
    path: Path,
    frames: Sequence[int],
    folder: Path,
    on_progress: Progress | None = None,
    *,
    all_needed: bool = True,
) -> None:
    """Decode these frames of a video into `folder`, as `frame_000000012.jpg`.

    Args:
        path: the video.
        frames: numbers from 0, ascending.
        folder: exists.
        on_progress: called with the frames passed and the last that is wanted.
        all_needed: whether each must be there; else those that are do, if there is one.

    Raises:
        DatasetError: the video can't be opened, or ends or breaks before the last of the frames.
    """
    wanted = set(frames)
    with VideoFile(path, f"Video {path}") as video:
        for number in range(frames[-1] + 1):
            if video.next_frame() is None:
                if number > frames[0] and not all_needed:
                    return
                raise DatasetError(
                    f"Video {path} ends after {number} frames, but its labels name frame "
                    f"{frames[-1]} (they count from 0). Is the file complete?"
                    if all_needed
                    else f"Video {path} has no frame that can be decoded. Is the file complete?"
                )
            if number in wanted:
                image = video.image()
                if image is None:
                    if not all_needed:
                        continue
                    raise DatasetError(f"Frame {number} of video {path} can't be decoded")
                _, encoded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
                (folder / _file_name(number)).write_bytes(encoded.tobytes())
            if on_progress is not None and number % 50 == 0:
                on_progress(number, frames[-1])


def _name_frames(document: Document, json_path: Path) -> list[int]:
    """Give each image of the JSON its frame's file name; the frames' numbers, ascending."""
    images = document.get("images")
    named: dict[int, object] = {}
    for image in images if isinstance(images, list) else ():
        if not isinstance(image, dict):
            continue  # the COCO reader says what's wrong with it
        given = image.get("file_name")
        match = _FRAME_NAME.match(str(given))
        if match is None:
            raise DatasetError(
                f"Image {image.get('id')} in {json_path} is '{given!s:.80}', which names no frame: "
                "frame_000012 or 12 was expected, counted from 0"
            )
        number = int(match[1])
        if number in named:
            raise DatasetError(
                f"Images {named[number]} and {image.get('id')} in {json_path} are both frame "
                f"{number}"
            )
        named[number] = image.get("id")
        image["file_name"] = _file_name(number)
    if not named:
        raise DatasetError(f"Labels {json_path} list no images: each must be a frame of the video")
    return sorted(named)


def _file_name(number: int) -> str:
    return f"frame_{number:09d}.jpg"


def _ensure_frames(
    path: Path, frames: list[int], options: OpenOptions, *, all_needed: bool = True
) -> Path:
    try:
        content = hashlib.sha256(file_sha256(path).encode())
    except OSError as error:
        raise DatasetError(f"Video {path} can't be read: {error.strerror}") from None
    content.update(",".join(map(str, frames)).encode())
    return ensure_folder(
        options.cache_dir / f"video-v{_FORMAT_VERSION}-{content.hexdigest()[:32]}",
        lambda folder: write_frames(
            path, frames, folder, options.on_progress, all_needed=all_needed
        ),
        "the frames of the video",
    )
