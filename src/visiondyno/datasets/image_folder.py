"""An image folder per class: `ROOT/CLASS/….jpg`, torchvision's `ImageFolder`.

Classes are the names of ROOT's folders, sorted as torchvision sorts them, so that class numbers
are those a model trained there has. Hidden folders don't count. Images may lie deeper in a class's
folder. A class without images stays a class.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from visiondyno.datasets.base import Sample
from visiondyno.datasets.header import read_header
from visiondyno.datasets.image_files import image_files
from visiondyno.datasets.indexed import Candidate, IndexedDataset, OpenOptions
from visiondyno.predictions import ClassTruth


def open_image_folder(root: Path, options: OpenOptions) -> IndexedDataset:
    """Open a folder of class folders.

    Raises:
        DatasetError: there's no image, or one is bad and `skip_bad` is off.
    """
    classes = class_folders(root)
    return IndexedDataset(options, "image-folder", classes, _candidates(root, classes))


def class_folders(root: Path) -> tuple[str, ...]:
    """Names of the folders in `root`, sorted; hidden ones left out."""
    return tuple(
        sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != ".")
    )


def _candidates(root: Path, classes: tuple[str, ...]) -> Iterator[Candidate]:
    image_id = 0
    for class_id, name in enumerate(classes):
        for path in sorted(image_files(root / name)):
            yield Candidate(path, partial(_sample, image_id, path, class_id))
            image_id += 1


def _sample(image_id: int, path: Path, class_id: int) -> Sample:
    header = read_header(path)
    return Sample(image_id, path, header.width, header.height, ClassTruth(class_id))
