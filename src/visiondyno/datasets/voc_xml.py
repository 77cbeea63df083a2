"""One Pascal VOC annotation file, read without trust: a document type or an entity is refused.

The format: VOC2012's development kit, section 4. Boxes are in pixels that count from 1, and both
corners belong to the box; here they become left, top, right, bottom from 0, the right and the
bottom edge outside: xmin - 1, ymin - 1, xmax, ymax.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

from visiondyno.datasets.boxes import Box
from visiondyno.errors import DatasetError

_MAX_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class VocObject:
    """One labelled object.

    Attributes:
        name: of its class.
        box: left, top, right, bottom in pixels from 0.
        difficult: whether VOC leaves it out of the evaluation.
        at_zero: whether a corner is given as 0, which can't be where pixels count from 1.
    """

    name: str
    box: Box
    difficult: bool
    at_zero: bool


@dataclass(frozen=True, slots=True)
class VocAnnotation:
    """One annotation file.

    Attributes:
        size: width and height as it says, or None where it says none (or 0).
        objects: in the file's order; the parts of a person don't count.
    """

    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]


def read_voc_xml(path: Path) -> VocAnnotation:
    """The annotation in `path`.

    Raises:
        DatasetError: it can't be read, isn't XML, has a document type, or isn't as VOC writes it.
    """
    root = _parse(path)
    if root.tag != "annotation":
        raise DatasetError(
            f"Labels {path} aren't Pascal VOC: <annotation> was expected, not <{root.tag:.40}>"
        )
    objects = tuple(
        _object(item, f"Object {number} of labels {path}")
        for number, item in enumerate(root.findall("object"), start=1)
    )
    return VocAnnotation(_size(root, path), objects)


def _parse(path: Path) -> Element:
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        # Entities grow without bound ("billion laughs") or name other files; labels need none.
        raise DatasetError(
            f"Labels {path} have a document type, which isn't read. Remove the line <!DOCTYPE …>"
        )

    parser.StartDoctypeDeclHandler = refuse
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DatasetError(
                f"Labels {path} are {path.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read"
            )
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except FileNotFoundError:
        raise DatasetError(
            f"Labels {path} are missing. Restore the file or take its image off the list"
        ) from None
    except OSError as error:
        raise DatasetError(f"Labels {path} can't be read: {error.strerror}") from None
    except (expat.ExpatError, ParseError, AssertionError, ValueError, LookupError) as error:
        raise DatasetError(
            f"Labels {path} aren't valid XML: {error}. Is the file complete?"
        ) from None


def _size(root: Element, path: Path) -> tuple[int, int] | None:
    size = root.find("size")
    if size is None:
        return None
    width, height = (
        _number(size, side, f"<{side}> in <size> of labels {path}") for side in ("width", "height")
    )
    # Some tools write 0 where they don't know.
    return (int(width), int(height)) if width and height else None


def _object(item: Element, where: str) -> VocObject:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise DatasetError(f"{where} has no <name>")
    box = item.find("bndbox")
    if box is None:
        raise DatasetError(f"{where}, '{name}', has no <bndbox>: only boxes are read")
    left, top, right, bottom = (
        _number(box, side, f"<{side}> of {where[0].lower()}{where[1:]}")
        for side in ("xmin", "ymin", "xmax", "ymax")
    )
    return VocObject(
        name=name,
        box=(left - 1, top - 1, right, bottom),
        difficult=(item.findtext("difficult") or "0").strip() == "1",
        at_zero=left == 0 or top == 0,
    )


def _number(parent: Element, tag: str, what: str) -> float:
    text = (parent.findtext(tag) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{what} must be a number, but is '{text:.40}'")
    return value
