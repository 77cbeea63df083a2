"""Which files a reference to something on this machine stands for."""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from visiondyno.errors import DatasetError, ModelError
from visiondyno.runtimes.references import ResolvedReference
from visiondyno.specs.attachments import MOST_FILES

ELSEWHERE = (
    "Put the data where the workers are, below the folder that VISIONDYNO_DATA names there, and "
    "give its name there."
)
"""What to do with more than is sent."""

_UNSENDABLE = frozenset("\\:\0")
_EMPTY = ".empty"
"""Hidden, so no reader sees it; a folder without files would be lost in an archive."""


@dataclass(frozen=True)
class FilesOfReference:
    """What is sent for one reference.

    Attributes:
        members: name in the archive → the file, or its content where that isn't a file's.
        path: of these the file that is meant, or a folder that holds some.
    """

    members: dict[str, Path | bytes]
    path: str


def files_of_model(resolved: ResolvedReference) -> FilesOfReference:
    """A model file or folder, with its card and its external weights, where it has them.

    What can't be read as a model is sent as it is: the worker says what is wrong with it, beside
    the other models of the job.

    Raises:
        ModelError: it is a folder that isn't a model, no plain file, or has a name that can't be
            sent.
    """
    from visiondyno.runtimes.model_files import model_files

    files = model_files(resolved)
    assert files is not None, "only what is a path on this machine is asked for"
    bad = _unsendable(files.members)
    if bad is not None:
        raise ModelError(f"{bad!r:.200} can't be sent under that name; rename it.")
    return FilesOfReference(dict(files.members), files.main)


def data_files(path: Path, splits: Collection[str | None] = (None,)) -> FilesOfReference:
    """All files of a data set.

    Of a folder all in it that aren't hidden; of a COCO `.json` and a YOLO `.yaml` the images that
    it names, with their labels; of an idx file the others beside it; of a video its labels.

    Args:
        path: of the data.
        splits: those of a YOLO `.yaml` that are needed; None for the one in use.

    Raises:
        DatasetError: labels or lists can't be read, or name a file by a path that means nothing
            elsewhere; a file has a name that can't be sent; it is no file or folder, the root of
            the disk, or a folder with more files than are sent.
    """
    from visiondyno.datasets.idx import part_of
    from visiondyno.vision.video_form import VIDEO_SUFFIXES

    path = Path(os.path.abspath(path))  # noqa: PTH100 - links keep their names
    suffix = path.suffix.lower()
    if path == path.parent:
        raise DatasetError(f"{path} is a whole disk; give the folder on it that is meant.")
    if path.is_dir():
        files = _folder_files(path, splits)
    elif not path.is_file():
        raise DatasetError(_not_plain(path))
    elif part_of(path) is not None:
        files = {one: one for one in path.parent.iterdir() if part_of(one) or _names_classes(one)}
    elif suffix == ".json":
        files = _coco_files(path)
    elif suffix in (".yaml", ".yml"):
        files = _yolo_files(path, splits)
    else:
        files = {path: path}
        if suffix in VIDEO_SUFFIXES and path.with_suffix(".json").is_file():
            files[path.with_suffix(".json")] = path.with_suffix(".json")
    return _below_what_they_share(path, files)


_Files = dict[Path, Path | bytes]
"""Where each would lie here → the file, or its content."""


def _folder_files(folder: Path, splits: Collection[str | None]) -> _Files:
    from visiondyno.datasets.image_files import visible_folders

    files: _Files = {}
    for parent, names in visible_folders(folder):
        found = [path for name in names if (path := Path(parent, name)).is_file()]
        files.update((one, one) for one in found)
        if not found:
            files[Path(parent, _EMPTY)] = b""
        if len(files) > MOST_FILES:  # a home or a disk, which nobody wants read to its end
            raise DatasetError(
                f"{folder} has more than {MOST_FILES:,} files, and so many at most are sent. "
                f"{ELSEWHERE}"
            )
    if (folder / "data.yaml").is_file():
        try:
            files |= _yolo_files(folder / "data.yaml", splits)
        except DatasetError:
            return files  # opening it says what is wrong
    return files


def _coco_files(json_path: Path) -> _Files:
    from visiondyno.datasets.coco import find_image, image_roots, read_json

    roots = image_roots(json_path)
    images = read_json(json_path).get("images")
    files: _Files = {json_path: json_path}
    for image in images if isinstance(images, list) else ():
        name = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(name, str):
            continue  # opening it says what is wrong
        if Path(name).is_absolute():
            raise DatasetError(
                f"{json_path} names an image by its place on this machine, {name:.100}; to send "
                "it, name the images from the folder of the JSON file."
            )
        found = Path(os.path.normpath(find_image(roots, name)))
        if found.is_file():
            files[found] = found
    return files


def _yolo_files(yaml_path: Path, splits: Collection[str | None]) -> _Files:
    """The splits, and the YAML with their sources named from its own folder."""
    import yaml

    from visiondyno.datasets.image_files import image_files
    from visiondyno.datasets.yolo_yaml import load_yaml, read_data_yaml

    files: _Files = {}
    document = load_yaml(yaml_path)
    for split in splits:
        config = read_data_yaml(yaml_path, split)
        for source in config.sources:
            if source.is_dir():
                files |= _with_labels(image_files(source))
            elif source.suffix == ".txt":
                files |= _listed(source)
        here = yaml_path.parent
        document[config.split] = [os.path.relpath(source, here) for source in config.sources]
    document.pop("path", None)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return files | {yaml_path: text.encode()}


def _listed(list_path: Path) -> _Files:
    """The images of a list with their labels, and the list with names from its own folder."""
    from visiondyno.datasets.yolo import listed_images

    images = [path for _, path in listed_images(list_path)]
    lines = [os.path.relpath(path, list_path.parent) for path in images]
    found = _with_labels(path for path in images if path.is_file())
    return found | {list_path: "\n".join(lines).encode()}


def _with_labels(images: Iterable[Path]) -> _Files:
    """Images, and all label files in the folders where theirs are: leftover ones are told of."""
    from visiondyno.datasets.yolo import label_path

    files: _Files = {}
    labels: set[Path] = set()
    for image in images:
        files[image] = image
        labels.add(label_path(image).parent)
    for folder in labels:
        if folder.is_dir():
            files.update((one, one) for one in folder.glob("*.txt"))
    return files


def _names_classes(path: Path) -> bool:
    return path.name == "classes.txt"


def _below_what_they_share(path: Path, files: _Files) -> FilesOfReference:
    """The files named from the folder above the one they share, whose name stays so."""
    shared = Path(os.path.commonpath([path if path.is_dir() else path.parent, *_folders(files)]))
    members = {
        place.relative_to(shared.parent).as_posix(): content for place, content in files.items()
    }
    bad = _unsendable(members)
    if bad is not None:
        raise DatasetError(f"{bad!r:.200} can't be sent under that name; rename it.")
    return FilesOfReference(members, path.relative_to(shared.parent).as_posix())


def _folders(files: _Files) -> set[Path]:
    return {place.parent for place in files}


def _not_plain(path: Path) -> str:
    return (
        f"{path} is a pipe, a device or a socket, which can't be sent; save what it gives to a "
        "file, and give that."
    )


def _unsendable(members: Iterable[str]) -> str | None:
    for name in members:
        text = PurePosixPath(name).as_posix()
        if _UNSENDABLE & set(text) or text.encode(errors="replace").decode() != text:
            return name
    return None
