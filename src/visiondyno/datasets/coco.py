"""COCO JSON: `images`, `annotations` and `categories` in one file.

The format: https://cocodataset.org/#format-data (object detection). Category ids may be any
integers; classes take the order of the ids. Segments aren't read, but `area` is used as given,
because COCO's small, medium and large are sizes of segments.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from visiondyno.datasets.base import Sample, SkippedSample
from visiondyno.datasets.boxes import Box, box_problem, box_truth, coco_to_xyxy
from visiondyno.datasets.header import read_header
from visiondyno.datasets.indexed import Candidate, IndexedDataset, OpenOptions
from visiondyno.errors import DatasetError
from visiondyno.predictions import BoxTruth

Document = dict[str, Any]


def open_coco(json_path: Path, options: OpenOptions) -> IndexedDataset:
    """Open the data set that `json_path` describes.

    An image is searched, in this order: at its `file_name` from the JSON's folder, from `images/`
    in it, and where the JSON lies in a folder `annotations`, the same from the folder above and
    from the folder above's split folder (`val2017/` for `instances_val2017.json`).

    Args:
        json_path: the JSON file.
        options: reference, skipping and limit.

    Raises:
        DatasetError: the JSON is broken, or a sample is bad and `skip_bad` is off.
    """
    find = partial(find_image, image_roots(json_path))
    return open_coco_document(json_path, read_json(json_path), options, form="coco", find=find)


def open_coco_document(
    json_path: Path,
    document: Document,
    options: OpenOptions,
    *,
    form: str,
    find: Callable[[str], Path],
    notes: tuple[str, ...] = (),
) -> IndexedDataset:
    """Open the data set of COCO labels that are read already.

    Args:
        json_path: where `document` was read, for messages.
        document: the JSON object.
        options: reference, skipping and limit.
        form: what the data set calls its format.
        find: from an image's `file_name` to its file, there or not.
        notes: what a reader of the report must know.

    Raises:
        DatasetError: the labels are wrong, or a sample is bad and `skip_bad` is off.
    """
    reader = _Reader(json_path, document, find)
    return IndexedDataset(
        options,
        form,
        reader.class_names,
        reader.candidates(),
        bad_labels=reader.orphans(skip_bad=options.skip_bad),
        notes=notes,
    )


def read_json(path: Path) -> Document:
    """The JSON object in `path`.

    Raises:
        DatasetError: it can't be read, isn't JSON or isn't an object.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"Labels {path} can't be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"Labels {path} aren't valid JSON: {error.msg}, line {error.lineno} column "
            f"{error.colno}. Is the file complete?"
        ) from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"Labels {path} aren't valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise DatasetError(f"Labels {path} aren't COCO JSON: an object was expected")
    return document


