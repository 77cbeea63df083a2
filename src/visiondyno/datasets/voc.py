"""Pascal VOC folders: `Annotations/*.xml`, images in `JPEGImages/` or `images/`, lists of splits.

VOC leaves objects marked `difficult` out of its evaluation: finding one is neither rewarded nor
punished. The nearest that COCO's evaluation has is a crowd, so that is what they become. One
difference remains: a detection meets a crowd by the share of *its own* area that lies inside, where
VOC compares a difficult object by intersection over union as any other, so that a detection of a
part of a difficult object is forgiven here and counts as wrong there.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from visiondyno.datasets.base import Sample
from visiondyno.datasets.boxes import box_problem, box_truth
from visiondyno.datasets.header import read_header
from visiondyno.datasets.image_files import image_files
from visiondyno.datasets.indexed import Candidate, IndexedDataset, OpenOptions
from visiondyno.datasets.voc_xml import VocAnnotation, read_voc_xml
from visiondyno.errors import DatasetError

ANNOTATIONS = "Annotations"
_IMAGE_FOLDERS = ("JPEGImages", "images")
_SPLITS = ("val", "test", "trainval", "train")

_Read = VocAnnotation | DatasetError


def is_voc_folder(folder: Path) -> bool:
    """Whether `folder` has the folders that VOC has."""
    return (folder / ANNOTATIONS).is_dir() and _image_folder(folder) is not None


def open_voc(folder: Path, options: OpenOptions) -> IndexedDataset:
    """Open a VOC folder.

    Its images are those of `ImageSets/Main/SPLIT.txt`; where no split is named, of the first of
    `val`, `test`, `trainval` and `train` that there is; without lists, of every annotation file.
    Classes are the names in those annotations, sorted (VOC's own order).

    Raises:
        DatasetError: there's no such split, the list is empty, or a sample is bad and `skip_bad`
            is off.
    """
    images = _images_by_stem(folder)
    names, notes = _listed(folder, options.split)
    read = {name: _read(folder / ANNOTATIONS / f"{name}.xml") for name in names}
    good = [annotation for annotation in read.values() if isinstance(annotation, VocAnnotation)]
    classes = tuple(sorted({item.name for annotation in good for item in annotation.objects}))
    first = next((found for found in read.values() if isinstance(found, DatasetError)), None)
    if not classes and first is not None and not options.skip_bad:
        raise first
    return IndexedDataset(
        options,
        "voc",
        classes,
        _candidates(folder, read, images, classes),
        notes=(
            *notes,
            *_about_objects(good),
            *_about_unlabelled(folder, options.split, names, images),
        ),
    )


def _image_folder(folder: Path) -> Path | None:
    return next((folder / name for name in _IMAGE_FOLDERS if (folder / name).is_dir()), None)


def _images_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Images by their path without suffix from the folder of images."""
    root = _image_folder(folder)
    assert root is not None, "is_voc_folder was asked first"
    found: dict[str, list[Path]] = {}
    for path in sorted(image_files(root)):
        found.setdefault(path.relative_to(root).with_suffix("").as_posix(), []).append(path)
    return found


def _listed(folder: Path, split: str | None) -> tuple[list[str], tuple[str, ...]]:
    """Names of the images in use, sorted, and what a reader must know about the choice."""
    lists = folder / "ImageSets" / "Main"
    if split is None:
        split = next((name for name in _SPLITS if (lists / f"{name}.txt").is_file()), None)
    if split is None:
        root = folder / ANNOTATIONS
        names = (path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.xml"))
        found = sorted(names)
        if not found:
            raise DatasetError(f"Pascal VOC folder {folder} has no labels: {root} holds no .xml")
        return found, ()
    path = lists / f"{split}.txt"
    if not path.is_file():
        known = sorted(found.stem for found in lists.glob("*.txt"))
        has = f"its lists are {', '.join(known)}" if known else "it has no ImageSets/Main/*.txt"
        raise DatasetError(f"Data set {folder} has no split '{split}': {has}")
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"Image list {path} can't be read: {error}") from None
    names_listed = sorted({line.split()[0] for line in lines if line.strip()})
    if not names_listed:
        raise DatasetError(f"Image list {path} is empty: it must name an image a line")
    for name in names_listed:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DatasetError(f"Image list {path} names '{name:.80}', which isn't in the data set")
    return names_listed, (f"Its images are those of the list ImageSets/Main/{split}.txt",)


def _read(path: Path) -> _Read:
    try:
        return read_voc_xml(path)
    except DatasetError as error:
        return error


def _candidates(
    folder: Path,
    read: dict[str, _Read],
    images: dict[str, list[Path]],
    classes: tuple[str, ...],
) -> Iterator[Candidate]:
    root = _image_folder(folder)
    assert root is not None, "is_voc_folder was asked first"
    for image_id, (name, annotation) in enumerate(read.items()):
        found = images.get(name, [])
        path = found[0] if found else root / f"{name}.jpg"
        labels = folder / ANNOTATIONS / f"{name}.xml"
        yield Candidate(
            path, partial(_sample, image_id, found or [path], annotation, labels, classes)
        )


def _sample(
    image_id: int, paths: list[Path], annotation: _Read, labels: Path, classes: tuple[str, ...]
) -> Sample:
    if isinstance(annotation, DatasetError):
        raise annotation
    if len(paths) > 1:
        raise DatasetError(
            f"Labels {labels} could belong to {paths[0].name} or {paths[1].name}: remove one"
        )
    (path,) = paths
    header = read_header(path)
    width, height = header.width, header.height
    if annotation.size is not None and annotation.size != (width, height):
        raise DatasetError(
            f"Image {path} is {width}×{height} pixels, but {labels.name} says "
            f"{annotation.size[0]}×{annotation.size[1]}. Its labels may not fit it"
        )
    if header.orientation != 1 and annotation.objects:
        raise DatasetError(
            f"Image {path} has EXIF orientation {header.orientation}, so its labels may belong to "
            "the turned image. Turn the pixels themselves and drop the tag"
        )
    for number, item in enumerate(annotation.objects, start=1):
        if problem := box_problem(item.box, width, height):
            raise DatasetError(f"Object {number} of labels {labels} is wrong: {problem}")
    boxes = [item.box for item in annotation.objects]
    truth = box_truth(
        boxes,
        [classes.index(item.name) for item in annotation.objects],
        [(right - left) * (bottom - top) for left, top, right, bottom in boxes],
        [item.difficult for item in annotation.objects],
    )
    return Sample(image_id, path, width, height, truth)


def _about_objects(annotations: Sequence[VocAnnotation]) -> Iterator[str]:
    objects = [item for annotation in annotations for item in annotation.objects]
    if difficult := sum(item.difficult for item in objects):
        yield (
            f"{difficult} objects are marked difficult: they are treated as COCO's crowds, neither "
            "rewarded nor punished"
        )
    if at_zero := sum(item.at_zero for item in objects):
        yield (
            f"{at_zero} boxes start at 0, which can't be where pixels count from 1 as VOC's do: "
            "the tool that wrote them may count from 0, and then all boxes are 1 pixel off"
        )


def _about_unlabelled(
    folder: Path, split: str | None, names: list[str], images: dict[str, list[Path]]
) -> Iterator[str]:
    """A note on images that no annotation stands for, where every annotation is in use."""
    if split is not None or (folder / "ImageSets" / "Main").is_dir():
        return
    left = sorted(images.keys() - set(names))
    if left:
        yield f"{len(left)} images have no annotation file and don't count, first {left[0]}"
