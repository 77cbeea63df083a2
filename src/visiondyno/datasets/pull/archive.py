"""Archives from elsewhere, unpacked without trust: only plain files, only inside, only so much."""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from visiondyno.datasets.zip_list import (
    ZipList,
    inside,
    not_a_file,
    too_many_files,
    twice,
)
from visiondyno.errors import DatasetError

_CHUNK_BYTES = 2**20
_JUNK = ("__MACOSX/",)


@dataclass(frozen=True, slots=True)
class Selection:
    """What of an archive is unpacked.

    Attributes:
        strip: only what lies below this folder, without it.
        keep: only names with one of these beginnings, after `strip`; () for all.
        most_bytes: unpacked, in all.
        most_files: in the archive, selected or not.
    """

    strip: str = ""
    keep: tuple[str, ...] = ()
    most_bytes: int = 64 * 2**30
    most_files: int = 1_000_000


def unpack(
    archive: Path,
    kind: Literal["zip", "tar"],
    folder: Path,
    selection: Selection,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Unpack an archive into a folder.

    The whole archive is refused for one bad entry: a path that is absolute or leads out of the
    folder, a link or a device, a name twice, an encrypted file. Owners, permissions and times
    aren't taken over.

    Args:
        archive: the file.
        kind: of archive.
        folder: is made.
        selection: what of it, and how much at most.
        check: called again and again; what it raises stops the unpacking.

    Returns:
        How many files were written.

    Raises:
        DatasetError: the archive is damaged, refused, too large, or holds nothing of the
            selection.
    """
    most_files = selection.most_files
    entries = _zip_entries(archive, most_files) if kind == "zip" else _tar_entries(archive)
    written = 0
    room = selection.most_bytes
    try:
        for number, (name, file) in enumerate(entries):
            check()
            if number >= most_files:
                raise too_many_files(archive, most_files)
            place = _place(archive, name, selection)
            if place is not None:
                room -= _write(archive, file, folder / place, room, check)
                written += 1
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError) as error:
        raise _damaged(archive, error) from None
    except (NotImplementedError, RuntimeError) as error:
        raise DatasetError(f"{archive} can't be unpacked: {error}") from None
    if not written:
        raise DatasetError(
            f"{archive} isn't the archive that was expected: it holds nothing below "
            f"'{selection.strip or '/'}' that the data set needs"
        )
    return written


def _damaged(archive: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{archive} is damaged or no archive of its kind: {error}. Download it again"
    )


def _zip_entries(archive: Path, most_files: int) -> Iterator[tuple[str, IO[bytes]]]:
    with ZipList(archive, most_files) as opened:
        for entry in opened.entries:
            with opened.open(entry) as file:
                yield entry.name, file


def _tar_entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with _tar(archive) as opened:
        for member in opened:
            if member.isdir():
                inside(archive, member.name)
                continue
            file = opened.extractfile(member) if member.isreg() else None
            if file is None:
                raise not_a_file(archive, member.name)
            with file:
                yield member.name, file


@contextmanager
def _tar(archive: Path) -> Iterator[tarfile.TarFile]:
    with tarfile.open(archive, "r:*") as opened:
        yield opened


def _place(archive: Path, name: str, selection: Selection) -> PurePosixPath | None:
    """Where an entry goes in the folder; None where it isn't selected."""
    normal = inside(archive, name).as_posix()
    if not normal.startswith(selection.strip) or normal.startswith(_JUNK):
        return None
    rest = normal[len(selection.strip) :]
    if not rest or (selection.keep and not rest.startswith(selection.keep)):
        return None
    return PurePosixPath(rest)


def _write(
    archive: Path, source: IO[bytes], target: Path, room: int, check: Callable[[], None]
) -> int:
    """Copy one file, whatever size its header announces; the bytes it has."""
    written = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            while chunk := source.read(_CHUNK_BYTES):
                check()
                written += len(chunk)
                if written > room:
                    raise DatasetError(
                        f"{archive} isn't unpacked: it holds far more than the data set should"
                    )
                file.write(chunk)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise twice(archive, target.name) from None
    return written
