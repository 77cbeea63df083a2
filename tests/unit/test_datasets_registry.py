"""Dataset references: built-in names, paths, and folders by content."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dataset_factory import (
    CLASSES,
    SIZES,
    coco_document,
    encoded,
    write_coco,
    write_depth,
    write_idx,
    write_image_folder,
    write_images,
    write_voc,
    write_yolo,
)
from visiondyno.datasets.image_files import image_files
from visiondyno.datasets.registry import builtin_datasets, default_cache_dir, open_dataset
from visiondyno.errors import DatasetError


@pytest.fixture
def street(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, Path]]:
    """What was asked of the street renderer, which here writes the tests' own small data set."""
    asked: list[tuple[str, int, Path]] = []

    def ensure_street(split: str, count: int, cache_dir: Path, *, on_progress=None) -> Path:
        asked.append((split, count, cache_dir))
        if on_progress:
            on_progress(count, count)
        folder = cache_dir / f"{split}-{count}"
        write_images(folder / "images")
        (folder / "annotations.json").write_text(json.dumps(coco_document()))
        return folder

    module = ModuleType("visiondyno.datasets.street")
    module.ensure_street = ensure_street  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "visiondyno.datasets.street", module)
    return asked


@pytest.mark.parametrize(
    ("reference", "split", "count"),
    [
        ("street", "val", 500),
        ("street:val", "val", 500),
        ("street:train", "train", 4000),
        ("street:demo", "demo", 200),
        ("street:demo:7", "demo", 7),
    ],
)
def test_built_in_names(
    tmp_path: Path, street: list[tuple[str, int, Path]], reference: str, split: str, count: int
) -> None:
    dataset = open_dataset(reference, cache_dir=tmp_path)
    assert street == [(split, count, tmp_path)]
    assert (dataset.reference, dataset.classes, len(dataset)) == (reference, CLASSES, len(SIZES))


