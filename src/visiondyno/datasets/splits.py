"""Which splits the data at a path have, without opening them."""

from pathlib import Path

from visiondyno.datasets.idx import is_idx_folder, part_of
from visiondyno.datasets.recognise import SPLIT_FOLDERS
from visiondyno.datasets.yolo_yaml import splits_of_yaml

_ORDER = ("train", "val", "valid", "validation", "test")


def splits_at(path: Path) -> tuple[str, ...]:
    """The splits that may follow the path as `:SPLIT`, each with files of its own.

    Of a folder of idx files its parts; of another folder its subfolders that are named as splits
    are, where it has several; of a YOLO `data.yaml`, or a folder with one, those that it names. ()
    for anything else.

    Raises:
        OSError: the folder can't be read.
        DatasetError: the YAML can't be read.
    """
    if path.suffix.lower() in (".yaml", ".yml") and path.is_file():
        return splits_of_yaml(path)
    if not path.is_dir():
        return ()
    if is_idx_folder(path):
        found = {part for file in path.iterdir() if (part := part_of(file)) is not None}
    else:
        found = {inner.name for inner in path.iterdir() if inner.is_dir()} & SPLIT_FOLDERS
    names = tuple(name for name in _ORDER if name in found)
    if len(names) < 2 and (path / "data.yaml").is_file():
        return splits_of_yaml(path / "data.yaml")
    return names if len(names) > 1 else ()
