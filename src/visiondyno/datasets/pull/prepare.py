"""What is done to a published data set after unpacking, so that it can be opened as a folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from visiondyno.class_names import COCO_80
from visiondyno.datasets.pull.catalogue import DownloadableDataset
from visiondyno.datasets.stored_png import png_bytes
from visiondyno.errors import DatasetError

_SIDE_PIXELS = 32
_RECORD_BYTES = 1 + 3 * _SIDE_PIXELS**2


def prepare(dataset: DownloadableDataset, folder: Path) -> None:
    """Do what the data set's `prepare` names; nothing where it is None.

    Raises:
        DatasetError: the files aren't those of the data set.
    """
    if dataset.prepare is not None:
        _STEPS[dataset.prepare](dataset, folder)


def _yolo_names(_: DownloadableDataset, folder: Path) -> None:
    """A `data.yaml` for coco128, whose archive has images and labels only."""
    images = sorted(path for path in (folder / "images").glob("*") if path.is_dir())
    if len(images) != 1:
        raise DatasetError("The archive of coco128 doesn't hold one folder in images/")
    config = {
        "path": ".",
        "val": f"images/{images[0].name}",
        "names": dict(enumerate(COCO_80)),
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")


def _class_names(dataset: DownloadableDataset, folder: Path) -> None:
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in dataset.classes), "utf-8")


def _cifar_folders(_: DownloadableDataset, folder: Path) -> None:
    """CIFAR's binary records to `train/CLASS/00000.png` and `test/CLASS/00000.png`.

    A record is the class and the image's red, green and blue planes
    (https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version").
    """
    names_path = folder / "batches.meta.txt"
    batches = {
        "train": sorted(folder.glob("data_batch_*.bin")),
        "test": sorted(folder.glob("test_batch.bin")),
    }
    if not names_path.is_file() or not all(batches.values()):
        raise DatasetError(
            "The archive of cifar10 isn't complete: a batch or its names are missing"
        )
    classes = names_path.read_text("utf-8").split()
    for split, paths in batches.items():
        for name in classes:
            (folder / split / name).mkdir(parents=True)
        index = 0
        for path in paths:
            for record in _records(path, len(classes)):
                pixels = record[1:].reshape(3, _SIDE_PIXELS, _SIDE_PIXELS).transpose(1, 2, 0)
                target = folder / split / classes[int(record[0])] / f"{index:05d}.png"
                target.write_bytes(png_bytes(pixels))
                index += 1
            path.unlink()
    names_path.unlink()


def _records(path: Path, classes: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if not data.size or data.size % _RECORD_BYTES:
        raise DatasetError(f"{path.name} of cifar10 isn't made of records of {_RECORD_BYTES} bytes")
    records = data.reshape(-1, _RECORD_BYTES)
    if records[:, 0].max() >= classes:
        raise DatasetError(f"{path.name} of cifar10 has a class beyond the {classes} named ones")
    return records


_STEPS: dict[str, Callable[[DownloadableDataset, Path], None]] = {
    "yolo_names": _yolo_names,
    "class_names": _class_names,
    "cifar_folders": _cifar_folders,
}
