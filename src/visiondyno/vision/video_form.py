"""What is a video file by its beginning, and which of a video's frames are meant."""

from dataclasses import dataclass

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"})

MOST_FRAME_PIXELS = 50_000_000
"""Of a video that is read."""

LONGEST_BEGIN_BYTES = 192
"""So much of a file's beginning tells whether it is a video."""

STILL_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"})
"""Brands of single pictures in a video's container."""

_PROGRAM_STREAM, _MPEG_VIDEO, _MATROSKA = b"\0\0\x01\xba", b"\0\0\x01\xb3", b"\x1aE\xdf\xa3"
_TRANSPORT_PACKET_BYTES = 188
_MP4_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})


@dataclass(frozen=True, slots=True)
class FrameChoice:
    """Which frames of a video are predicted.

    Attributes:
        every: each so many-th frame; None: see `frames_per_second`.
        frames_per_second: so many of each second of the video; None and no `every`: all.
        start_s: frames before this time of the video are passed over.
        most: after so many it stops; None: no limit of the choice's own.
        end_s: frames from this time on are left out; None: to the end.
    """

    every: int | None = None
    frames_per_second: float | None = None
    start_s: float = 0.0
    most: int | None = None
    end_s: float | None = None


LOW_SCORE = 0.1
"""Boxes from this score on may continue a track."""

ASSUMED_FRAMES_PER_SECOND = 25.0
"""Where a video doesn't say."""


def chosen_per_second(frames_per_second: float | None, choice: FrameChoice) -> float:
    """How many of the chosen frames a second of a video has.

    Args:
        frames_per_second: of the video; None where it doesn't say.
        choice: of its frames.
    """
    speed = frames_per_second or ASSUMED_FRAMES_PER_SECOND
    if choice.every is not None:
        return speed / choice.every
    return speed if choice.frames_per_second is None else min(speed, choice.frames_per_second)


def is_video(begin: bytes) -> bool:
    """Whether it begins as a plain video file.

    Playlists and other text that names further files isn't: a decoder would open those.

    Args:
        begin: the first `LONGEST_BEGIN_BYTES` of the file, or all where it is shorter.
    """
    if begin.startswith((_PROGRAM_STREAM, _MPEG_VIDEO, _MATROSKA)):
        return True
    if begin[:4] == b"RIFF":
        return begin[8:12] == b"AVI "
    if begin[4:8] in _MP4_BOXES:
        return not (begin[4:8] == b"ftyp" and begin[8:12] in STILL_BRANDS)
    packet = begin[_TRANSPORT_PACKET_BYTES : _TRANSPORT_PACKET_BYTES + 1]
    return begin[:1] == b"G" and packet == b"G"


def counts_frames(begin: bytes) -> bool:
    """Whether a video of this beginning says how many frames it has: as MP4, MOV and AVI do.

    Of Matroska and MPEG files that number is their length times a speed, which is guessed where
    frames have uneven distances.
    """
    return begin[:4] == b"RIFF" or begin[4:8] in _MP4_BOXES
