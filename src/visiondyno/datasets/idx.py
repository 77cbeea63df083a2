"""Folders of idx files: `t10k-images-idx3-ubyte(.gz)` with labels, and the same for `train-`.

A sample is an encoded image file, so the images are written once as PNG files, lossless, into a
folder of the cache that is named by their content. Labels are read from their file each time.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.base import Sample
from visiondyno.datasets.cache_folder import ensure_folder
from visiondyno.datasets.header import read_header
from visiondyno.datasets.idx_file import read_idx
from visiondyno.datasets.indexed import Candidate, IndexedDataset, OpenOptions
from visiondyno.datasets.stored_png import png_bytes
from visiondyno.errors import DatasetError
from visiondyno.predictions import ClassTruth

SPLIT_SEED = 0
"""Of the split of a folder with one part only; see `split_of`."""

_TEST_SHARE = 0.2
_MAX_SIDE_PIXELS = 4096
_FORMAT_VERSION = 1
_NAME = re.compile(
    r"^(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(\.gz)?$", re.IGNORECASE
)
_PARTS = ("test", "train")


@dataclass(frozen=True, slots=True)
class _Files:
    images: Path
    labels: Path


def is_idx_folder(folder: Path) -> bool:
    """Whether `folder` holds idx files named as MNIST's are."""
    return any(_NAME.match(path.name) for path in folder.iterdir())


def part_of(path: Path) -> str | None:
    """`train` or `test` for an idx file named as MNIST's are, None for any other file."""
    match = _NAME.match(path.name)
    if match is None:
        return None
    return "train" if match["part"].lower() == "train" else "test"


def open_idx(
    folder: Path, options: OpenOptions, *, whole_part: str | None = None
) -> IndexedDataset:
    """Open a folder of idx files.

    The split is `train` or `test`. Where none is named: the test part, or the only part there is,
    whole. Where the folder has one part only, a split is the share of it that `split_of` gives.

    Args:
        folder: where the files are; `classes.txt` in it names the classes, one a line. Without
            it they are `0`, `1` and so on up to the highest label.
        options: reference, split, limits, and where the images are written as PNG files.
        whole_part: this part, whole, whatever else the folder has; the options name no split.

    Raises:
        DatasetError: a file is missing or bad, or there's no such split.
    """
    split = options.split
    if split not in (None, *_PARTS):
        raise DatasetError(f"Data set {folder} has no split '{split}': its splits are train, test")
    parts = _parts(folder)
    part = whole_part or (split if split in parts else None)
    part = part or next(name for name in _PARTS if name in parts)
    images = read_idx(parts[part].images, 3)
    all_labels = {name: read_idx(files.labels, 1) for name, files in parts.items()}
    labels = all_labels[part]
    _check(parts[part], images, labels)
    classes = _classes(folder, max(int(values.max()) for values in all_labels.values()))
    chosen: Sequence[int] = range(len(labels))
    notes: tuple[str, ...] = ()
    if split is not None and len(parts) == 1:
        chosen = split_of(len(labels), split)
        note = (
            f"Its folder has one part only: '{split}' is {len(chosen):,} of its {len(labels):,} "
            f"images, split by seed {SPLIT_SEED}"
        )
        notes = (note,)
    pngs = _ensure_pngs(images, options)
    candidates = _candidates(pngs, labels, chosen, parts[part].labels, len(classes))
    return IndexedDataset(options, "idx", classes, candidates, notes=notes)


def split_of(count: int, split: str) -> list[int]:
    """Indices, ascending, of `train` or `test` where a folder has one part of `count` images.

    A fifth, rounded to whole images and at least one, is `test`: the images whose number has the
    lowest SHA-256 after the seed. No generator's stream is involved, so that the split is the
    same with every version of every package.

    Raises:
        DatasetError: there are fewer than two images.
    """
    if count < 2:
        raise DatasetError(f"{count} images can't be split into train and test")
    ranked = sorted(range(count), key=lambda index: _rank(f"{SPLIT_SEED}:{index}"))
    tests = max(1, round(count * _TEST_SHARE))
    return sorted(ranked[:tests] if split == "test" else ranked[tests:])


def _rank(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _parts(folder: Path) -> dict[str, _Files]:
    """Files of each part that the folder has."""
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := _NAME.match(path.name):
            part = part_of(path)
            assert part is not None, "the name matches"
            found.setdefault((part, match["kind"].lower()), []).append(path)
    for (part, kind), paths in found.items():
        other = "labels" if kind == "images" else "images"
        if (part, other) not in found:
            ours, theirs = ("idx3", "idx1") if kind == "images" else ("idx1", "idx3")
            expected = paths[0].name.replace(kind, other).replace(ours, theirs)
            raise DatasetError(
                f"Folder {folder} holds {paths[0].name} but no {other} for it: {expected} was "
                "expected"
            )
        if len(paths) > 1:
            raise DatasetError(
                f"Folder {folder} holds {paths[0].name} and {paths[1].name}: remove one"
            )
    return {
        part: _Files(found[part, "images"][0], found[part, "labels"][0])
        for part in _PARTS
        if (part, "images") in found
    }


def _check(files: _Files, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    if len(images) != len(labels):
        raise DatasetError(
            f"{files.images} holds {len(images):,} images and {files.labels.name} "
            f"{len(labels):,} labels: they must be of the same part"
        )
    if max(images.shape[1:]) > _MAX_SIDE_PIXELS:
        raise DatasetError(
            f"{files.images} holds images of {images.shape[2]}×{images.shape[1]} pixels; at most "
            f"{_MAX_SIDE_PIXELS} a side are read"
        )


def _classes(folder: Path, highest: int) -> tuple[str, ...]:
    path = folder / "classes.txt"
    if not path.is_file():
        return tuple(map(str, range(highest + 1)))
    lines = path.read_text("utf-8-sig", errors="replace").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) < len(names):
        raise DatasetError(f"Class names {path} must be one name a line, none twice")
    return names


def _ensure_pngs(images: NDArray[np.uint8], options: OpenOptions) -> Path:
    content = hashlib.sha256(repr(images.shape).encode() + images.tobytes()).hexdigest()

    def write(folder: Path) -> None:
        for index, pixels in enumerate(images):
            (folder / _file_name(index)).write_bytes(png_bytes(pixels))
            if options.on_progress is not None and (index + 1) % 500 == 0:
                options.on_progress(index + 1, len(images))

    name = f"idx-v{_FORMAT_VERSION}-{content[:32]}"
    return ensure_folder(options.cache_dir / name, write, "the images of the idx file")


def _file_name(index: int) -> str:
    return f"{index:08d}.png"


def _candidates(
    folder: Path, labels: NDArray[np.uint8], chosen: Sequence[int], source: Path, classes: int
) -> Iterator[Candidate]:
    for index in chosen:
        path = folder / _file_name(index)
        yield Candidate(path, partial(_sample, index, path, int(labels[index]), source, classes))


def _sample(index: int, path: Path, class_id: int, source: Path, classes: int) -> Sample:
    if class_id >= classes:
        raise DatasetError(
            f"Label {index} of {source} is {class_id}, but classes.txt names {classes} classes, "
            f"0 to {classes - 1}"
        )
    header = read_header(path)
    return Sample(index, path, header.width, header.height, ClassTruth(class_id))
