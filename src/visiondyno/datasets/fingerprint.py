"""Whether the files of a data set are those of before, without reading them.

As Git's index does: by name, size, times of modification and of change, and inode. A file that was
written to has another time of change even where its other time was set back, so only a file system
that doesn't keep times, or whose clock was set back, hides a change of the same size.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visiondyno.datasets.idx import is_idx_folder, part_of
from visiondyno.datasets.image_files import visible_folders
from visiondyno.datasets.indexed import Check

_SETTLED_AFTER_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Of the files below a folder, at one moment.

    Attributes:
        sha256: of names, sizes, times and inodes, 64 hexadecimal digits.
        newest_ns: the latest time of modification, since the epoch.
    """

    sha256: str
    newest_ns: int

    def settled(self, now_ns: int) -> bool:
        """Whether a later change would show.

        A file that is written to within the same tick of the file system's clock (2 s is the
        coarsest, FAT's) keeps its times.
        """
        return self.newest_ns + _SETTLED_AFTER_NS < now_ns


def fingerprint(path: Path, check: Check = lambda: None) -> Fingerprint | None:
    """Of every file that a classification data set at `path` may be read from.

    Args:
        path: what `find_data` says: a folder, or one idx file.
        check: called for each file; what it raises is passed on.

    Returns:
        None for a file of another form, which names others wherever they are.

    Raises:
        DatasetError: a folder can't be read.
    """
    if path.is_dir():
        flat = is_idx_folder(path)
    elif part_of(path) is not None:
        path, flat = path.parent, True
    else:
        return None
    total = hashlib.sha256()
    newest_ns = 0
    for text in _files(path, flat=flat):
        check()
        total.update(os.fsencode(text[len(str(path)) :]) + b"\0")
        if text.endswith(os.sep):
            continue
        try:
            status = os.stat(text)  # noqa: PTH116 - a Path for each of a million files is slow
        except OSError:  # a link to nowhere: opening the data decides whether it matters
            total.update(b"missing")
            continue
        facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        total.update(repr(facts).encode())
        newest_ns = max(newest_ns, status.st_mtime_ns)
    return Fingerprint(total.hexdigest(), newest_ns)


def _files(folder: Path, *, flat: bool) -> Iterator[str]:
    """The files below `folder`, and with a final slash the folders: an empty one may be a class."""
    for parent, names in visible_folders(folder):
        if not flat:
            yield parent + os.sep
        yield from (os.path.join(parent, name) for name in sorted(names))  # noqa: PTH118 - as above
        if flat:
            return
