"""From a dataset reference to an open data set: built-in names, files, folders by content."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from visiondyno.datasets.coco import open_coco
from visiondyno.datasets.indexed import IndexedDataset, OpenOptions
from visiondyno.datasets.recognise import open_folder
from visiondyno.datasets.yolo import open_yolo_yaml
from visiondyno.errors import DatasetError

if TYPE_CHECKING:
    from visiondyno.datasets.street import Split

Progress = Callable[[int, int], None]
"""Called with images made so far and in all, while a built-in data set is made."""

_MAX_BUILTIN_IMAGES = 100_000


@dataclass(frozen=True, slots=True)
class BuiltinDataset:
    """A data set that needs no download.

    Attributes:
        name: its dataset reference.
        description: one line for `dyno datasets`.
        splits: each split with its number of images where the reference names none.
        default_split: the split where the reference names none.
    """

    name: str
    description: str
    splits: dict[str, int]
    default_split: str


_STREET = BuiltinDataset(
    name="street",
    description="synthetic street scenes with cars, trucks, pedestrians and signs",
    splits={"train": 4000, "val": 500, "demo": 200},
    default_split="val",
)


def builtin_datasets() -> tuple[BuiltinDataset, ...]:
    """The data sets that come with VisionDyno."""
    return (_STREET,)


def default_cache_dir() -> Path:
    """Where built-in data sets are kept: `visiondyno` in XDG's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "visiondyno"


def open_dataset(
    reference: str,
    *,
    skip_bad: bool = False,
    max_images: int | None = None,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
) -> IndexedDataset:
    """Open the data set that `reference` names.

    Args:
        reference: a folder (recognised by content), a COCO `.json`, a YOLO `.yaml`, or
            `street[:SPLIT[:COUNT]]`. A folder that is called as a built-in data set is `./street`.
        skip_bad: leave bad samples out and list them in `skipped`, instead of stopping.
        max_images: use the first so many good images only, by name.
        cache_dir: where a built-in data set is kept; `default_cache_dir()` if None.
        on_progress: called while a built-in data set is made, which happens on its first use.

    Raises:
        DatasetError: there's no such data set, its form isn't known, or a sample is bad and
            `skip_bad` is off. One sentence or two that name the file.
    """
    if max_images is not None and max_images < 1:
        raise DatasetError(f"At least one image must be used, but max_images is {max_images}")
    options = OpenOptions(reference, skip_bad, max_images)
    for builtin in builtin_datasets():
        if reference.partition(":")[0] == builtin.name:
            split, count = _split_and_count(reference, builtin)
            folder = _street(split, count, cache_dir or default_cache_dir(), on_progress)
            return open_coco(folder / "annotations.json", options)
    try:
        return _open_path(reference, options)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"Data set {reference!r:.200} can't be read: {reason}") from None


def _split_and_count(reference: str, builtin: BuiltinDataset) -> tuple[str, int]:
    _, *parts = reference.split(":")
    split = parts[0] if parts else builtin.default_split
    if len(parts) > 2 or split not in builtin.splits:
        raise DatasetError(
            f"'{reference}' isn't a data set: write {builtin.name}[:SPLIT[:COUNT]], "
            f"SPLIT one of {', '.join(builtin.splits)}"
        )
    if len(parts) < 2:
        return split, builtin.splits[split]
    count = int(parts[1]) if parts[1].isascii() and parts[1].isdigit() else 0
    if not 1 <= count <= _MAX_BUILTIN_IMAGES:
        raise DatasetError(
            f"'{reference}' must end with a number of images from 1 to {_MAX_BUILTIN_IMAGES}"
        )
    return split, count


def _street(split: str, count: int, cache_dir: Path, on_progress: Progress | None) -> Path:
    # Rendering loads code that no other data set needs.
    from visiondyno.datasets.street import ensure_street

    return ensure_street(cast("Split", split), count, cache_dir, on_progress=on_progress)


def _open_path(reference: str, options: OpenOptions) -> IndexedDataset:
    path = Path(reference).expanduser()
    if not reference.strip() or not path.exists():
        names = ", ".join(builtin.name for builtin in builtin_datasets())
        raise DatasetError(
            f"There's no data set {reference!r:.200}: no such file or folder, and no built-in "
            f"name ({names})"
        )
    if path.is_dir():
        return open_folder(path, options)
    if path.suffix.lower() == ".json":
        return open_coco(path, options)
    if path.suffix.lower() in (".yaml", ".yml"):
        return open_yolo_yaml(path, options)
    raise DatasetError(
        f"{path} isn't a data set: a folder, a COCO .json or a YOLO data.yaml was expected"
    )
