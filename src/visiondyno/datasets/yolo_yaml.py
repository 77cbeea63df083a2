"""Ultralytics' `data.yaml`: names of the classes, and where each split's images are.

Read as Ultralytics does (docs.ultralytics.com/datasets/detect): `path` is the root, from the
YAML's folder; `train`, `val`, `test` are each a folder, a text file that lists images, or a list
of these. Two differences: a root is never searched in a user-wide data folder, and nothing is ever
downloaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from visiondyno.errors import DatasetError

_VAL_NAMES = ("val", "valid", "validation")
_OTHER_NAMES = ("test", "train")


@dataclass(frozen=True, slots=True)
class DataYaml:
    """What a `data.yaml` says.

    Attributes:
        names: of the classes, class 0 first.
        split: the split in use.
        sources: its folders and lists of images; each exists.
        notes: what a reader of the report must know.
    """

    names: tuple[str, ...]
    split: str
    sources: tuple[Path, ...]
    notes: tuple[str, ...]


def looks_like_data_yaml(document: object) -> bool:
    """Whether a YAML value describes a YOLO data set."""
    return isinstance(document, dict) and "names" in document


def load_yaml(path: Path) -> Any:
    """The YAML value in `path`.

    Raises:
        DatasetError: it can't be read or isn't YAML.
    """
    try:
        return yaml.safe_load(path.read_text("utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise DatasetError(f"{path} isn't valid YAML: {problem:.200}") from None


def splits_of_yaml(path: Path) -> tuple[str, ...]:
    """The splits that a `data.yaml` names, training first; () for another file.

    Raises:
        DatasetError: it can't be read or isn't YAML.
    """
    document = load_yaml(path)
    if not looks_like_data_yaml(document):
        return ()
    return tuple(name for name in ("train", *_VAL_NAMES, "test") if document.get(name))


def read_data_yaml(path: Path, asked: str | None = None) -> DataYaml:
    """Names and the split to use.

    Args:
        path: of the file.
        asked: the split; `val`, else the only one there is, if None.

    Raises:
        DatasetError: names or split are missing or wrong, or a folder isn't there.
    """
    document = load_yaml(path)
    if not looks_like_data_yaml(document):
        raise DatasetError(f"{path} isn't a YOLO data.yaml: it has no 'names'")
    if "kpt_shape" in document:
        raise DatasetError(f"{path} holds keypoints, which aren't supported: only boxes are")
    names = _names(path, document)
    split = _split(path, document) if asked is None else _asked(path, document, asked)
    sources = document[split]
    listed = sources if isinstance(sources, list) else [sources]
    if not listed or not all(isinstance(source, str) for source in listed):
        raise DatasetError(f"'{split}' in {path} must be a folder, a .txt list, or a list of these")
    notes = (
        ()
        if asked or split in _VAL_NAMES
        else (f"{path.name} has no val split: '{split}' was used",)
    )
    root = _root(path, document)
    found = tuple(_existing(path, split, root, source) for source in listed)
    return DataYaml(names, split, found, notes)


def _names(path: Path, document: dict[Any, Any]) -> tuple[str, ...]:
    given = document["names"]
    if isinstance(given, dict):
        if sorted(given, key=str) != sorted(range(len(given)), key=str):
            raise DatasetError(
                f"'names' in {path} must number the classes from 0 to {len(given) - 1}, none left "
                "out"
            )
        given = [given[index] for index in range(len(given))]
    if not isinstance(given, list) or not given:
        raise DatasetError(f"'names' in {path} must list the classes' names")
    # YAML reads an unquoted name such as 1 or yes as a number or a truth value.
    names = tuple(str(name) for name in given)
    if len(set(names)) < len(names):
        raise DatasetError(f"'names' in {path} has a name twice")
    count = document.get("nc", len(names))
    if count != len(names):
        raise DatasetError(f"'nc' in {path} is {count}, but 'names' has {len(names)} classes")
    return names


def _split(path: Path, document: dict[Any, Any]) -> str:
    for name in _VAL_NAMES:
        if document.get(name):
            return name
    others = [name for name in _OTHER_NAMES if document.get(name)]
    if len(others) == 1:
        return others[0]
    has = f"has {' and '.join(others)}" if others else "has no split"
    raise DatasetError(f"{path} names no 'val' split ({has}). Add val: FOLDER")


def _asked(path: Path, document: dict[Any, Any], split: str) -> str:
    names = ("train", *_VAL_NAMES, "test")
    if split in names and document.get(split):
        return split
    has = [name for name in names if document.get(name)]
    raise DatasetError(f"{path} has no split '{split}': it names {', '.join(has) or 'none'}")


def _root(path: Path, document: dict[Any, Any]) -> Path:
    given = document.get("path")
    if given is None or given == "":
        return path.parent
    if not isinstance(given, str):
        raise DatasetError(f"'path' in {path} must be a folder")
    return path.parent / Path(given).expanduser()


def _existing(path: Path, split: str, root: Path, source: str) -> Path:
    """The first that exists of: from the root; from the YAML's folder; there without `../`.

    The last two are forms that Ultralytics' users have: `path` names where the data was when it
    was made, and exports of Roboflow say `../valid/images` for a folder beside the YAML.
    """
    tried = [root / source, path.parent / source]
    if source.startswith("../"):
        tried.append(path.parent / source[3:])
    for candidate in tried:
        if candidate.exists():
            return candidate.resolve()
    raise DatasetError(f"'{split}' in {path} is {source}, but {tried[0]} isn't there")
