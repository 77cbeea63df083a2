"""Videos on their way into the server: files of a bounded number and size, gone after their use."""

import contextlib
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from visiondyno.errors import RateLimited, StorageFull, TooLarge

MOST_VIDEOS = 16
"""Held at once, so that the disk they may take is known: 16 times `--max-video-mb`."""
_RETRY_AFTER_S = 5.0


class SpooledVideo:
    """A video in a file of its own. May be written in a thread."""

    def __init__(self, room: "VideoRoom") -> None:
        self._room: VideoRoom | None = room
        self._file = tempfile.NamedTemporaryFile(prefix="visiondyno-video-")  # noqa: SIM115 - see close
        self._most_bytes = room.most_bytes
        self.size_bytes = 0

    @property
    def path(self) -> Path:
        """Of the file."""
        return Path(self._file.name)

    def write(self, data: bytes | memoryview) -> None:
        """Append.

        Raises:
            TooLarge: it has more bytes than a video may.
            StorageFull: the disk is full.
        """
        self.size_bytes += len(data)
        if self.size_bytes > self._most_bytes:
            raise too_large_video(self._most_bytes)
        try:
            self._file.write(data)
        except OSError as error:
            raise _full(error) from error

    def flush(self) -> None:
        """Have all of it in the file.

        Raises:
            StorageFull: the disk is full.
        """
        try:
            self._file.flush()
        except OSError as error:
            raise _full(error) from error

    def close(self) -> None:
        """Delete it. Calling it again does nothing."""
        if self._room is None:
            return
        self._room.left()
        self._room = None
        with contextlib.suppress(OSError):  # what doesn't fit on the disk needn't any more
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class VideoRoom:
    """Room for `MOST_VIDEOS` of at most `most_bytes`. May be asked by several threads."""

    def __init__(self, most_bytes: int, most: int = MOST_VIDEOS) -> None:
        self.most_bytes = most_bytes
        self._most = most
        self._taken = 0
        self._lock = threading.Lock()

    def take(self) -> SpooledVideo:
        """A file for one video.

        Raises:
            RateLimited: there are too many already.
            StorageFull: no file can be made.
        """
        with self._lock:
            if self._taken >= self._most:
                raise RateLimited(
                    f"{self._taken} videos are being received or predicted already, and no more "
                    "are held at once; come again later.",
                    retry_after_s=_RETRY_AFTER_S,
                )
            self._taken += 1
        try:
            return SpooledVideo(self)
        except OSError as error:
            self.left()
            raise _full(error) from error

    def left(self) -> None:
        """One is gone."""
        with self._lock:
            self._taken -= 1


def too_large_video(most_bytes: int) -> TooLarge:
    """The refusal of one with more bytes."""
    return TooLarge(
        f"The video is larger than the {most_bytes / 1e6:g} MB that are taken. Cut or compress it, "
        "or raise --max-video-mb."
    )


def _full(error: OSError) -> StorageFull:
    return StorageFull(
        f"The video can't be kept while it is read ({error.strerror}); make room in the server's "
        "folder for temporary files (TMPDIR)."
    )
