"""From a dataset reference to an open data set: built-in names, files, folders by content."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from visiondyno.datasets.base import VisionTask
from visiondyno.datasets.cache_folder import Progress, default_cache_dir
from visiondyno.datasets.coco import open_coco
from visiondyno.datasets.confined import confinement_of
from visiondyno.datasets.depth_folder import open_depth_folder
from visiondyno.datasets.idx import open_idx, part_of
from visiondyno.datasets.image_folder import open_image_folder
from visiondyno.datasets.indexed import Check, IndexedDataset, OpenOptions
from visiondyno.datasets.pull.catalogue import (
    DATA_FOLDER_VARIABLE,
    DOWNLOADABLE,
    data_folder,
    downloadable,
    pulled_folder,
)
from visiondyno.datasets.recognise import open_folder
from visiondyno.datasets.video import open_video
from visiondyno.datasets.yolo import open_yolo_yaml
from visiondyno.errors import DatasetError
from visiondyno.vision.video_form import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from visiondyno.datasets import depth_scenes, digits, street

__all__ = [
    "BuiltinDataset",
    "Progress",
    "builtin_dataset",
    "builtin_datasets",
    "default_cache_dir",
    "find_data",
    "open_dataset",
]

_MAX_BUILTIN_IMAGES = 100_000
_SPLIT = re.compile(r"[A-Za-z0-9_.-]+")

_Opener = Callable[[str, int, OpenOptions], IndexedDataset]


@dataclass(frozen=True, slots=True)
class BuiltinDataset:
    """A data set that needs no download.

    Attributes:
        name: its dataset reference.
        task: what its labels are for.
        description: one line for `dyno datasets`.
        splits: each split with its number of images where the reference names none.
        default_split: the split where the reference names none.
    """

    name: str
    task: VisionTask
    description: str
    splits: dict[str, int]
    default_split: str


_STREET = BuiltinDataset(
    name="street",
    task="detection",
    description="synthetic street scenes with cars, trucks, pedestrians and signs",
    splits={"train": 4000, "val": 500, "demo": 200},
    default_split="val",
)
_DIGITS = BuiltinDataset(
    name="digits",
    task="classification",
    description="drawn digits from 0 to 9, 32×32 grey",
    splits={"train": 6000, "val": 1000, "demo": 500},
    default_split="val",
)
_DEPTH_SCENES = BuiltinDataset(
    name="depth-scenes",
    task="depth",
    description="synthetic rooms, halls, streets and yards with exact depth, 448×448",
    splits={"train": 2800, "val": 300, "demo": 96},
    default_split="val",
)


def builtin_datasets() -> tuple[BuiltinDataset, ...]:
    """The data sets that come with VisionDyno."""
    return (_STREET, _DIGITS, _DEPTH_SCENES)


def builtin_dataset(reference: str) -> BuiltinDataset | None:
    """The built-in data set that `reference` names or means to name a part of; None for others."""
    name = reference.partition(":")[0]
    return next((builtin for builtin in builtin_datasets() if builtin.name == name), None)


def open_dataset(
    reference: str,
    *,
    skip_bad: bool = False,
    max_images: int | None = None,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
    check: Check = lambda: None,
    unlabelled: bool = False,
) -> IndexedDataset:
    """Open the data set that `reference` names.

    Args:
        reference: a folder (recognised by content), a COCO `.json`, a YOLO `.yaml`, a video with
            labels, a built-in `street`, `digits` or `depth-scenes` with `[:SPLIT[:COUNT]]`, or the
            name of a pulled data set. `:SPLIT` may follow a folder or a name whose data have parts.
            A folder that is called as a built-in data set is `./street`.
        skip_bad: leave bad samples out and list them in `skipped`, instead of stopping.
        max_images: use the first so many good images only, by name.
        cache_dir: where built-in, pulled and unpacked data are kept; `default_cache_dir()` if
            None.
        on_progress: called while images are made, which happens on the first use.
        check: called for each image that is looked at; what it raises is passed on.
        unlabelled: take images and videos without labels too; the data set's task is then
            `unlabelled`.

    Raises:
        DatasetError: there's no such data set, its form isn't known, or a sample is bad and
            `skip_bad` is off. One sentence or two that name the file.
    """
    if max_images is not None and max_images < 1:
        raise DatasetError(f"At least one image must be used, but max_images is {max_images}")
    options = OpenOptions(
        reference,
        skip_bad,
        max_images,
        cache_dir=cache_dir or default_cache_dir(),
        on_progress=on_progress,
        check=check,
        unlabelled=unlabelled,
    )
    builtin = builtin_dataset(reference)
    if builtin is not None:
        split, count = _split_and_count(reference, builtin)
        return _OPENERS[builtin.name](split, count, options)
    try:
        path, split_named = find_data(reference, options.cache_dir)
        within = confinement_of(path)
        return _open_path(path, replace(options, split=split_named, within=within))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"Data set {reference!r:.200} can't be read: {reason}") from None


def find_data(reference: str, cache_dir: Path) -> tuple[Path, str | None]:
    """Where the data of a reference lie, and the split that it names.

    Searched in this order: the path itself; below the folder that `VISIONDYNO_DATA` names; among
    pulled data sets. In each, the whole reference first, then less a last `:SPLIT`.

    Raises:
        DatasetError: it's nowhere; the message says how to get a data set that can be pulled.
    """
    stem, colon, last = reference.rpartition(":")
    forms: list[tuple[str, str | None]] = [(reference, None)]
    if colon and stem.strip() and _SPLIT.fullmatch(last):
        forms.append((stem, last))
    for place in _places(cache_dir):
        for text, split in forms:
            if text.strip() and (path := place(text)) is not None and path.exists():
                return path, split or _default_split(text, path)
    raise _nowhere(reference, [text for text, _ in forms])


def _default_split(text: str, path: Path) -> str | None:
    known = downloadable(text)
    split = known.default_split if known else None
    return split if split and (path / split).is_dir() else None


def _places(cache_dir: Path) -> tuple[Callable[[str], Path | None], ...]:
    shared = data_folder()
    return (
        lambda text: Path(text).expanduser(),
        lambda text: shared / text if shared is not None else None,
        lambda text: pulled_folder(text, cache_dir) if downloadable(text) else None,
    )


def _nowhere(reference: str, forms: list[str]) -> DatasetError:
    known = next((found for text in forms if (found := downloadable(text))), None)
    if known is not None:
        return DatasetError(
            f"Data set '{known.name}' isn't on this machine. Get it with: dyno datasets pull "
            f"{known.name}"
        )
    shared = data_folder()
    below = f" (nor below {shared}, which {DATA_FOLDER_VARIABLE} names)" if shared else ""
    built_in = ", ".join(builtin.name for builtin in builtin_datasets())
    pulled = ", ".join(dataset.name for dataset in DOWNLOADABLE)
    return DatasetError(
        f"There's no data set {reference!r:.200}: no such file or folder{below}, no built-in name "
        f"({built_in}) and none to pull ({pulled})"
    )


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


def _street(split: str, count: int, options: OpenOptions) -> IndexedDataset:
    # Rendering loads code that no other data set needs.
    from visiondyno.datasets.street import ensure_street

    name = cast("street.Split", split)
    folder = ensure_street(name, count, options.cache_dir, on_progress=options.on_progress)
    return open_coco(folder / "annotations.json", options)


def _digits(split: str, count: int, options: OpenOptions) -> IndexedDataset:
    from visiondyno.datasets.digits import ensure_digits

    name = cast("digits.Split", split)
    folder = ensure_digits(name, count, options.cache_dir, on_progress=options.on_progress)
    return open_image_folder(folder, options)


def _depth_scenes(split: str, count: int, options: OpenOptions) -> IndexedDataset:
    from visiondyno.datasets.depth_scenes import ensure_depth_scenes

    name = cast("depth_scenes.Split", split)
    folder = ensure_depth_scenes(name, count, options.cache_dir, on_progress=options.on_progress)
    return open_depth_folder(folder, options)


_OPENERS: dict[str, _Opener] = {
    "street": _street,
    "digits": _digits,
    "depth-scenes": _depth_scenes,
}


def _open_path(path: Path, options: OpenOptions) -> IndexedDataset:
    if path.is_dir():
        return open_folder(path, options)
    part = part_of(path)
    if part is not None and options.split is None:
        return open_idx(path.parent, options, whole_part=part)
    if path.suffix.lower() in (".yaml", ".yml"):
        return open_yolo_yaml(path, options)
    if options.split is not None:
        raise DatasetError(f"{path} is one file and has no split '{options.split}'")
    if path.suffix.lower() == ".json":
        return open_coco(path, options)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return open_video(path, options)
    raise DatasetError(
        f"{path} isn't a data set: a folder, a COCO .json, a YOLO data.yaml or a video with labels "
        "was expected"
    )
