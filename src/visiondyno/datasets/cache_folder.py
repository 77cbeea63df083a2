"""A folder of files made once: complete or not there, verified when used again.

What built-in data sets render and what other formats unpack lies in such folders, because a sample
is an encoded image file.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from visiondyno.errors import DatasetError
from visiondyno.whole_file import cache_folder, file_sha256, only_one

_SUMS = "SHA256SUMS"

Progress = Callable[[int, int], None]
"""Called with files made so far and in all, while a folder is made."""


def default_cache_dir() -> Path:
    """Where made and pulled data sets are kept: `visiondyno` in XDG's cache folder."""
    return cache_folder()


def ensure_folder(target: Path, make: Callable[[Path], None], what: str) -> Path:
    """The folder `target`, made unless it is there already with every file as it was made.

    It appears in one step, complete, with `SHA256SUMS` in it: callers at the same time wait for
    the one that makes it, what an interruption left is thrown away, and a folder whose files don't
    have their sums is made anew.

    Args:
        target: the folder; its name must say everything that its content depends on.
        make: writes the files into an empty folder.
        what: the content in words, for messages.

    Raises:
        DatasetError: the folder can't be written, or `make` raised it.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with only_one(target):
            if not _intact(target):
                with new_folder(target) as part:
                    make(part)
                    _write_sums(part)
    except OSError as error:
        raise DatasetError(
            f"{what[0].upper()}{what[1:]} can't be written to '{target.parent}' "
            f"({error.strerror or error}). Choose a folder that can be written and has room"
        ) from error
    return target


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder that replaces `target` in one step unless the body raises.

    The caller holds `only_one(target)`: what an earlier interruption left is removed.
    """
    prefix = f".{target.name}."
    for left in target.parent.glob(f"{prefix}*.part"):
        shutil.rmtree(left, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=target.parent))
    try:
        yield part
        # mkdtemp makes a folder that only its owner can read.
        part.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _intact(folder: Path) -> bool:
    try:
        lines = (folder / _SUMS).read_text("utf-8").splitlines()
        sums = [line.split("  ", 1) for line in lines]
        return bool(sums) and all(file_sha256(folder / name) == digest for digest, name in sums)
    except (OSError, ValueError):
        return False


def _write_sums(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    # Written to the disk last: a folder with sums that match was complete.
    with (folder / _SUMS).open("w", encoding="utf-8") as sums:
        sums.writelines(lines)
        sums.flush()
        os.fsync(sums.fileno())
