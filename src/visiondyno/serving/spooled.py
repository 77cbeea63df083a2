"""Large files on their way into the server: of a bounded number and size, gone after their use."""

import contextlib
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from visiondyno.errors import RateLimited, StorageFull, TooLarge

MOST_HELD = 16
"""Of one kind at once, so that the disk they may take is known: 16 times `--max-video-mb`."""
_RETRY_AFTER_S = 5.0


class SpooledFile:
    """What came, in a file of its own. May be written in a thread."""

    def __init__(self, room: "SpoolRoom") -> None:
        self._room: SpoolRoom | None = room
        self._kind = room
        self.what = room.what
        self._file = tempfile.NamedTemporaryFile(prefix="visiondyno-upload-")  # noqa: SIM115 - see close
        self.size_bytes = 0

    @property
    def path(self) -> Path:
        """Of the file."""
        return Path(self._file.name)

    def write(self, data: bytes | memoryview) -> None:
        """Append.

        Raises:
            TooLarge: it has more bytes than one of its kind may.
            StorageFull: the disk is full.
        """
        self.size_bytes += len(data)
        if self.size_bytes > self._kind.most_bytes:
            raise self._kind.too_large()
        try:
            self._file.write(data)
        except OSError as error:
            raise self._kind.full(error) from error

    def flush(self) -> None:
        """Have all of it in the file.

        Raises:
            StorageFull: the disk is full.
        """
        try:
            self._file.flush()
        except OSError as error:
            raise self._kind.full(error) from error

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


class SpoolRoom:
    """Room for `MOST_HELD` files of one kind. May be asked by several threads.

    Attributes:
        what: they are: `video`, `zip file`.
        most_bytes: of one.
    """

    def __init__(self, what: str, most_bytes: int, option: str, most: int = MOST_HELD) -> None:
        """`option` is the flag that sets `most_bytes`."""
        self.what = what
        self.most_bytes = most_bytes
        self._option = option
        self._most = most
        self._taken = 0
        self._lock = threading.Lock()

    def take(self) -> SpooledFile:
        """A file for one of them.

        Raises:
            RateLimited: there are too many already.
            StorageFull: no file can be made.
        """
        with self._lock:
            if self._taken >= self._most:
                raise RateLimited(
                    f"{self._taken} {self.what}s are being received or predicted already, and no "
                    "more are held at once; come again later.",
                    retry_after_s=_RETRY_AFTER_S,
                )
            self._taken += 1
        try:
            return SpooledFile(self)
        except OSError as error:
            self.left()
            raise self.full(error) from error

    def left(self) -> None:
        """One is gone."""
        with self._lock:
            self._taken -= 1

    def too_large(self) -> TooLarge:
        """The refusal of one with more bytes."""
        advice = "Cut or compress it" if self.what == "video" else "Send several"
        return TooLarge(
            f"The {self.what} is larger than the {self.most_bytes / 1e6:g} MB that are taken. "
            f"{advice}, or raise {self._option}."
        )

    def full(self, error: OSError) -> StorageFull:
        """The refusal where the disk has no room."""
        return StorageFull(
            f"The {self.what} can't be kept while it is read ({error.strerror}); make room in the "
            "server's folder for temporary files (TMPDIR)."
        )