def test_built_in_data_is_cached_where_the_system_caches(
    tmp_path: Path, street: list[tuple[str, int, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    open_dataset("street:demo:3", max_images=1)
    assert street[0][2] == tmp_path / "visiondyno" == default_cache_dir()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somebody")
    assert default_cache_dir() == Path("/somebody/.cache/visiondyno")


def test_making_built_in_data_tells_its_progress(
    tmp_path: Path, street: list[tuple[str, int, Path]]
) -> None:
    told: list[tuple[int, int]] = []
    open_dataset("street:demo:9", cache_dir=tmp_path, on_progress=lambda *at: told.append(at))
    assert told == [(9, 9)]


def test_street_itself_opens(tmp_path: Path) -> None:
    dataset = open_dataset("street:demo:2", cache_dir=tmp_path)
    assert (len(dataset), dataset.task) == (2, "detection")
    assert dataset.digest == open_dataset("street:demo:2", cache_dir=tmp_path).digest


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("street:night", "SPLIT one of train, val, demo"),
        ("street:", "SPLIT one of"),
        ("street:val:1:2", "SPLIT one of"),
        ("street:val:0", "from 1 to 100000"),
        ("street:val:many", "from 1 to 100000"),
        ("street:val:²", "from 1 to 100000"),
        ("street:val:100001", "from 1 to 100000"),
    ],
)
def test_a_wrong_built_in_reference_is_told(reference: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset(reference)
    assert reference in caught.value.message


def test_built_in_data_sets_describe_themselves() -> None:
    for builtin in builtin_datasets():
        assert builtin.default_split in builtin.splits
        assert builtin.description


def test_a_folder_named_like_a_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image_folder(tmp_path / "street")
    monkeypatch.chdir(tmp_path)
    assert open_dataset("./street").format == "image-folder"


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(tmp_path / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_dataset("~/data").reference == "~/data"


def test_each_format_is_recognised(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    write_yolo(tmp_path / "yolo")
    write_image_folder(tmp_path / "folder")
    write_voc(tmp_path / "voc")
    write_depth(tmp_path / "depth")
    write_idx(tmp_path / "idx", {"train": 10})
    wanted = {
        "coco": "coco",
        "yolo": "yolo",
        "folder": "image-folder",
        "voc": "voc",
        "depth": "depth-folder",
        "idx": "idx",
    }
    for name, form in wanted.items():
        found = open_dataset(str(tmp_path / name), cache_dir=tmp_path / "cache")
        assert found.format == form


def test_coco_json_wins_over_pascal_voc(tmp_path: Path) -> None:
    write_voc(tmp_path / "both")
    (tmp_path / "both" / "JPEGImages").rename(tmp_path / "both" / "images")
    (tmp_path / "both" / "labels.json").write_text(json.dumps(coco_document()))
    assert open_dataset(str(tmp_path / "both")).format == "coco"


def test_a_split_of_a_folder_of_splits(tmp_path: Path) -> None:
    splits(tmp_path / "data")
    dataset = open_dataset(f"{tmp_path / 'data'}:val")
    assert (len(dataset), dataset.format) == (4, "image-folder")
    assert dataset.digest == open_dataset(str(tmp_path / "data" / "val")).digest
    with pytest.raises(DatasetError, match="no split 'test': it has the folders train, val"):
        open_dataset(f"{tmp_path / 'data'}:test")


def test_a_colon_in_a_name_is_no_split(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "a:val")
    assert len(open_dataset(str(tmp_path / "a:val"))) == 4


def test_all_classes_in_a_prefix_are_not_noted(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "data")
    (tmp_path / "data" / "eel").rmdir()
    assert open_dataset(str(tmp_path / "data"), max_images=4).notes == ()
    note = "The first 2 images, by name, are of 1 of 2 classes only"
    assert open_dataset(str(tmp_path / "data"), max_images=2).notes == (note,)


def test_image_folder_classes_are_torchvision_s(tmp_path: Path) -> None:
    for name in ("b", "B", "a b", "a", "10", "9", ".hidden"):
        (tmp_path / "root" / name / "deep").mkdir(parents=True)
        (tmp_path / "root" / name / "deep" / "x.jpg").write_bytes(encoded(".jpg", 8, 8))
    (tmp_path / "root" / "a" / "notes.txt").write_text("no image")
    dataset = open_dataset(str(tmp_path / "root"))
    assert dataset.classes == ("10", "9", "B", "a", "a b", "b")
    assert [dataset.sample(index).truth.class_id for index in range(6)] == list(range(6))


def test_image_folder_order_is_torchvision_s_own(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    write_image_folder(tmp_path / "root")
    (tmp_path / "root" / "eel" / "z.png").write_bytes(encoded(".png", 8, 8))
    theirs = datasets.ImageFolder(str(tmp_path / "root"))
    ours = open_dataset(str(tmp_path / "root"))
    assert list(ours.classes) == theirs.classes
    found = [ours.sample(index) for index in range(len(ours))]
    assert [(str(item.path), item.truth.class_id) for item in found] == theirs.samples


def test_links_that_lead_up_end(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "root")
    (tmp_path / "root" / "cat" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.jpg").write_bytes(encoded(".jpg", 8, 8))
    (tmp_path / "root" / "dog" / "link").symlink_to(tmp_path / "elsewhere")
    names = {
        path.relative_to(tmp_path / "root").as_posix() for path in image_files(tmp_path / "root")
    }
    assert names == {"cat/a.jpg", "cat/b.png", "dog/a.webp", "dog/c.bmp", "dog/link/x.jpg"}


def test_no_such_folder_inside(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="can't be read"):
        list(image_files(tmp_path / "gone"))


def images_only(root: Path) -> None:
    write_images(root / "images")


def flat_images(root: Path) -> None:
    write_images(root)


def splits(root: Path) -> None:
    for split in ("train", "val"):
        write_image_folder(root / split)


def images_with_a_folder_beside(root: Path) -> None:
    write_images(root / "photos")
    (root / "annotations").mkdir()


def one_folder(root: Path) -> None:
    write_images(root / "inner")


def pascal_voc(root: Path) -> None:
    write_images(root / "JPEGImages")
    (root / "Annotations").mkdir()


def no_images(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.mkdir, "is empty"),
        (images_only, "holds images but no labels"),
        (flat_images, "holds images but no labels"),
        (splits, "holds splits: give one of them, .*/train or .*/val"),
        (one_folder, "Is .*/inner meant"),
        (images_with_a_folder_beside, "holds no data set"),
        (pascal_voc, "Pascal VOC"),
        (no_images, "holds no data set"),
    ],
)
def test_a_folder_that_is_no_data_set_is_explained(tmp_path: Path, make, words: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset(str(tmp_path / "data"))
    assert str(tmp_path / "data") in caught.value.message


@pytest.mark.parametrize("reference", ["", " ", "nowhere/at/all", "nul\0byte", "long" * 2000])
def test_a_path_that_is_none(reference: str) -> None:
    with pytest.raises(DatasetError, match=r"no data set|can't be read") as caught:
        open_dataset(reference)
    assert len(caught.value.message) < 400


def test_a_file_that_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"model\.onnx isn't a data set"):
        open_dataset(str(tmp_path / "model.onnx"))


def test_at_least_one_image() -> None:
    with pytest.raises(DatasetError, match="max_images is 0"):
        open_dataset("street", max_images=0)
