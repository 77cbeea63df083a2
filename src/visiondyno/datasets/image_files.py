"""The image files below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from visiondyno.datasets.header import IMAGE_SUFFIXES
from visiondyno.errors import DatasetError


def image_files(folder: Path) -> Iterator[Path]:
    """Every file below `folder` with an image's suffix, in no order; hidden ones left out.

    Links are followed, but no folder is entered twice on one way down: a link to a folder above
    would never end.

    Raises:
        DatasetError: a folder can't be read.
    """
    for parent, folders, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        here = os.path.realpath(parent)
        folders[:] = [
            name
            for name in folders
            if name[0] != "." and not _leads_up(here, os.path.realpath(Path(parent, name)))
        ]
        for name in names:
            if name[0] != "." and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(parent, name)


def holds_images(folder: Path) -> bool:
    """Whether an image file lies anywhere below `folder`."""
    return next(image_files(folder), None) is not None


def _leads_up(here: str, target: str) -> bool:
    return os.path.commonpath((here, target)) == target


def _unreadable(error: OSError) -> None:
    raise DatasetError(f"Folder {error.filename} can't be read: {error.strerror}") from None
