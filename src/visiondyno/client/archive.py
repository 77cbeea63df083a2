"""Zip files whose bytes depend on nothing but names and contents."""

import hashlib
import os
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from visiondyno.errors import SpecError

_CHUNK_BYTES = 2**20
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_PLAIN_FILE = (stat.S_IFREG | 0o644) << 16


def write_archive(
    target: IO[bytes],
    members: Mapping[str, Path | bytes],
    on_bytes: Callable[[int], None] = lambda _: None,
) -> str:
    """Write a zip file: sorted by name, all of one time and mode, stored as they are.

    Images and weights hardly shrink, and what is stored is packed at the disk's speed.

    Args:
        target: an empty file, open for reading and writing.
        members: name → the file, or its content.
        on_bytes: told, again and again, how many bytes of the contents were written.

    Returns:
        The SHA-256 of the zip file.

    Raises:
        SpecError: a file can't be read, or changes meanwhile.
    """
    done = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            done = _add(archive, name, members[name], done, on_bytes)
    target.seek(0)
    return hashlib.file_digest(target, "sha256").hexdigest()  # type: ignore[arg-type]  # IO is one


def size_bytes(member: Path | bytes) -> int:
    """Of a file, or of its content.

    Raises:
        SpecError: it can't be read.
    """
    return len(member) if isinstance(member, bytes) else status_of(member).st_size


def status_of(path: Path) -> os.stat_result:
    """Size, times and inode of a file.

    Raises:
        SpecError: it can't be read, or is a pipe or a device, whose reading may never end.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    is_folder = stat.S_ISDIR(status.st_mode)  # opening it says so
    if not (is_folder or stat.S_ISREG(status.st_mode)):
        raise SpecError(
            f"{path} is no plain file, so it can't be sent; take it away from the rest."
        )
    return status


def _add(
    archive: zipfile.ZipFile,
    name: str,
    member: Path | bytes,
    done: int,
    on_bytes: Callable[[int], None],
) -> int:
    info = zipfile.ZipInfo(name, _EARLIEST)
    info.create_system, info.external_attr = _UNIX, _PLAIN_FILE
    info.file_size = expected = size_bytes(member)
    with archive.open(info, "w") as entry:
        if isinstance(member, bytes):
            entry.write(member)
            return done + expected
        try:
            file = member.open("rb")
        except OSError as error:
            raise _unreadable(member, error) from error
        left = expected
        with file:
            while left and (piece := _read(file, min(left, _CHUNK_BYTES), member)):
                entry.write(piece)
                left -= len(piece)
                on_bytes(done + expected - left)
            if left or _read(file, 1, member):
                raise SpecError(
                    f"{member} was changed while it was packed; try again when it's done."
                )
    return done + expected


def _read(file: IO[bytes], size: int, path: Path) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> SpecError:
    return SpecError(
        f"{path} can't be read ({error.strerror}); check the path and its permissions."
    )
