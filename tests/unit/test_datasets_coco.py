"""COCO JSON: where images are found, what is read, and each way it can be wrong."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_factory import (
    BOXES,
    CLASSES,
    SIZES,
    coco_document,
    encoded,
    with_exif_orientation,
    write_coco,
    write_images,
    write_yolo,
)
from visiondyno.datasets.indexed import IndexedDataset, class_counts, describe
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import DatasetError
from visiondyno.predictions import BoxTruth

Document = dict[str, Any]


def truths(dataset: IndexedDataset) -> dict[str, BoxTruth]:
    found = [dataset.sample(index) for index in range(len(dataset))]
    return {item.path.name: item.truth for item in found if isinstance(item.truth, BoxTruth)}


def test_content_is_read_whatever_the_ids_and_the_order(tmp_path: Path) -> None:
    write_coco(tmp_path / "data")
    dataset = open_dataset(str(tmp_path / "data"))
    assert (dataset.format, dataset.task) == ("coco", "detection")
    assert dataset.classes == CLASSES
    found = truths(dataset)
    assert list(found) == list(SIZES), "the image without objects is kept"
    for name, labels in BOXES.items():
        assert found[name].class_ids.tolist() == [class_id for class_id, _ in labels]
        np.testing.assert_allclose(
            found[name].boxes_xyxy, np.reshape([box for _, box in labels], (-1, 4))
        )
    assert [dataset.sample(index).image_id for index in range(4)] == [10, 9, 8, 7]


def test_area_is_the_one_given_else_the_box_s(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"][0]["area"] = 123.5
    document["annotations"][1]["segmentation"] = {"counts": "not read", "size": [1, 1]}
    write_coco(tmp_path / "data", document)
    found = truths(open_dataset(str(tmp_path / "data")))["a.jpg"]
    assert found.areas.tolist() == [123.5, 9.5 * 9.75]


def test_crowds_are_kept_and_not_counted(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"][0]["iscrowd"] = 1
    write_coco(tmp_path / "data", document)
    dataset = open_dataset(str(tmp_path / "data"))
    assert truths(dataset)["a.jpg"].is_crowd.tolist() == [True, False]
    assert class_counts(dataset) == {"car": 1, "truck": 1, "stop sign": 1}
    summary = describe(dataset)
    assert (summary["crowds"], summary["images_without_objects"]) == (1, 1)
    assert summary["sizes"] == {"small": 2, "medium": 1, "large": 0}


def test_sizes_turn_at_coco_s_areas(tmp_path: Path) -> None:
    document = coco_document()
    for annotation, area in zip(document["annotations"], [1023.9, 1024, 9215.9, 9216], strict=True):
        annotation["area"] = area
    write_coco(tmp_path / "data", document)
    sizes = describe(open_dataset(str(tmp_path / "data")))["sizes"]
    assert sizes == {"small": 1, "medium": 2, "large": 1}


def place_beside(root: Path) -> Path:
    return root / "labels.json"


def place_in_annotations(root: Path) -> Path:
    (root / "annotations").mkdir()
    return root / "annotations" / "instances_val2017.json"


@pytest.mark.parametrize(
    ("place", "folder", "prefix"),
    [
        (place_beside, ".", ""),
        (place_beside, "images", ""),
        (place_beside, "photos", "photos/"),
        (place_in_annotations, "val2017", ""),
        (place_in_annotations, "images", ""),
        (place_in_annotations, "images/val2017", ""),
        (place_in_annotations, "val2017", "val2017/"),
    ],
)
def test_images_are_found(
    tmp_path: Path, place: Callable[[Path], Path], folder: str, prefix: str
) -> None:
    write_images(tmp_path / "made")
    root = tmp_path / "root"
    root.mkdir()
    shutil.copytree(tmp_path / "made", root / folder, dirs_exist_ok=True)
    document = coco_document()
    for image in document["images"]:
        image["file_name"] = prefix + image["file_name"]
    path = place(root)
    path.write_text(json.dumps(document))
    assert len(open_dataset(str(root))) == len(open_dataset(str(path))) == 4


def test_sizes_not_in_the_json_come_from_the_files(tmp_path: Path) -> None:
    document = coco_document()
    for image in document["images"]:
        del image["width"], image["height"]
    write_coco(tmp_path / "data", document)
    dataset = open_dataset(str(tmp_path / "data"))
    found = [(item.width, item.height) for item in map(dataset.sample, range(4))]
    assert found == list(SIZES.values())


def test_json_wins_over_yolo_labels(tmp_path: Path) -> None:
    write_yolo(tmp_path / "data")
    document = coco_document()
    document["categories"][0]["name"] = "only in the JSON"
    for image in document["images"]:
        image["file_name"] = f"val/{image['file_name']}"
    (tmp_path / "data" / "labels.json").write_text(json.dumps(document))
    dataset = open_dataset(str(tmp_path / "data"))
    assert dataset.format == "coco"
    assert "only in the JSON" in dataset.classes


def first(document: Document, part: str, **values: Any) -> Document:
    document[part][0].update(values)
    return document


def without(document: Document, part: str, key: str) -> Document:
    del document[part][0][key]
    return document


# The first annotation is of a.jpg, 64×48. Each: what is done, and words of the message.
BAD_SAMPLES: list[tuple[Callable[[Document], Document], str]] = [
    (lambda d: first(d, "annotations", category_id=99), "category_id of annotation 100 .* is 99"),
    (lambda d: first(d, "annotations", category_id=[1]), "isn't among its categories"),
    (lambda d: first(d, "annotations", bbox=[1, 2, 0, 5]), "0 × 5 pixels"),
    (lambda d: first(d, "annotations", bbox=[1, 2, 5, -3]), "5 × -3 pixels"),
    (lambda d: first(d, "annotations", bbox=[60, 2, 10, 5]), "6.0 pixels outside the 64×48"),
    (lambda d: first(d, "annotations", bbox=[-9, 2, 12, 5]), "9.0 pixels outside"),
    (lambda d: first(d, "annotations", bbox=[1, 2, math.nan, 5]), "finite"),
    (lambda d: first(d, "annotations", bbox=["1", 2, 3, 4]), "four numbers"),
    (lambda d: first(d, "annotations", bbox=[1, 2, 3]), "four numbers"),
    (lambda d: without(d, "annotations", "bbox"), "bbox of annotation 100"),
    (lambda d: first(d, "annotations", area=-1), "area of annotation 100"),
    (lambda d: first(d, "annotations", area="big"), "area of annotation 100"),
    (lambda d: first(d, "images", width=51), "is 50×20 pixels, but labels.json says 51×20"),
    (lambda d: first(d, "images", file_name="gone.jpg"), "gone.jpg is missing"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD_SAMPLES)
def test_a_bad_sample_is_told_or_left_out(
    tmp_path: Path, spoil: Callable[[Document], Document], words: str
) -> None:
    write_coco(tmp_path / "data", spoil(coco_document()))
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset(str(tmp_path / "data"))
    assert str(tmp_path / "data") in caught.value.message
    dataset = open_dataset(str(tmp_path / "data"), skip_bad=True)
    assert (len(dataset), len(dataset.skipped)) == (3, 1)
    assert dataset.skipped[0].reason == caught.value.message


def test_an_image_id_used_twice_leaves_both_images_out(tmp_path: Path) -> None:
    document = first(coco_document(), "images", id=8)
    document["annotations"].pop()
    write_coco(tmp_path / "data", document)
    with pytest.raises(DatasetError, match="Image id 8 stands for 2 images"):
        open_dataset(str(tmp_path / "data"))
    dataset = open_dataset(str(tmp_path / "data"), skip_bad=True)
    assert [bad.path.name for bad in dataset.skipped] == ["c.bmp", "d.webp"]


def test_annotations_of_an_image_that_is_not_listed(tmp_path: Path) -> None:
    write_coco(tmp_path / "data", first(coco_document(), "annotations", image_id=77))
    with pytest.raises(DatasetError, match=r"image_id of annotation 100 .* is 77"):
        open_dataset(str(tmp_path / "data"))
    dataset = open_dataset(str(tmp_path / "data"), skip_bad=True)
    assert len(dataset) == 4
    assert [bad.path.name for bad in dataset.skipped] == ["labels.json"]


BAD_DOCUMENTS: list[tuple[Callable[[Document], Any], str]] = [
    (lambda d: d | {"annotations": []}, "has no labels"),
    (lambda d: d | {"categories": []}, "no categories"),
    (lambda d: d | {"categories": d["categories"] * 2}, "stands there twice"),
    (lambda d: d | {"images": [], "annotations": []}, "names no image"),
    (lambda d: d | {"images": {"1": {}}}, "'images' must be a list of objects"),
    (lambda d: d | {"annotations": [1]}, "'annotations' must be a list of objects"),
    (lambda d: {key: d[key] for key in ("images", "annotations")}, "'categories' must be a list"),
    (lambda d: {key: d[key] for key in ("images", "categories")}, "'annotations' must be a list"),
    (lambda d: first(d, "images", id="8"), "must be a whole number"),
    (lambda d: first(d, "categories", id=1.5), "must be a whole number"),
    (lambda d: first(d, "categories", name=" "), "has no name"),
    (lambda d: first(d, "annotations", image_id=None), "must be a whole number"),
    (lambda d: without(d, "images", "file_name"), "has no file_name"),
    (lambda d: [d], "an object was expected"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD_DOCUMENTS)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_labels_that_are_wrong_as_a_whole_are_never_skipped(
    tmp_path: Path, spoil: Callable[[Document], Any], words: str, skip_bad: bool
) -> None:
    write_coco(tmp_path / "data", spoil(coco_document()))
    with pytest.raises(DatasetError, match=words):
        open_dataset(str(tmp_path / "data"), skip_bad=skip_bad)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"images": [1, 2], "annotations": [', "line 1 column"),
        (b'{"images": "\xff\xfe", "categories": []}', "aren't valid JSON"),
        (b'{"images": 1, "categories": ' + b"[" * 100_000, "aren't valid JSON"),
        (b"", "aren't valid JSON"),
        (b'{"captions": []}', "labels.json isn't COCO JSON"),
    ],
)
def test_broken_json_is_told_for_file_and_folder(tmp_path: Path, text: bytes, words: str) -> None:
    write_coco(tmp_path / "data")
    path = tmp_path / "data" / "labels.json"
    path.write_bytes(text)
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset(str(tmp_path / "data"))
    assert "labels.json" in caught.value.message
    with pytest.raises(DatasetError, match=r"labels\.json"):
        open_dataset(str(path))


def test_broken_json_beside_yolo_labels_is_not_passed_over(tmp_path: Path) -> None:
    write_yolo(tmp_path / "data")
    (tmp_path / "data" / "labels.json").write_text('{"images": [], "annotations": [')
    with pytest.raises(DatasetError, match="aren't valid JSON"):
        open_dataset(str(tmp_path / "data"))


def test_several_json_files_must_be_chosen_from(tmp_path: Path) -> None:
    write_coco(tmp_path / "data")
    shutil.copy(tmp_path / "data" / "labels.json", tmp_path / "data" / "more.json")
    with pytest.raises(DatasetError, match=r"give the path of one \(labels.json, more.json\)"):
        open_dataset(str(tmp_path / "data"))
    assert len(open_dataset(str(tmp_path / "data" / "more.json"))) == 4


def test_captions_beside_instances_do_not_confuse(tmp_path: Path) -> None:
    write_coco(tmp_path / "data")
    captions = {key: coco_document()[key] for key in ("images", "annotations")}
    (tmp_path / "data" / "captions.json").write_text(json.dumps(captions))
    assert len(open_dataset(str(tmp_path / "data"))) == 4


def test_an_image_turned_by_exif_is_explained(tmp_path: Path) -> None:
    write_coco(tmp_path / "data")
    turned = with_exif_orientation(encoded(".jpg", 48, 64), 6)
    (tmp_path / "data" / "images" / "a.jpg").write_bytes(turned)
    with pytest.raises(DatasetError, match="EXIF tag rotates it"):
        open_dataset(str(tmp_path / "data"))


def test_a_limit_needs_labels_within_it(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"] = [entry for entry in document["annotations"] if entry["id"] > 101]
    write_coco(tmp_path / "data", document)
    with pytest.raises(DatasetError, match="no labels in its first 1 images"):
        open_dataset(str(tmp_path / "data"), max_images=1)


def test_an_image_that_goes_away_before_the_digest_is_told(tmp_path: Path) -> None:
    write_coco(tmp_path / "data")
    dataset = open_dataset(str(tmp_path / "data"))
    (tmp_path / "data" / "images" / "a.jpg").unlink()
    with pytest.raises(DatasetError, match=r"a\.jpg can't be read"):
        _ = dataset.digest


def test_real_photos_both_ways(shared_testdata: Path, tmp_path: Path) -> None:
    """The same labels as COCO JSON and as YOLO text: equal to the text's six digits."""
    coco128 = shared_testdata / "images" / "coco128"
    coco = open_dataset(str(coco128))
    names = "\n".join(f"  {index}: {name}" for index, name in enumerate(coco.classes))
    yaml_path = tmp_path / "data.yaml"
    yaml_path.write_text(f"path: {coco128}\nval: images\nnames:\n{names}\n")
    yolo = open_dataset(str(yaml_path))
    assert (coco.format, yolo.format) == ("coco", "yolo")
    assert (len(coco), describe(coco)["objects"]) == (128, 929)
    assert class_counts(coco) == class_counts(yolo)
    assert truths(coco).keys() == truths(yolo).keys()
    for name, truth in truths(coco).items():
        other = truths(yolo)[name]
        np.testing.assert_array_equal(truth.class_ids, other.class_ids)
        np.testing.assert_allclose(truth.boxes_xyxy, other.boxes_xyxy, atol=1e-3)
        np.testing.assert_allclose(truth.areas, other.areas, rtol=1e-3)
