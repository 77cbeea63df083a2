"""The image files below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from visiondyno.datasets.header import IMAGE_SUFFIXES
from visiondyno.errors import DatasetError


def image_files(folder: Path) -> Iterator[Path]:
    """Every file below `folder` with an image's suffix, in no order; hidden ones left out.

    Raises:
        DatasetError: a folder can't be read.
    """
    for parent, names in visible_folders(folder):
        for name in names:
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(parent, name)


def visible_folders(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """`folder` and every folder below it, each with the names of its files, but hidden ones.

    Links are followed, but no folder is entered twice on one way down: a link to a folder above
    would never end. Folders come in the order of their names, a folder before what is in it.

    Raises:
        DatasetError: a folder can't be read.
    """
    for parent, folders, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        here = os.path.realpath(parent)
        folders[:] = sorted(
            name
            for name in folders
            if name[0] != "." and not _leads_up(here, os.path.realpath(Path(parent, name)))
        )
        yield parent, [name for name in names if name[0] != "."]


def holds_images(folder: Path) -> bool:
    """Whether an image file lies anywhere below `folder`."""
    return next(image_files(folder), None) is not None


def _leads_up(here: str, target: str) -> bool:
    return os.path.commonpath((here, target)) == target


def _unreadable(error: OSError) -> None:
    raise DatasetError(f"Folder {error.filename} can't be read: {error.strerror}") from None
