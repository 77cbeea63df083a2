"""Files that nobody ever sees a half of: written whole, made by one at a time, told by SHA-256.

Those that can be made or downloaded again lie in one cache folder.
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from visiondyno.errors import StorageFull

_ANOTHER = "name a file in a folder that exists, may be written and has room"


def write_whole(path: Path, data: bytes, what: str, next_step: str = _ANOTHER) -> None:
    """Write a file; an older one there is replaced at once, or stays as it is.

    Args:
        path: of the file.
        data: what it will hold.
        what: it is, for messages.
        next_step: what to do where it can't be written, for messages too.

    Raises:
        StorageFull: it can't be written there.
    """
    with written_whole(path, what, next_step) as file:
        file.write(data)


@contextmanager
def written_whole(path: Path, what: str, next_step: str = _ANOTHER) -> Iterator[IO[bytes]]:
    """`write_whole` of what is written to the file that this gives; nothing where that fails.

    Raises:
        StorageFull: it can't be written there.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise StorageFull(
            f"{what} can't be written to {path} ({error.strerror}); {next_step}."
        ) from error


@contextmanager
def only_one(target: Path, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Wait until no other process or thread holds the lock beside `target`, and hold it.

    Args:
        target: the file or folder to be made; its folder is there.
        wait: called again and again while another holds the lock, between two looks at it; what it
            raises ends the waiting. None: it sleeps until the lock is free.
    """
    # flock is let go by the kernel when its holder dies: an interruption leaves no stale lock.
    with (target.parent / f".{target.name}.lock").open("w") as held:
        if wait is None:
            fcntl.flock(held, fcntl.LOCK_EX)
        else:
            _take_when_free(held, wait)
        yield


def _take_when_free(held: IO[str], wait: Callable[[], None]) -> None:
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
        else:
            return


def cache_folder() -> Path:
    """VisionDyno's folder in the user's cache (XDG base directories); it need not be there yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "visiondyno"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
