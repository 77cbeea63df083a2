"""YOLO folders: images, a label file for each, and names of the classes.

Two forms: Ultralytics' `data.yaml` with `names`, `path` and splits, and a folder with `images/`,
`labels/` (or labels beside the images) and `classes.txt`, one name a line.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from visiondyno.datasets.base import Sample
from visiondyno.datasets.confined import check_inside
from visiondyno.datasets.header import read_header
from visiondyno.datasets.image_files import image_files
from visiondyno.datasets.indexed import Candidate, IndexedDataset, OpenOptions
from visiondyno.datasets.yolo_labels import read_labels
from visiondyno.datasets.yolo_yaml import read_data_yaml
from visiondyno.errors import DatasetError

CLASSES_FILE = "classes.txt"


@dataclass(frozen=True, slots=True)
class _Listing:
    """Where images and their labels are.

    Attributes:
        where: the data set, in words for messages.
        images: name and path of each.
        root: labels mirror the images below it; None: in the whole path, as Ultralytics does.
        complete: whether every image of its folders is listed, so that labels left over have
            none.
    """

    where: str
    images: Sequence[tuple[str, Path]]
    root: Path | None = None
    complete: bool = True


def open_yolo_yaml(yaml_path: Path, options: OpenOptions) -> IndexedDataset:
    """Open a split of Ultralytics' `data.yaml`: the one asked for, else `val`, else its only one.

    Raises:
        DatasetError: the YAML is wrong or names no such split, or a sample is bad and `skip_bad`
            is off.
    """
    config = read_data_yaml(yaml_path, options.split)
    images: list[tuple[str, Path]] = []
    for source in config.sources:
        check_inside(source, options.within, options.reference)
        if source.is_dir():
            images += _images_below(source)
        elif source.suffix == ".txt":
            images += listed_images(source)
        else:
            raise DatasetError(
                f"'{config.split}' in {yaml_path} is {source}, which is neither a folder nor a "
                ".txt list of images"
            )
    listing = _Listing(
        where=f"'{config.split}' of {yaml_path}",
        images=sorted(images),
        complete=all(source.is_dir() for source in config.sources),
    )
    return _open(listing, config.names, options, config.notes)


def open_yolo_folder(folder: Path, options: OpenOptions) -> IndexedDataset:
    """Open a folder with `images/` and `labels/`, or with labels beside the images.

    Raises:
        DatasetError: there are no class names, or a sample is bad and `skip_bad` is off.
    """
    images_folder = folder / "images"
    images = _images_below(images_folder if images_folder.is_dir() else folder)
    return _open(_Listing(str(folder), sorted(images), folder), _class_names(folder), options)


def label_path(image: Path, root: Path | None = None) -> Path:
    """Where an image's labels lie: `labels/` for the last `images/` in its path, else beside it.

    Args:
        image: path of the image file.
        root: look for `images/` below this folder only; None: in the whole path.
    """
    folders = list((image.relative_to(root) if root else image).parent.parts)
    for index in range(len(folders) - 1, -1, -1):
        if folders[index] == "images":
            folders[index] = "labels"
            break
    return Path(root or "", *folders, image.stem + ".txt")


def _open(
    listing: _Listing,
    names: tuple[str, ...],
    options: OpenOptions,
    notes: tuple[str, ...] = (),
) -> IndexedDataset:
    _require_label_files(listing)
    return IndexedDataset(
        options,
        "yolo",
        names,
        _candidates(listing, len(names)),
        notes=(*notes, *_labels_without_image(listing)),
    )


def _candidates(listing: _Listing, classes: int) -> Iterator[Candidate]:
    for image_id, (_, path) in enumerate(listing.images):
        labels = label_path(path, listing.root)
        yield Candidate(path, partial(_sample, image_id, path, labels, classes))


def _sample(image_id: int, path: Path, labels: Path, classes: int) -> Sample:
    header = read_header(path)
    truth = read_labels(labels, classes, header.width, header.height)
    if header.orientation != 1 and len(truth):
        # Ultralytics and most labelling tools show such an image turned; it's decoded as stored.
        raise DatasetError(
            f"Image {path} has EXIF orientation {header.orientation}, so its labels may belong to "
            "the turned image. Turn the pixels themselves and drop the tag"
        )
    return Sample(image_id, path, header.width, header.height, truth)


def _labels_without_image(listing: _Listing) -> tuple[str, ...]:
    """A note on label files whose image isn't there, in folders that mirror image folders.

    A note and not an error: YOLO data sets are what their image folders hold, and published ones
    (coco128 for one) have such labels.
    """
    if not listing.complete:
        return ()
    expected = {label_path(path, listing.root) for _, path in listing.images}
    folders = {label.parent for label in expected} - {path.parent for _, path in listing.images}
    orphans = sorted(
        label.name
        for folder in folders
        if folder.is_dir()
        for label in folder.glob("*.txt")
        if label not in expected and label.name != CLASSES_FILE
    )
    if not orphans:
        return ()
    return (f"{len(orphans)} label files have no image and don't count, first {orphans[0]}",)


def _require_label_files(listing: _Listing) -> None:
    if not listing.images:
        raise DatasetError(f"Data set {listing.where} holds no images")
    expected = [label_path(path, listing.root) for _, path in listing.images]
    if not any(labels.is_file() for labels in expected):
        raise DatasetError(
            f"Data set {listing.where} has no labels: none of its {len(expected)} images has a "
            f"label file (the first would be {expected[0]})"
        )


def _images_below(folder: Path) -> list[tuple[str, Path]]:
    return [(path.relative_to(folder).as_posix(), path) for path in image_files(folder)]


def listed_images(list_path: Path) -> list[tuple[str, Path]]:
    """Name and path of the images that a text file names, a line each.

    Names that aren't absolute are from the list's folder.

    Raises:
        DatasetError: the list can't be read.
    """
    try:
        lines = list_path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"Image list {list_path} can't be read: {error}") from None
    names = [line.strip() for line in lines if line.strip()]
    return [(name, Path(os.path.normpath(list_path.parent / name))) for name in names]


def _class_names(folder: Path) -> tuple[str, ...]:
    for path in (folder / CLASSES_FILE, folder / "labels" / CLASSES_FILE):
        if path.is_file():
            lines = path.read_text("utf-8-sig", errors="replace").splitlines()
            names = tuple(line.strip() for line in lines if line.strip())
            if not names or len(set(names)) < len(names):
                raise DatasetError(f"Class names {path} must be one name a line, none twice")
            return names
    raise DatasetError(
        f"Data set {folder} has YOLO labels but no class names. Add {CLASSES_FILE} (one name a "
        "line, class 0 first) or a data.yaml with names"
    )
