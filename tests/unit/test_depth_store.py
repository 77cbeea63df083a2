"""A folder of depth scenes appears complete or not at all, and reads back as a depth data set."""

import hashlib

import cv2
import numpy as np
import pytest

from visiondyno.datasets.depth import read_depth
from visiondyno.datasets.depth_scenes import SIDE_PX, ensure_depth_scenes, render_scene
from visiondyno.datasets.registry import builtin_datasets, open_dataset
from visiondyno.errors import DatasetError, SpecError


def contents(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def test_it_opens_by_its_name_with_depth_as_rendered(tmp_path):
    seen = []
    dataset = open_dataset(
        "depth-scenes:demo:3",
        cache_dir=tmp_path,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert (dataset.task, dataset.classes, len(dataset)) == ("depth", (), 3)
    assert seen[-1] == (3, 3)
    for index in range(3):
        sample = dataset.sample(index)
        image, depth = render_scene("demo", index)
        assert (sample.width, sample.height) == (SIDE_PX, SIDE_PX)
        stored = read_depth(sample.truth)
        np.testing.assert_allclose(stored, depth, atol=0.00051)
        pixels = cv2.imread(str(sample.path))
        assert np.abs(pixels.astype(int) - image).mean() < 4


def test_a_smaller_count_is_a_prefix_and_processes_don_t_matter(tmp_path):
    few = ensure_depth_scenes("val", 2, tmp_path)
    many = ensure_depth_scenes("val", 11, tmp_path, processes=2)
    theirs = contents(many)
    assert len(theirs) == 23
    for name, digest in contents(few).items():
        if name != "SHA256SUMS":
            assert theirs[name] == digest


def test_a_damaged_folder_is_rendered_anew_and_a_whole_one_is_kept(tmp_path):
    folder = ensure_depth_scenes("demo", 1, tmp_path)
    before = contents(folder)
    (folder / "depth" / "00000.png").write_bytes(b"")
    assert contents(ensure_depth_scenes("demo", 1, tmp_path)) == before

    def never(done, total):
        raise AssertionError("rendered again")

    ensure_depth_scenes("demo", 1, tmp_path, on_progress=never)


def test_the_demo_has_96_scenes():
    (builtin,) = [b for b in builtin_datasets() if b.name == "depth-scenes"]
    assert builtin.splits["demo"] == 96


@pytest.mark.parametrize(("split", "count"), [("test", 1), ("val", 0), ("val", 100_001)])
def test_what_can_t_be_rendered_is_said(tmp_path, split, count):
    with pytest.raises(SpecError, match="epth scenes"):
        ensure_depth_scenes(split, count, tmp_path)


def test_a_folder_that_can_t_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="depth scenes can't be written"):
        ensure_depth_scenes("demo", 1, tmp_path / "file")
