"""Folders whose data sets may name only what lies in them: what came with somebody's job.

Labels and lists of a data set name image files, and a reader would follow them to any file of this
machine, whose pixels then come back in a report.
"""

from pathlib import Path

from visiondyno.errors import DatasetError

MARK = ".visiondyno-confined"
"""An empty file of this name makes its folder such a one."""


def confine(folder: Path) -> None:
    """Make `folder` such a one."""
    (folder / MARK).touch()


def confinement_of(path: Path) -> Path | None:
    """The folder that data at `path` must stay in, resolved; None where they may name any file."""
    resolved = path.resolve()
    return next((parent for parent in resolved.parents if (parent / MARK).exists()), None)


def check_inside(path: Path, within: Path | None, reference: str) -> None:
    """Refuse a file outside of what came with the job.

    Args:
        path: that a data set names.
        within: where it must lie; None: anywhere.
        reference: the data set's.

    Raises:
        DatasetError: it lies elsewhere. The message doesn't say what is there.
    """
    if within is not None and not path.resolve().is_relative_to(within):
        raise DatasetError(
            f"Data set {reference} came with the job and names a file outside of it; name its "
            "files relative to it, and send them along"
        )
