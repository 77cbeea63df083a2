"""Archives from elsewhere, unpacked without trust: only plain files, only inside, only so much."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from visiondyno.errors import DatasetError

_MOST_FILES = 1_000_000
_CHUNK_BYTES = 2**20
_JUNK = ("__MACOSX/",)


@dataclass(frozen=True, slots=True)
class Selection:
    """What of an archive is unpacked.

    Attributes:
        strip: only what lies below this folder, without it.
        keep: only names with one of these beginnings, after `strip`; () for all.
        most_bytes: unpacked, in all.
    """

    strip: str = ""
    keep: tuple[str, ...] = ()
    most_bytes: int = 64 * 2**30


def unpack(archive: Path, kind: Literal["zip", "tar"], folder: Path, selection: Selection) -> int:
    """Unpack an archive into a folder.

    The whole archive is refused for one bad entry: a path that is absolute or leads out of the
    folder, a link or a device, a name twice, an encrypted file. Owners, permissions and times
    aren't taken over.

    Returns:
        How many files were written.

    Raises:
        DatasetError: the archive is damaged, refused, too large, or holds nothing of the
            selection.
    """
    entries = _zip_entries(archive) if kind == "zip" else _tar_entries(archive)
    written = 0
    room = selection.most_bytes
    try:
        for number, (name, file) in enumerate(entries):
            if number >= _MOST_FILES:
                raise DatasetError(f"{archive} holds more than {_MOST_FILES:,} files")
            place = _place(archive, name, selection)
            if place is not None:
                room -= _write(archive, file, folder / place, room)
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


def _zip_entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if info.is_dir():
                _check_name(archive, info.filename)
                continue
            mode = info.external_attr >> 16
            # Archives from systems without modes have 0 here.
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise _not_a_file(archive, info.filename)
            if info.flag_bits & 1:
                raise DatasetError(f"{archive} can't be unpacked: {info.filename} is encrypted")
            with opened.open(info) as file:
                yield info.filename, file


def _tar_entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with _tar(archive) as opened:
        for member in opened:
            if member.isdir():
                _check_name(archive, member.name)
                continue
            file = opened.extractfile(member) if member.isreg() else None
            if file is None:
                raise _not_a_file(archive, member.name)
            with file:
                yield member.name, file


@contextmanager
def _tar(archive: Path) -> Iterator[tarfile.TarFile]:
    with tarfile.open(archive, "r:*") as opened:
        yield opened


def _not_a_file(archive: Path, name: str) -> DatasetError:
    return DatasetError(
        f"{archive} isn't unpacked: '{name:.100}' in it is a link or a device, not a file"
    )


def _check_name(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or set("\\:\0") & set(name):
        raise DatasetError(
            f"{archive} isn't unpacked: '{name:.100}' in it would lie outside its folder"
        )
    return path


def _place(archive: Path, name: str, selection: Selection) -> PurePosixPath | None:
    """Where an entry goes in the folder; None where it isn't selected."""
    normal = _check_name(archive, name).as_posix()
    if not normal.startswith(selection.strip) or normal.startswith(_JUNK):
        return None
    rest = normal[len(selection.strip) :]
    if not rest or (selection.keep and not rest.startswith(selection.keep)):
        return None
    return PurePosixPath(rest)


def _write(archive: Path, source: IO[bytes], target: Path, room: int) -> int:
    """Copy one file, whatever size its header announces; the bytes it has."""
    written = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            while chunk := source.read(_CHUNK_BYTES):
                written += len(chunk)
                if written > room:
                    raise DatasetError(
                        f"{archive} isn't unpacked: it holds far more than the data set should"
                    )
                file.write(chunk)
    except (FileExistsError, NotADirectoryError):
        raise DatasetError(
            f"{archive} isn't unpacked: '{target.name}' stands in it twice"
        ) from None
    return written
