"""Pascal VOC folders: boxes, splits, difficult objects, and XML that can't be trusted."""

from pathlib import Path

import numpy as np
import pytest

from dataset_factory import BOXES, CLASSES, SIZES, voc_xml, with_exif_orientation, write_voc
from visiondyno.datasets.indexed import class_counts
from visiondyno.datasets.registry import open_dataset
from visiondyno.datasets.voc_xml import read_voc_xml
from visiondyno.errors import DatasetError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_voc(tmp_path / "voc")
    return tmp_path / "voc"


def edit(root: Path, old: str, new: str, name: str = "a") -> None:
    path = root / "Annotations" / f"{name}.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_inclusive_boxes_from_1_become_corners_from_0(root: Path) -> None:
    dataset = open_dataset(str(root))
    assert (dataset.format, dataset.classes) == ("voc", tuple(sorted(CLASSES)))
    for index, name in enumerate(sorted(SIZES)):
        sample = dataset.sample(index)
        assert sample.path.name == name
        wanted = np.array([box for _, box in BOXES[name]]).reshape(-1, 4)
        np.testing.assert_array_equal(sample.truth.boxes_xyxy, wanted)
        names = [dataset.classes[class_id] for class_id in sample.truth.class_ids]
        assert names == [CLASSES[class_id] for class_id, _ in BOXES[name]]
        sides = wanted[:, 2:] - wanted[:, :2]
        np.testing.assert_array_equal(sample.truth.areas, sides.prod(axis=1))
    assert dataset.notes == ()


def test_a_whole_image_s_box_is_the_whole_image(root: Path) -> None:
    """VOC's own example: a box over everything is 1, 1, width, height."""
    box = open_dataset(str(root)).sample(1).truth.boxes_xyxy[0]
    assert tuple(box) == (0, 0, *SIZES["b.png"])


def test_difficult_objects_are_neither_counted_nor_wrong(root: Path) -> None:
    (root / "Annotations" / "a.xml").write_text(voc_xml("a.jpg", difficult=(1,)))
    dataset = open_dataset(str(root))
    assert dataset.sample(0).truth.is_crowd.tolist() == [False, True]
    assert class_counts(dataset)["stop sign"] == 0
    assert "1 objects are marked difficult" in dataset.notes[0]


def test_boxes_from_0_are_noted(root: Path) -> None:
    edit(root, "<xmin>2.0<", "<xmin>0<")
    assert "start at 0" in open_dataset(str(root)).notes[0]


@pytest.mark.parametrize(
    ("lists", "reference", "wanted"),
    [
        ({"val": "a\nd\n", "train": "b\n"}, "", ["a.jpg", "d.webp"]),
        ({"test": "b\n", "trainval": "a\n"}, "", ["b.png"]),
        ({"val": "a\n", "train": "b\nc -1\n"}, ":train", ["b.png", "c.bmp"]),
        ({"car_val": "a 1\n", "trainval": "a\n"}, "", ["a.jpg"]),
    ],
)
def test_lists_choose_the_images(
    root: Path, lists: dict[str, str], reference: str, wanted: list[str]
) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, text in lists.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    dataset = open_dataset(f"{root}{reference}")
    assert [dataset.sample(index).path.name for index in range(len(dataset))] == wanted
    assert "ImageSets/Main/" in dataset.notes[0]


def test_images_in_images_and_what_has_no_annotation(root: Path) -> None:
    (root / "JPEGImages").rename(root / "images")
    (root / "Annotations" / "c.xml").unlink()
    dataset = open_dataset(str(root))
    assert len(dataset) == 3
    assert dataset.notes == ("1 images have no annotation file and don't count, first c",)


def test_parts_of_a_person_are_no_objects(root: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
    edit(root, "</object>", part)
    assert open_dataset(str(root)).classes == tuple(sorted(CLASSES))


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
    "<annotation><object><name>&b;</name></object></annotation>"
)
OUTSIDE = (
    '<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///etc/passwd">'
    "<annotation><object><name>car</name></object></annotation>"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "document type"),
        (OUTSIDE, "document type"),
        ("<annotation><object>", "aren't valid XML"),
        ("<annotation>&nope;</annotation>", "aren't valid XML"),
        ("", "aren't valid XML"),
        ("<svg/>", "<annotation> was expected, not <svg>"),
        ("<annotation><object/></annotation>", "Object 1 .* has no <name>"),
        ("<annotation><object><name>car</name></object></annotation>", "has no <bndbox>"),
    ],
)
def test_a_bad_file_is_named_or_left_out(root: Path, text: str, words: str) -> None:
    (root / "Annotations" / "b.xml").write_text(text)
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset(str(root))
    assert "b.xml" in caught.value.message
    dataset = open_dataset(str(root), skip_bad=True)
    assert [bad.path.name for bad in dataset.skipped] == ["b.png"]
    assert len(dataset) == 3


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<xmin>2.0<", "<xmin>much<", "<xmin> of object 1 .* must be a number, but is 'much'"),
        ("<xmin>2.0<", "<xmin>nan<", "must be a number"),
        ("<xmax>31.0<", "<xmax>310<", "Object 1 of labels .* reaches 246.0 pixels outside"),
        ("<xmax>31.0<", "<xmax>1<", "no area"),
        ("<width>64<", "<width>65<", "is 64×48 pixels, but a.xml says 65×48"),
        ("<width>64<", "<width>wide<", "<width> in <size> .* must be a number"),
    ],
)
def test_bad_numbers_are_named(root: Path, old: str, new: str, words: str) -> None:
    edit(root, old, new)
    with pytest.raises(DatasetError, match=words):
        open_dataset(str(root))


def test_a_size_that_says_nothing_is_no_size(root: Path) -> None:
    edit(root, "<width>64<", "<width>0<")
    edit(root, "<size>", "<ignored>", "b")
    edit(root, "</size>", "</ignored>", "b")
    assert len(open_dataset(str(root))) == 4


def test_images_that_do_not_fit(root: Path) -> None:
    images = root / "JPEGImages"
    jpeg = images / "a.jpg"
    upright = jpeg.read_bytes()
    jpeg.write_bytes(with_exif_orientation(upright, 3))
    with pytest.raises(DatasetError, match="EXIF orientation 3"):
        open_dataset(str(root))
    jpeg.write_bytes(upright)
    (images / "a.png").write_bytes((images / "b.png").read_bytes())
    with pytest.raises(DatasetError, match=r"a\.jpg or a\.png: remove one"):
        open_dataset(str(root))
    (images / "a.png").unlink()
    jpeg.unlink()
    with pytest.raises(DatasetError, match=r"a\.jpg is missing"):
        open_dataset(str(root))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("../../secret\n", "isn't in the data set"),
        ("/etc/passwd\n", "isn't in the data set"),
        ("nothere\n", "nothere.xml are missing"),
    ],
)
def test_bad_lists(root: Path, text: str, words: str) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "val.txt").write_text(text)
    with pytest.raises(DatasetError, match=words):
        open_dataset(str(root))
    with pytest.raises(DatasetError, match="no split 'night': its lists are val"):
        open_dataset(f"{root}:night")


def test_a_list_that_is_no_text(root: Path) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "val.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DatasetError, match="can't be read"):
        open_dataset(str(root))


def test_a_file_too_large_to_be_labels(tmp_path: Path) -> None:
    with (tmp_path / "a.xml").open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(DatasetError, match="at most 16,777,216 are read"):
        read_voc_xml(tmp_path / "a.xml")
