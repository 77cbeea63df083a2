"""Which form of data set a folder holds, by its content; COCO JSON wins over YOLO labels."""

from dataclasses import replace
from pathlib import Path

from visiondyno.datasets.coco import open_coco, read_json
from visiondyno.datasets.depth_folder import is_depth_folder, open_depth_folder
from visiondyno.datasets.header import IMAGE_SUFFIXES
from visiondyno.datasets.idx import is_idx_folder, open_idx
from visiondyno.datasets.image_files import holds_images
from visiondyno.datasets.image_folder import class_folders, open_image_folder
from visiondyno.datasets.indexed import IndexedDataset, OpenOptions
from visiondyno.datasets.unlabelled import open_images
from visiondyno.datasets.voc import is_voc_folder, open_voc
from visiondyno.datasets.yolo import CLASSES_FILE, open_yolo_folder, open_yolo_yaml
from visiondyno.datasets.yolo_yaml import load_yaml, looks_like_data_yaml
from visiondyno.errors import DatasetError

SPLIT_FOLDERS = frozenset({"train", "val", "valid", "validation", "test"})
"""Folders of these names beside each other are parts of one data set."""

_FORMS = (
    "COCO JSON beside its images or in annotations/, YOLO (data.yaml, or images/, labels/ and "
    "classes.txt), Pascal VOC (Annotations/ and JPEGImages/), images/ and depth/, idx files, or "
    "one folder of images per class"
)


def open_folder(folder: Path, options: OpenOptions) -> IndexedDataset:
    """Open `folder` as the first form that fits: see docs/datasets.md for the order.

    A split that is asked for is a list of Pascal VOC, a part of idx files, a folder of that name,
    or one that a YOLO `data.yaml` names.

    Raises:
        DatasetError: no form fits, several files of one form do, there's no such split, or the
            data set is bad.
    """
    for fits, open_form in ((is_idx_folder, open_idx), (_is_plain_voc_folder, open_voc)):
        if fits(folder):
            return open_form(folder, options)
    if options.split is not None:
        return _open_split(folder, options.split, options)
    if json_path := _coco_json(folder):
        return open_coco(json_path, options)
    if yaml_path := _data_yaml(folder):
        return open_yolo_yaml(yaml_path, options)
    for fits, open_form in (
        (is_depth_folder, open_depth_folder),
        (_is_yolo_folder, open_yolo_folder),
    ):
        if fits(folder):
            return open_form(folder, options)
    return _open_bare(folder, options)


def _open_bare(folder: Path, options: OpenOptions) -> IndexedDataset:
    """A folder without a file of labels: its folders may be classes."""
    if options.unlabelled and _is_unlabelled(folder):
        _about_json(folder)  # labels that can't be read aren't taken for none
        return open_images(folder, options)
    _explain_unlabelled(folder)
    _explain_splits(folder)
    classes = class_folders(folder)
    # One class is no choice: such a folder is rather one above the data set.
    if sum(holds_images(folder / name) for name in classes) > 1:
        return open_image_folder(folder, options)
    if options.unlabelled and holds_images(folder):
        return open_images(folder, options)
    raise _not_recognised(folder, classes)


def _open_split(folder: Path, split: str, options: OpenOptions) -> IndexedDataset:
    if not (folder / split).is_dir() and (folder / "data.yaml").is_file():
        return open_yolo_yaml(folder / "data.yaml", options)
    return open_folder(_split_folder(folder, split), replace(options, split=None))


def _is_plain_voc_folder(folder: Path) -> bool:
    return is_voc_folder(folder) and _coco_json(folder) is None


def _split_folder(folder: Path, split: str) -> Path:
    if split in SPLIT_FOLDERS and (folder / split).is_dir():
        return folder / split
    known = sorted(SPLIT_FOLDERS.intersection(class_folders(folder)))
    has = f"it has the folders {', '.join(known)}" if known else "its form has no splits"
    raise DatasetError(f"Data set {folder} has no split '{split}': {has}")


def _coco_json(folder: Path) -> Path | None:
    """The folder's COCO JSON.

    Files are told by their keys' names in the text, not by parsing: a broken file that was meant
    as labels must be reported, not passed over, and a large one is parsed only once.
    """
    labels = []
    with_categories = []
    for path in _json_files(folder):
        text = path.read_bytes()
        if b'"images"' in text and (b'"annotations"' in text or b'"categories"' in text):
            labels.append(path)
            if b'"categories"' in text:
                with_categories.append(path)
    found = with_categories or labels
    return _only(found, folder, "COCO JSON files")


def _json_files(folder: Path) -> list[Path]:
    paths = [*folder.glob("*.json"), *(folder / "annotations").glob("*.json")]
    return sorted(path for path in paths if path.is_file())


def _data_yaml(folder: Path) -> Path | None:
    if (folder / "data.yaml").is_file():
        return folder / "data.yaml"
    found = []
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            if looks_like_data_yaml(load_yaml(path)):
                found.append(path)
        except DatasetError:
            # Some other YAML file: only data.yaml is known by its name.
            continue
    return _only(found, folder, "YOLO data files")


def _only(found: list[Path], folder: Path, what: str) -> Path | None:
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise DatasetError(f"Folder {folder} holds several {what}: give the path of one ({names})")
    return found[0] if found else None


def _is_yolo_folder(folder: Path) -> bool:
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return True
    if (folder / CLASSES_FILE).is_file():
        return True
    return any(path.with_suffix(".txt").is_file() for path in _direct_images(folder))


def _direct_images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _explain_unlabelled(folder: Path) -> None:
    if _is_unlabelled(folder):
        raise DatasetError(
            f"Folder {folder} holds images but no labels{_about_json(folder)}. "
            f"Add labels in one of these forms: {_FORMS}. Without labels dyno compare measures "
            "speed and agreement"
        )


def _is_unlabelled(folder: Path) -> bool:
    return (folder / "images").is_dir() or bool(_direct_images(folder))


def _explain_splits(folder: Path) -> None:
    splits = sorted(SPLIT_FOLDERS.intersection(class_folders(folder)))
    if len(splits) > 1:
        paths = " or ".join(str(folder / split) for split in splits)
        raise DatasetError(f"Folder {folder} holds splits: give one of them, {paths}")


def _not_recognised(folder: Path, folders: tuple[str, ...]) -> DatasetError:
    if next(folder.iterdir(), None) is None:
        return DatasetError(f"Folder {folder} is empty. A data set was expected: {_FORMS}")
    inner = f" Is {folder / folders[0]} meant?" if len(folders) == 1 else ""
    return DatasetError(
        f"Folder {folder} holds no data set{_about_json(folder)}: expected {_FORMS}.{inner}"
    )


def _about_json(folder: Path) -> str:
    for path in _json_files(folder):
        read_json(path)
        return f" ({path.name} isn't COCO JSON: it has no 'images' and 'categories')"
    return ""
