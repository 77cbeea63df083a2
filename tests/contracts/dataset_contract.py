"""What every data set must do, whatever its format; see `visiondyno.datasets.base.Dataset`."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from visiondyno.datasets.base import Dataset, Sample
from visiondyno.datasets.depth import read_depth
from visiondyno.datasets.indexed import IndexedDataset, class_counts, describe
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import DatasetError
from visiondyno.predictions import BoxTruth, ClassTruth, DepthTruth, Truth


def samples(dataset: Dataset) -> list[Sample]:
    return [dataset.sample(index) for index in range(len(dataset))]


def same_truth(a: Truth, b: Truth) -> bool:
    if not isinstance(a, BoxTruth) or not isinstance(b, BoxTruth):
        return a == b
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("boxes_xyxy", "class_ids", "is_crowd", "areas")
    )


class DatasetContract:
    """Subclass it as `TestX`; `write` makes a good data set with at least three images.

    Formats whose samples are the files in their own folder subclass `ImageFilesContract`.
    """

    def write(self, root: Path) -> None:
        raise AssertionError("a subclass writes its format")

    def change_label(self, root: Path) -> None:
        raise AssertionError("a subclass changes one label, and nothing else")

    def change_image(self, root: Path) -> None:
        raise AssertionError("a subclass changes the first image, and nothing else")

    def reference(self, root: Path) -> str:
        return str(root)

    def open(self, root: Path, **options: Any) -> IndexedDataset:
        return open_dataset(self.reference(root), **options)

    @pytest.fixture(autouse=True)
    def own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        self.write(tmp_path / "data")
        return tmp_path / "data"

    def test_length_and_samples_never_change(self, root: Path) -> None:
        dataset = self.open(root)
        before, again = samples(dataset), samples(self.open(root))
        assert len(dataset) == len(before) >= 3
        with ThreadPoolExecutor(4) as pool:
            after = list(pool.map(dataset.sample, range(len(dataset))))
        for other in (after, again):
            assert [item.image_id for item in other] == [item.image_id for item in before]
            assert all(same_truth(a.truth, b.truth) for a, b in zip(before, other, strict=True))

    def test_order_is_by_name_and_ids_are_unique(self, root: Path) -> None:
        found = samples(self.open(root))
        names = [item.path.as_posix() for item in found]
        assert names == sorted(names)
        assert len({item.image_id for item in found}) == len(found)

    def test_no_sample_outside_its_length(self, root: Path) -> None:
        dataset = self.open(root)
        for index in (-1, len(dataset)):
            with pytest.raises(IndexError):
                dataset.sample(index)

    def test_size_is_that_of_the_pixels(self, root: Path) -> None:
        for item in samples(self.open(root)):
            height, width = cv2.imread(str(item.path)).shape[:2]
            assert (item.width, item.height) == (width, height)

    def test_truth_has_its_task_s_shape_and_types(self, root: Path) -> None:
        dataset = self.open(root)
        for item in samples(dataset):
            truth = item.truth
            if dataset.task == "classification":
                assert isinstance(truth, ClassTruth)
                assert 0 <= truth.class_id < len(dataset.classes)
                continue
            if dataset.task == "depth":
                assert isinstance(truth, DepthTruth)
                depth = read_depth(truth)
                assert (depth.shape, depth.dtype) == ((item.height, item.width), np.float32)
                known = depth[~np.isnan(depth)]
                assert known.size
                assert np.all(known > 0)
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
        digest = self.open(root).digest
        assert digest == self.open(copy).digest
        assert digest.startswith("sha256:")
        assert len(digest) == len("sha256:") + 64

    def test_one_changed_label_is_another_digest(self, root: Path) -> None:
        before = self.open(root).digest
        self.change_label(root)
        assert self.open(root).digest != before

    def test_one_changed_image_is_another_digest(self, root: Path) -> None:
        dataset = self.open(root)
        before = dataset.digest
        self.change_image(root)
        assert self.open(root).digest != before
        assert dataset.digest == before, "computed once"

    def test_max_images_is_a_prefix_with_its_own_digest(self, root: Path) -> None:
        whole, part = self.open(root), self.open(root, max_images=2)
        assert [item.path for item in samples(part)] == [item.path for item in samples(whole)][:2]
        assert part.digest != whole.digest
        assert self.open(root, max_images=1000).digest == whole.digest

    def test_without_leaves_out_and_lists_and_changes_nothing_else(self, root: Path) -> None:
        whole = self.open(root)
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

    def test_counts_and_description_agree(self, root: Path) -> None:
        dataset = self.open(root)
        summary = describe(dataset)
        assert list(class_counts(dataset)) == list(dataset.classes)
        assert summary["classes"] == class_counts(dataset)
        assert summary["objects"] == sum(summary["classes"].values())
        assert (summary["objects"] > 0) == (dataset.task != "depth")
        assert (summary["depth"] is None) == (dataset.task != "depth")
        assert summary["images"] == len(dataset)
        assert summary["digest"] == dataset.digest
        if dataset.task == "detection":
            assert sum(summary["sizes"].values()) == summary["objects"]
        elif dataset.task == "depth":
            assert 0 < summary["depth"]["measured_share"] <= 1
            assert summary["depth"]["nearest_m"] <= summary["depth"]["farthest_m"]
        else:
            assert summary["objects"] == len(dataset)
            assert summary["sizes"] is None
        assert json.loads(json.dumps(summary)) == summary, "JSON types only"


class ImageFilesContract(DatasetContract):
    """Of formats whose samples are the image files in the data set's own folder."""

    def change_image(self, root: Path) -> None:
        path = self.open(root).sample(0).path
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def test_samples_are_the_folder_s_own_files(self, root: Path) -> None:
        assert all(root in item.path.parents for item in samples(self.open(root)))

    @pytest.mark.parametrize("damage", ["empty", "truncated", "not an image"])
    def test_a_bad_image_is_named_or_left_out(self, root: Path, damage: str) -> None:
        whole = samples(self.open(root))
        bad = whole[1].path
        data = {
            "empty": b"",
            "truncated": bad.read_bytes()[:-20],
            "not an image": b"<html>not found</html>",
        }[damage]
        bad.write_bytes(data)
        with pytest.raises(DatasetError, match=bad.name):
            self.open(root)
        dataset = self.open(root, skip_bad=True)
        assert [item.path for item in dataset.skipped] == [bad]
        assert bad.name in dataset.skipped[0].reason
        kept = {item.image_id: item.path for item in samples(dataset)}
        assert kept == {item.image_id: item.path for item in whole if item.path != bad}

    def test_nothing_but_bad_images_is_an_error(self, root: Path) -> None:
        for item in samples(self.open(root)):
            item.path.write_bytes(b"")
        with pytest.raises(DatasetError, match="nothing to score"):
            self.open(root, skip_bad=True)