class _Reader:
    """One JSON file, its parts indexed by id; what's wrong with one image waits for its turn."""

    def __init__(self, path: Path, document: Document, find: Callable[[str], Path]) -> None:
        self._path = path
        self._find = find
        categories = _categories(path, _objects(path, document, "categories"))
        self.class_names = tuple(name for _, name in categories)
        self._class_ids = {category: index for index, (category, _) in enumerate(categories)}
        self._images = _objects(path, document, "images")
        self._by_image: dict[int, list[Document]] = defaultdict(list)
        for annotation in _objects(path, document, "annotations"):
            image_id = _whole(annotation.get("image_id"), self._of(annotation, "image_id"))
            self._by_image[image_id].append(annotation)
        self._uses: dict[int, int] = defaultdict(int)
        for image in self._images:
            self._uses[_whole(image.get("id"), f"an image's id in {path}")] += 1
            if not isinstance(image.get("file_name"), str) or not image["file_name"]:
                raise DatasetError(f"Image {image['id']} in {path} has no file_name")

    def candidates(self) -> Iterator[Candidate]:
        for image in sorted(self._images, key=lambda image: (image["file_name"], image["id"])):
            path = self._find(image["file_name"])
            yield Candidate(path, partial(self._sample, image, path))

    def orphans(self, *, skip_bad: bool) -> tuple[SkippedSample, ...]:
        """Annotations of an image that isn't listed."""
        skipped = []
        for image_id in self._by_image.keys() - self._uses.keys():
            annotation = self._by_image[image_id][0]
            reason = (
                f"{self._of(annotation, 'image_id')} is {image_id}, which isn't among its images"
            )
            if not skip_bad:
                raise DatasetError(reason)
            skipped.append(SkippedSample(self._path, reason))
        return tuple(sorted(skipped, key=lambda bad: bad.reason))

    def _of(self, annotation: Document, key: str) -> str:
        return f"The {key} of annotation {annotation.get('id', '(no id)')} in {self._path}"

    def _sample(self, image: Document, path: Path) -> Sample:
        if self._uses[image["id"]] > 1:
            raise DatasetError(
                f"Image id {image['id']} stands for {self._uses[image['id']]} images in "
                f"{self._path}, one is {image['file_name']}. Give each its own id"
            )
        header = read_header(path)
        labelled = tuple(image.get(side, getattr(header, side)) for side in ("width", "height"))
        if labelled != (header.width, header.height):
            rotated = labelled == (header.height, header.width) and header.orientation >= 5
            advice = (
                "Its EXIF tag rotates it: rotate the pixels themselves and drop the tag"
                if rotated
                else "Its labels may not fit it"
            )
            raise DatasetError(
                f"Image {path} is {header.width}×{header.height} pixels, but {self._path.name} "
                f"says {labelled[0]}×{labelled[1]}. {advice}"
            )
        truth = self._truth(image["id"], header.width, header.height)
        return Sample(image["id"], path, header.width, header.height, truth)

    def _truth(self, image_id: int, width: int, height: int) -> BoxTruth:
        boxes, class_ids, areas, crowds = [], [], [], []
        for annotation in self._by_image.get(image_id, ()):
            category = annotation.get("category_id")
            if not isinstance(category, int) or category not in self._class_ids:
                raise DatasetError(
                    f"{self._of(annotation, 'category_id')} is {category!r}, "
                    "which isn't among its categories"
                )
            box = self._box(annotation, width, height)
            boxes.append(box)
            class_ids.append(self._class_ids[category])
            areas.append(self._area(annotation, box))
            crowds.append(bool(annotation.get("iscrowd", 0)))
        return box_truth(boxes, class_ids, areas, crowds)

    def _box(self, annotation: Document, width: int, height: int) -> Box:
        given = annotation.get("bbox")
        if not isinstance(given, list) or len(given) != 4 or not all(map(_is_number, given)):
            raise DatasetError(
                f"{self._of(annotation, 'bbox')} must be four numbers "
                f"(left, top, width, height), but is {given!r:.80}"
            )
        left, top, box_width, box_height = map(float, given)
        box = coco_to_xyxy((left, top, box_width, box_height))
        if problem := box_problem(box, width, height):
            raise DatasetError(
                f"Annotation {annotation.get('id', '(no id)')} of image "
                f"{annotation['image_id']} in {self._path} is wrong: {problem}"
            )
        return box

    def _area(self, annotation: Document, box: Box) -> float:
        area = annotation.get("area")
        if area is None:
            return (box[2] - box[0]) * (box[3] - box[1])
        if not _is_number(area) or not 0 <= area < float("inf"):
            raise DatasetError(
                f"{self._of(annotation, 'area')} must be a number of at least 0, "
                f"but is {area!r:.80}"
            )
        return float(area)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise DatasetError(f"{what[0].upper()}{what[1:]} must be a whole number, but is {value!r}")
    return value


def _objects(path: Path, document: Document, key: str) -> list[Document]:
    values = document.get(key)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DatasetError(f"Labels {path} aren't COCO JSON: '{key}' must be a list of objects")
    return values


def _categories(path: Path, objects: list[Document]) -> list[tuple[int, str]]:
    found: dict[int, str] = {}
    for category in objects:
        number = _whole(category.get("id"), f"a category's id in {path}")
        name = category.get("name")
        if not isinstance(name, str) or not name.strip():
            raise DatasetError(f"Category {number} in {path} has no name")
        if number in found or name in found.values():
            raise DatasetError(f"Category {number} '{name}' in {path} stands there twice")
        found[number] = name
    if not found:
        raise DatasetError(f"Labels {path} list no categories, so no class can be scored")
    return sorted(found.items())


def find_image(roots: list[Path], name: str) -> Path:
    """The file of an image: in the first root that has it; in the first where none has."""
    return next((root / name for root in roots if (root / name).is_file()), roots[0] / name)


def image_roots(path: Path) -> list[Path]:
    """The folders in which images of the COCO JSON at `path` are searched, in order."""
    roots = [path.parent, path.parent / "images"]
    if path.parent.name == "annotations":
        above = path.parent.parent
        split = path.stem.rpartition("_")[2]
        roots += [above, above / "images", above / split, above / "images" / split]
    return [root for root in roots if root.is_dir()]
