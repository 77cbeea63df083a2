"""Images in a zip file from elsewhere: which there are, and one after the other."""

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from visiondyno.datasets.zip_list import ZipList
from visiondyno.errors import DatasetError, SpecError, TooLarge

ZIP_BEGINS = (b"PK\x03\x04", b"PK\x05\x06")
"""What a zip file begins with; the second one's is empty."""

_CALLED = "The zip file"
_BESIDE = 1000
"""So many folders, and files that are passed over, may stand beside the images."""
_JUNK_FOLDER = "__MACOSX"
_JUNK_NAMES = frozenset({"thumbs.db", "desktop.ini"})
# Of the other methods one announces how much memory its reader has to take.
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """How much an archive of images may hold.

    Attributes:
        most_images: files that aren't passed over.
        most_bytes: of all those, unpacked.
        most_image_bytes: of one, unpacked.
        advice: the next step where it is too much; a sentence.
    """

    most_images: int
    most_bytes: int
    most_image_bytes: int
    advice: str


JOB_LIMITS = ArchiveLimits(
    most_images=10_000,
    most_bytes=4_000_000_000,
    most_image_bytes=200_000_000,
    advice="Send several zip files.",
)
"""Of an archive that one job predicts."""


class ImageArchive:
    """A zip file of images, never unpacked but one file at a time. Not for several threads at once.

    Attributes:
        names: of the files, in the archive's order; whether one is an image is for its reader.
        skipped: names of what is passed over: what a Mac or Windows adds, and dot files.
    """

    def __init__(self, path: Path, limits: ArchiveLimits) -> None:
        """Open it and judge its list.

        Raises:
            DatasetError: it is damaged, or refused for what its list says; see `ZipList`.
            SpecError: it holds no file.
            TooLarge: it holds more than it may.
        """
        self._most_image_bytes = limits.most_image_bytes
        too_many = TooLarge(
            f"{_CALLED} holds more than the {limits.most_images:,} files that are taken. "
            f"{limits.advice}"
        )
        try:
            self._zip = ZipList(path, limits.most_images + _BESIDE, _CALLED, _METHODS, too_many)
        except _DAMAGED as error:
            why = str(error) or type(error).__name__
            raise DatasetError(
                f"{_CALLED} is damaged or none ({why:.200}); make it again and send all of it."
            ) from error
        try:
            self._entries = [one for one in self._zip.entries if not _is_junk(one.name)]
            self.names = tuple(one.name for one in self._entries)
            self.skipped = tuple(one.name for one in self._zip.entries if _is_junk(one.name))
            self._check(limits)
        except BaseException:
            self._zip.close()
            raise

    def read(self, index: int) -> bytes:
        """The file at this place of `names`.

        Raises:
            TooLarge: it is larger than an image may be.
            DatasetError: it is damaged.
        """
        entry = self._entries[index]
        if entry.size_bytes > self._most_image_bytes:
            raise TooLarge(
                f"'{entry.name:.200}' has {entry.size_bytes / 1e6:.1f} MB, and at most "
                f"{self._most_image_bytes / 1e6:g} MB are taken of one image. Scale it down first."
            )
        try:
            return self._zip.read(entry)
        except _DAMAGED as error:
            raise DatasetError(
                f"'{entry.name:.200}' is damaged in the zip file ({error!s:.200}); pack it again."
            ) from error

    def close(self) -> None:
        """Let go of the file."""
        self._zip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, limits: ArchiveLimits) -> None:
        if not self._entries:
            passed = f" but {self.skipped[0]:.100}" if self.skipped else ""
            raise SpecError(f"{_CALLED} holds no file{passed}; put images into it.")
        if len(self._entries) > limits.most_images:
            raise TooLarge(
                f"{_CALLED} holds {len(self._entries):,} files, and at most {limits.most_images:,} "
                f"are taken. {limits.advice}"
            )
        total = sum(one.size_bytes for one in self._entries)
        if total > limits.most_bytes:
            raise TooLarge(
                f"{_CALLED} holds {total / 1e6:,.1f} MB, unpacked, and at most "
                f"{limits.most_bytes / 1e6:g} MB are taken. {limits.advice}"
            )


def is_zip(begin: bytes) -> bool:
    """Whether a file begins as a zip file does."""
    return begin.startswith(ZIP_BEGINS)


def _is_junk(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return (
        parts[0] == _JUNK_FOLDER
        or any(part.startswith(".") for part in parts)
        or parts[-1].lower() in _JUNK_NAMES
    )
