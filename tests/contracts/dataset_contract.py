"""What every data set must do, whatever its format; see `visiondyno.datasets.base.Dataset`."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from visiondyno.datasets.base import Dataset, Sample
from visiondyno.datasets.indexed import class_counts, describe
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import DatasetError
from visiondyno.predictions import BoxTruth, ClassTruth


def samples(dataset: Dataset) -> list[Sample]:
    return [dataset.sample(index) for index in range(len(dataset))]


def same_truth(a: BoxTruth | ClassTruth, b: BoxTruth | ClassTruth) -> bool:
    if isinstance(a, ClassTruth) or isinstance(b, ClassTruth):
        return a == b
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("boxes_xyxy", "class_ids", "is_crowd", "areas")
    )


class DatasetContract:
    """Subclass it as `TestX`; `write` makes a good data set with at least three images."""

    def write(self, root: Path) -> None:
        raise AssertionError("a subclass writes its format")

    def change_label(self, root: Path) -> None:
        raise AssertionError("a subclass changes one label, and nothing else")

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        self.write(tmp_path / "data")
        return tmp_path / "data"

    def test_length_and_samples_never_change(self, root: Path) -> None:
        dataset = open_dataset(str(root))
        before, again = samples(dataset), samples(open_dataset(str(root)))
        assert len(dataset) == len(before) >= 3
        with ThreadPoolExecutor(4) as pool:
            after = list(pool.map(dataset.sample, range(len(dataset))))
        for other in (after, again):
            assert [item.image_id for item in other] == [item.image_id for item in before]
            assert all(same_truth(a.truth, b.truth) for a, b in zip(before, other, strict=True))

    def test_order_is_by_name_and_ids_are_unique(self, root: Path) -> None:
        found = samples(open_dataset(str(root)))
        names = [item.path.relative_to(root).as_posix() for item in found]
        assert names == sorted(names)
        assert len({item.image_id for item in found}) == len(found)

    def test_no_sample_outside_its_length(self, root: Path) -> None:
        dataset = open_dataset(str(root))
        for index in (-1, len(dataset)):
            with pytest.raises(IndexError):
                dataset.sample(index)

    def test_size_is_that_of_the_pixels(self, root: Path) -> None:
        for item in samples(open_dataset(str(root))):
            height, width = cv2.imread(str(item.path)).shape[:2]
            assert (item.width, item.height) == (width, height)

    def test_truth_has_its_task_s_shape_and_types(self, root: Path) -> None:
        dataset = open_dataset(str(root))
        for item in samples(dataset):
            truth = item.truth
            if dataset.task == "classification":
                assert isinstance(truth, ClassTruth)
                assert 0 <= truth.class_id < len(dataset.classes)
                continue
            assert isinstance(truth, BoxTruth)
            n = len(truth)
            assert (truth.boxes_xyxy.shape, truth.boxes_xyxy.dtype) == ((n, 4), np.float64)
            assert (truth.class_ids.shape, truth.class_ids.dtype) == ((n,), np.int64)
            assert (truth.is_crowd.shape, truth.is_crowd.dtype) == ((n,), np.bool_)
            assert (truth.areas.shape, truth.areas.dtype) == ((n,), np.float64)
            assert np.all((truth.class_ids >= 0) & (truth.class_ids < len(dataset.classes)))

    def test_a_copy_elsewhere_has_the_same_digest(self, root: Path, tmp_path: Path) -> None:
        copy = tmp_path / "somewhere" / "else"
        shutil.copytree(root, copy)
        for path in copy.rglob("*"):
            os.utime(path, (1, 1))
        digest = open_dataset(str(root)).digest
        assert digest == open_dataset(str(copy)).digest
        assert digest.startswith("sha256:")
        assert len(digest) == len("sha256:") + 64

    def test_one_changed_label_is_another_digest(self, root: Path) -> None:
        before = open_dataset(str(root)).digest
        self.change_label(root)
        assert open_dataset(str(root)).digest != before

    def test_one_changed_byte_of_an_image_is_another_digest(self, root: Path) -> None:
        dataset = open_dataset(str(root))
        before = dataset.digest
        path = dataset.sample(0).path
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert open_dataset(str(root)).digest != before
        assert dataset.digest == before, "computed once"

    def test_max_images_is_a_prefix_with_its_own_digest(self, root: Path) -> None:
        whole, part = open_dataset(str(root)), open_dataset(str(root), max_images=2)
        assert [item.path for item in samples(part)] == [item.path for item in samples(whole)][:2]
        assert part.digest != whole.digest
        assert open_dataset(str(root), max_images=1000).digest == whole.digest

    @pytest.mark.parametrize("damage", ["empty", "truncated", "not an image"])
    def test_a_bad_image_is_named_or_left_out(self, root: Path, damage: str) -> None:
        whole = samples(open_dataset(str(root)))
        bad = whole[1].path
        data = {
            "empty": b"",
            "truncated": bad.read_bytes()[:-20],
            "not an image": b"<html>not found</html>",
        }[damage]
        bad.write_bytes(data)
        with pytest.raises(DatasetError, match=bad.name):
            open_dataset(str(root))
        dataset = open_dataset(str(root), skip_bad=True)
        assert [item.path for item in dataset.skipped] == [bad]
        assert bad.name in dataset.skipped[0].reason
        kept = {item.image_id: item.path for item in samples(dataset)}
        assert kept == {item.image_id: item.path for item in whole if item.path != bad}

    def test_without_leaves_out_and_lists_and_changes_nothing_else(self, root: Path) -> None:
        whole = open_dataset(str(root))
        before, digest = samples(whole), whole.digest
        rest = whole.without({1: "its pixels are broken"})
        assert samples(rest) == [item for index, item in enumerate(before) if index != 1]
        assert [(bad.path, bad.reason) for bad in rest.skipped] == [
            (before[1].path, "its pixels are broken")
        ]
        assert rest.digest != digest == whole.digest
        assert (samples(whole), whole.skipped) == (before, ())
        with pytest.raises(DatasetError, match="nothing to score"):
            whole.without(dict.fromkeys(range(len(whole)), "broken"))

    def test_nothing_but_bad_images_is_an_error(self, root: Path) -> None:
        for item in samples(open_dataset(str(root))):
            item.path.write_bytes(b"")
        with pytest.raises(DatasetError, match="nothing to score"):
            open_dataset(str(root), skip_bad=True)

    def test_counts_and_description_agree(self, root: Path) -> None:
        dataset = open_dataset(str(root))
        summary = describe(dataset)
        assert list(class_counts(dataset)) == list(dataset.classes)
        assert summary["classes"] == class_counts(dataset)
        assert summary["objects"] == sum(summary["classes"].values()) > 0
        assert summary["images"] == len(dataset)
        assert summary["digest"] == dataset.digest
        if dataset.task == "detection":
            assert sum(summary["sizes"].values()) == summary["objects"]
        else:
            assert summary["objects"] == len(dataset)
            assert summary["sizes"] is None
