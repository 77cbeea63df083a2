"""One YOLO label file: a line an object, `class x y width height`, fractions of the image.

A line may hold a polygon instead, `class x1 y1 x2 y2 x3 y3 …` (Ultralytics' segments and oriented
boxes): the box around it counts, and its area decides between small, medium and large.
"""

from collections.abc import Sequence
from pathlib import Path

from visiondyno.datasets.boxes import (
    Box,
    box_problem,
    box_truth,
    polygon_area,
    polygon_box,
    yolo_to_xyxy,
)
from visiondyno.errors import DatasetError
from visiondyno.predictions import BoxTruth


def read_labels(path: Path, classes: int, width: int, height: int) -> BoxTruth:
    """The labels in `path` of a `width` × `height` image; no file means no objects.

    Raises:
        DatasetError: a line is wrong; the message names file and line.
    """
    boxes: list[Box] = []
    class_ids: list[int] = []
    areas: list[float] = []
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        where = f"Line {number} of labels {path}"
        values = _numbers(fields, where)
        class_ids.append(_class_id(values[0], classes, where))
        box, area = _shape(values[1:], width, height, where)
        if problem := box_problem(box, width, height):
            raise DatasetError(f"{where} is wrong: {problem}")
        boxes.append(box)
        areas.append(area)
    return box_truth(boxes, class_ids, areas)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DatasetError(f"Labels {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DatasetError(f"Labels {path} aren't text: lines of numbers were expected") from None


def _numbers(fields: Sequence[str], where: str) -> list[float]:
    try:
        return [float(field) for field in fields]
    except ValueError:
        raise DatasetError(f"{where} must be numbers, but is '{' '.join(fields):.80}'") from None


def _class_id(value: float, classes: int, where: str) -> int:
    if not value.is_integer():
        raise DatasetError(f"{where} must start with a class number, but starts with {value:g}")
    if not 0 <= value < classes:
        raise DatasetError(
            f"{where} has class {value:.0f}, but the data set names {classes} classes, "
            f"0 to {classes - 1}"
        )
    return int(value)


def _shape(values: Sequence[float], width: int, height: int, where: str) -> tuple[Box, float]:
    if len(values) == 4:
        box = yolo_to_xyxy((values[0], values[1], values[2], values[3]), width, height)
        area = (box[2] - box[0]) * (box[3] - box[1])
    elif len(values) >= 6 and len(values) % 2 == 0:
        points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)]
        box, area = polygon_box(points), polygon_area(points)
    else:
        raise DatasetError(
            f"{where} has {len(values)} numbers after the class: 4 make a box, 6 or more, "
            "in pairs, a polygon"
        )
    if max(values) > 2:
        raise DatasetError(
            f"{where} isn't in fractions of the image: {max(values):g} was found. "
            "Divide pixels by the image's width and height"
        )
    return box, area
