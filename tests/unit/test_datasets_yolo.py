"""YOLO folders and data.yaml: each form, and each way it can be wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from dataset_factory import (
    BOXES,
    CLASSES,
    SIZES,
    encoded,
    with_exif_orientation,
    write_coco,
    write_images,
    write_yolo,
    yolo_lines,
)
from visiondyno.datasets.indexed import IndexedDataset
from visiondyno.datasets.registry import open_dataset
from visiondyno.datasets.splits import splits_at
from visiondyno.datasets.yolo import label_path
from visiondyno.errors import DatasetError
from visiondyno.predictions import BoxTruth


def truth_of(dataset: IndexedDataset, name: str) -> BoxTruth:
    for index in range(len(dataset)):
        if dataset.sample(index).path.name == name:
            truth = dataset.sample(index).truth
            assert isinstance(truth, BoxTruth)
            return truth
    raise KeyError(name)


def assert_all_there(dataset: IndexedDataset) -> None:
    assert dataset.format == "yolo"
    assert dataset.classes == CLASSES
    names = [dataset.sample(index).path.name for index in range(len(dataset))]
    assert names == sorted(SIZES)
    for name, labels in BOXES.items():
        truth = truth_of(dataset, name)
        assert truth.class_ids.tolist() == [class_id for class_id, _ in labels]
        np.testing.assert_allclose(
            truth.boxes_xyxy, np.reshape([box for _, box in labels], (-1, 4)), atol=1e-9
        )


def configure(root: Path, **changes: object) -> Path:
    """Rewrite data.yaml with changes; a key set to None is removed."""
    path = root / "data.yaml"
    config = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({k: v for k, v in config.items() if v is not None}))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_yolo(tmp_path / "data")
    return tmp_path / "data"


def test_same_truth_as_coco(root: Path, tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    coco, yolo = open_dataset(str(tmp_path / "coco")), open_dataset(str(root))
    for name in SIZES:
        a, b = truth_of(coco, name), truth_of(yolo, name)
        np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, atol=1e-9)
        np.testing.assert_allclose(a.areas, b.areas, atol=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"names": list(CLASSES)},
        {"names": list(CLASSES), "nc": 3},
        {"path": None},
        {"path": "/made/on/another/machine"},
        {"val": ["images/val"]},
        {"val": None, "valid": "images/val"},
        {"val": "../images/val", "path": None},
        {"train": "images/nowhere"},
    ],
)
def test_forms_of_data_yaml(root: Path, changes: dict[str, object]) -> None:
    path = configure(root, **changes)
    assert_all_there(open_dataset(str(root)))
    assert_all_there(open_dataset(str(path)))


def test_split_as_a_list_of_files(root: Path) -> None:
    (root / "val.txt").write_text("".join(f"./images/val/{name}\n" for name in SIZES))
    assert_all_there(open_dataset(str(configure(root, val="val.txt"))))
    (root / "val.txt").write_text("./images/val/a.jpg\n\n./images/val/b.png\n")
    assert len(open_dataset(str(root))) == 2, "labels of images not on the list are no error"
    (root / "val.txt").write_text("./images/val/a.jpg\n./images/val/gone.jpg\n")
    with pytest.raises(DatasetError, match=r"gone\.jpg is missing"):
        open_dataset(str(root))


def test_yaml_of_another_name(root: Path) -> None:
    (root / "data.yaml").rename(root / "street.yml")
    (root / "notes.yaml").write_text("[unfinished")
    assert_all_there(open_dataset(str(root)))
    shutil.copy(root / "street.yml", root / "second.yaml")
    with pytest.raises(DatasetError, match=r"give the path of one \(second.yaml, street.yml\)"):
        open_dataset(str(root))


def test_the_only_split_is_used_and_noted(root: Path) -> None:
    dataset = open_dataset(str(configure(root, val=None, train="images/val")))
    assert_all_there(dataset)
    assert dataset.notes == ("data.yaml has no val split: 'train' was used",)


@pytest.mark.parametrize("suffix", ["", "/data.yaml"])
def test_a_split_that_data_yaml_names_may_be_asked_for(root: Path, suffix: str) -> None:
    first = sorted((root / "images" / "val").iterdir())[0]
    (root / "few.txt").write_text(f"{first.relative_to(root)}\n")
    configure(root, train="few.txt")
    where = f"{root}{suffix}"
    assert splits_at(Path(where)) == ("train", "val")
    assert len(open_dataset(f"{where}:train")) == 1
    assert_all_there(open_dataset(f"{where}:val"))
    with pytest.raises(DatasetError, match=r"no split 'test': it names train, val"):
        open_dataset(f"{where}:test")


@pytest.mark.parametrize("where", ["", "labels"])
def test_images_and_labels_mirrored_with_class_names(root: Path, where: str) -> None:
    (root / "data.yaml").unlink()
    (root / where / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    assert_all_there(open_dataset(str(root)))


def test_labels_beside_the_images(tmp_path: Path) -> None:
    # A folder above that is called images must not turn the labels' path.
    root = tmp_path / "images" / "mine"
    write_images(root)
    for name in SIZES:
        (root / name).with_suffix(".txt").write_text(yolo_lines(name))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    assert_all_there(open_dataset(str(root)))


def test_label_path_turns_the_last_images() -> None:
    assert label_path(Path("/images/a/images/b/c.jpg")) == Path("/images/a/labels/b/c.txt")
    assert label_path(Path("a/b.jpg")) == Path("a/b.txt")


@pytest.mark.parametrize(
    ("line", "box", "area"),
    [
        # a.jpg is 64×48; a polygon, an oriented box, a class written as 1.0
        ("1 0.25 0.25 0.75 0.25 0.25 0.75", (16, 12, 48, 36), 32 * 24 / 2),
        ("1 0.5 0 1 0.5 0.5 1 0 0.5", (0, 0, 64, 48), 64 * 48 / 2),
        ("1.0 0.5 0.5 0.5 0.5", (16, 12, 48, 36), 32 * 24),
    ],
)
def test_rows_of_other_shapes(root: Path, line: str, box: tuple[float, ...], area: float) -> None:
    (root / "labels" / "val" / "a.txt").write_text(f"\ufeff\n{line}\n\n")
    truth = truth_of(open_dataset(str(root)), "a.jpg")
    assert truth.class_ids.tolist() == [1]
    np.testing.assert_allclose(truth.boxes_xyxy, [box])
    np.testing.assert_allclose(truth.areas, [area])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("car 0.5 0.5 0.1 0.1", "must be numbers, but is 'car"),
        ("3 0.5 0.5 0.1 0.1", "has class 3, but the data set names 3 classes, 0 to 2"),
        ("-1 0.5 0.5 0.1 0.1", "has class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "must start with a class number"),
        ("nan 0.5 0.5 0.1 0.1", "must start with a class number"),
        ("inf 0.5 0.5 0.1 0.1", "must start with a class number"),
        ("0", "has 0 numbers after the class"),
        ("0 0.5 0.5 0.1", "has 3 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", "has 5 numbers"),
        ("0 0.5 0.5 0 0.1", "0 × 4.8 pixels"),
        ("0 0.5 0.5 0.1 -0.1", "6.4 × -4.8 pixels"),
        ("0 0.99 0.5 0.1 0.1", "2.6 pixels outside the 64×48"),
        ("0 nan 0.5 0.1 0.1", "finite"),
        ("0 32 24 10 10", "isn't in fractions"),
    ],
)
def test_a_bad_line_is_told_or_its_image_left_out(root: Path, line: str, words: str) -> None:
    labels = root / "labels" / "val" / "a.txt"
    labels.write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset(str(root))
    assert caught.value.message.startswith(f"Line 2 of labels {labels}")
    dataset = open_dataset(str(root), skip_bad=True)
    assert [bad.path.name for bad in dataset.skipped] == ["a.jpg"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b"\x00\xff\xfe"), "aren't text"),
        (lambda path: (path.unlink(), path.mkdir()), "can't be read"),
    ],
)
def test_a_label_file_that_is_none(root: Path, make: Callable[[Path], object], words: str) -> None:
    make(root / "labels" / "val" / "a.txt")
    with pytest.raises(DatasetError, match=words):
        open_dataset(str(root))


def test_labels_whose_image_is_missing_are_noted(root: Path) -> None:
    assert open_dataset(str(root)).notes == ()
    (root / "images" / "val" / "b.png").unlink()
    dataset = open_dataset(str(root))
    assert dataset.notes == ("1 label files have no image and don't count, first b.txt",)
    assert (len(dataset), dataset.skipped) == (3, ())


def test_ids_stay_when_a_sample_is_left_out(root: Path) -> None:
    (root / "images" / "val" / "a.jpg").write_bytes(b"")
    dataset = open_dataset(str(root), skip_bad=True)
    assert [dataset.sample(index).image_id for index in range(3)] == [1, 2, 3]


def test_an_image_turned_by_exif_is_refused_if_labelled(root: Path) -> None:
    path = root / "images" / "val" / "a.jpg"
    path.write_bytes(with_exif_orientation(encoded(".jpg", 64, 48), 3))
    with pytest.raises(DatasetError, match="EXIF orientation 3"):
        open_dataset(str(root))
    (root / "labels" / "val" / "a.txt").unlink()
    assert len(open_dataset(str(root))) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": []}, "must list the classes"),
        ({"names": "car"}, "must list the classes"),
        ({"names": ["car", "car"]}, "a name twice"),
        ({"names": {0: "car", 2: "truck"}}, "number the classes from 0 to 1"),
        ({"names": None}, "no 'names'"),
        ({"nc": 5}, "'nc' in .* is 5, but 'names' has 3"),
        ({"path": 3}, "'path' in .* must be a folder"),
        ({"val": None}, "names no 'val' split .has no split"),
        ({"val": None, "train": "a", "test": "b"}, "has test and train"),
        ({"val": 3}, "must be a folder, a .txt list"),
        ({"val": "images/nowhere"}, "images/nowhere, but .* isn't there"),
        ({"val": "data.yaml"}, "neither a folder nor a .txt list"),
        ({"val": "labels"}, "holds no images"),
        ({"kpt_shape": [17, 3]}, "keypoints"),
    ],
)
def test_a_wrong_data_yaml_is_told(root: Path, changes: dict[str, object], words: str) -> None:
    path = configure(root, **changes)
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset(str(path))
    assert "data.yaml" in caught.value.message


@pytest.mark.parametrize("text", ["names: [car", "- just\n- a list\n", "\x00"])
def test_a_broken_data_yaml_is_told(root: Path, text: str) -> None:
    (root / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=r"data\.yaml"):
        open_dataset(str(root / "data.yaml"))


def test_a_list_that_is_no_text(root: Path) -> None:
    (root / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"Image list .*val\.txt can't be read"):
        open_dataset(str(configure(root, val="val.txt")))


def test_no_class_names(root: Path) -> None:
    (root / "data.yaml").unlink()
    with pytest.raises(DatasetError, match=r"no class names. Add classes\.txt"):
        open_dataset(str(root))
    (root / "classes.txt").write_text("car\ncar\n")
    with pytest.raises(DatasetError, match="one name a line, none twice"):
        open_dataset(str(root))


def test_no_labels_at_all(root: Path) -> None:
    for path in (root / "labels" / "val").iterdir():
        path.write_text("")
    with pytest.raises(DatasetError, match="has no labels"):
        open_dataset(str(root))
    shutil.rmtree(root / "labels")
    with pytest.raises(DatasetError, match="none of its 4 images has a label file"):
        open_dataset(str(root))
