"""A street folder appears complete or not at all, once, and is verified when used again."""

import hashlib
import json
import multiprocessing
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from visiondyno.datasets.street import HEIGHT, STREET_CLASSES, WIDTH, ensure_street
from visiondyno.errors import DatasetError, SpecError


def contents(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def test_it_is_a_coco_folder_whose_boxes_lie_in_its_images(tmp_path):
    folder = ensure_street("val", 12, tmp_path)
    assert folder.name == "street-v1-val-12"
    labels = json.loads((folder / "annotations.json").read_text())
    assert labels["info"]["version"] == "1"
    assert labels["licenses"][0]["name"] == "CC0-1.0"
    assert [category["name"] for category in labels["categories"]] == list(STREET_CLASSES)
    assert [image["file_name"] for image in labels["images"]] == [
        f"{index:05d}.jpg" for index in range(12)
    ]
    assert sorted(path.name for path in (folder / "images").iterdir()) == [
        image["file_name"] for image in labels["images"]
    ]
    for image in labels["images"]:
        pixels = cv2.imread(str(folder / "images" / image["file_name"]))
        assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert len(labels["annotations"]) > 12
    for annotation in labels["annotations"]:
        left, top, width, height = annotation["bbox"]
        assert min(left, top) >= 0
        assert left + width <= WIDTH
        assert top + height <= HEIGHT
        assert 0 < annotation["area"] <= width * height


def test_a_smaller_count_is_a_prefix(tmp_path):
    few, many = ensure_street("demo", 3, tmp_path), ensure_street("demo", 7, tmp_path)
    for index in range(3):
        name = f"images/{index:05d}.jpg"
        assert (few / name).read_bytes() == (many / name).read_bytes()
    prefix = json.loads((few / "annotations.json").read_text())["annotations"]
    whole = json.loads((many / "annotations.json").read_text())["annotations"]
    assert prefix == [annotation for annotation in whole if annotation["image_id"] <= 3]


def test_several_processes_render_the_same_bytes_as_one(tmp_path):
    one = ensure_street("train", 30, tmp_path / "one")
    two = ensure_street("train", 30, tmp_path / "two", processes=2)
    assert contents(one) == contents(two)


def test_a_complete_folder_is_used_again_without_rendering(tmp_path):
    first = ensure_street("demo", 2, tmp_path)
    before = contents(first)

    def never(done, total):
        raise AssertionError("rendered again")

    assert ensure_street("demo", 2, tmp_path, on_progress=never) == first
    assert contents(first) == before


@pytest.mark.parametrize("harm", ["cut", "missing", "labels", "sums"])
def test_a_damaged_folder_is_rendered_anew(tmp_path, harm):
    folder = ensure_street("demo", 2, tmp_path)
    before = contents(folder)
    image = folder / "images" / "00001.jpg"
    if harm == "cut":
        image.write_bytes(image.read_bytes()[:100])
    elif harm == "missing":
        image.unlink()
    elif harm == "labels":
        (folder / "annotations.json").write_text("{}")
    else:
        (folder / "SHA256SUMS").write_text("")
    ensure_street("demo", 2, tmp_path)
    assert contents(folder) == before


def test_an_interruption_leaves_no_folder_and_the_next_call_makes_it(tmp_path):
    def interrupt(done, total):
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_street("demo", 2, tmp_path, on_progress=interrupt)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    # What a killed process leaves, which could not tidy up:
    left = tmp_path / ".street-v1-demo-2.abc.part"
    left.mkdir()
    (left / "half.jpg").write_bytes(b"half")
    folder = ensure_street("demo", 2, tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]


def make(cache: str, rendered: multiprocessing.Queue) -> None:
    ensure_street("demo", 26, Path(cache), on_progress=lambda done, _: rendered.put(done))


def test_two_processes_at_once_give_one_whole_folder_rendered_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    rendered = context.Queue()
    workers = [context.Process(target=make, args=(str(tmp_path), rendered)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(rendered.get(timeout=5) for _ in range(2)) == [25, 26]
    assert rendered.empty()
    assert len(contents(tmp_path / "street-v1-demo-26")) == 28


def test_progress_counts_to_the_end(tmp_path):
    calls = []
    ensure_street("demo", 27, tmp_path, on_progress=lambda *call: calls.append(call))
    assert calls == [(25, 27), (27, 27)]


@pytest.mark.parametrize("count", [0, -1, 100_001])
def test_a_count_out_of_range_is_refused(tmp_path, count):
    with pytest.raises(SpecError, match="ask for 1 to 100000"):
        ensure_street("demo", count, tmp_path)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(SpecError, match="choose one of train, val, demo"):
        ensure_street("test", 3, tmp_path)


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="can't be written"):
        ensure_street("demo", 1, tmp_path / "file" / "cache")


def test_sums_are_in_the_form_that_sha256sum_checks(tmp_path):
    folder = ensure_street("demo", 1, tmp_path)
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert lines == [f"{digest}  {name}" for name, digest in contents(folder).items()
                     if name != "SHA256SUMS"]  # fmt: skip
    shutil.rmtree(folder)
    assert not np.any([path.is_dir() for path in tmp_path.iterdir()])
