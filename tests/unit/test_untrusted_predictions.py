"""Predictions of an untrusted process: good ones are read, and nothing else is."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from dataset_factory import write_coco, write_image_folder
from small_depth_task import SIDE, write_hidden_data
from visiondyno.datasets.base import Dataset
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import ModelError, OperationFailed
from visiondyno.measuring.prediction_files import save_predictions
from visiondyno.operations.untrusted_predictions import load_untrusted, predictions_bytes
from visiondyno.predictions import Classification, DepthMap, Detections

COUNT = 3


@pytest.fixture
def depth(tmp_path: Path) -> Dataset:
    write_hidden_data(tmp_path / "hidden", COUNT)
    return open_dataset(str(tmp_path / "hidden"))


def depth_map(value: float = 1.0, side: int = SIDE) -> DepthMap:
    return DepthMap(np.full((side, SIDE), value, np.float32))


def test_depth_maps_are_read_and_fit_the_announced_size(tmp_path: Path, depth: Dataset) -> None:
    file = tmp_path / "p.npz"
    save_predictions(file, [depth_map(value) for value in (1, 2, 3)])
    found = load_untrusted(file, depth, 0)
    assert [one.depth.mean() for one in found if isinstance(one, DepthMap)] == [1, 2, 3]
    assert file.stat().st_size <= predictions_bytes(depth)


def test_classes_and_boxes_are_read(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "classes")
    images = open_dataset(str(tmp_path / "classes"))
    file = tmp_path / "p.npz"
    uniform = Classification(np.full(4, 0.25, np.float32))
    save_predictions(file, [uniform] * len(images))
    assert len(load_untrusted(file, images, 4)) == len(images)
    assert file.stat().st_size <= predictions_bytes(images)
    with pytest.raises(OperationFailed, match="can't be read"):
        load_untrusted(file, images, 5)

    write_coco(tmp_path / "coco")
    boxes = open_dataset(str(tmp_path / "coco"))
    box = Detections(np.ones((1, 4), np.float32), np.ones(1, np.float32), np.array([2]))
    save_predictions(file, [box, *[Detections()] * (len(boxes) - 1)])
    assert len(load_untrusted(file, boxes, 3)[0]) == 1
    assert file.stat().st_size <= predictions_bytes(boxes)
    with pytest.raises(ModelError, match="a class that it doesn't have"):
        load_untrusted(file, boxes, 2)


Write = Callable[[Path], object]


def members(arrays: dict[str, Any], compress: int = zipfile.ZIP_STORED) -> Write:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compress) as archive:
            for name, array in arrays.items():
                with archive.open(name, "w") as file:
                    if isinstance(array, bytes):
                        file.write(array)
                    else:
                        npy.write_array(file, np.asarray(array), allow_pickle=True)

    return write


def maps(**changed: Any) -> dict[str, Any]:
    names = [f"depth_{index:06d}.npy" for index in range(COUNT)]
    found: dict[str, Any] = {name: np.ones((SIDE, SIDE), np.float32) for name in names}
    return found | {names[1]: changed["second"]} if changed else found


def header(text: str) -> bytes:
    body = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


FORGED: dict[str, Write] = {
    "no_zip": lambda path: path.write_bytes(b"no zip"),
    "empty": lambda path: path.write_bytes(b""),
    "too_few": members(dict(list(maps().items())[:2])),
    "other_names": members({**maps(), "more.npy": np.ones(1)}),
    "compressed": members(maps(), zipfile.ZIP_DEFLATED),
    "another_size": members(maps(second=np.ones((SIDE, SIDE + 1), np.float32))),
    "whole_numbers": members(maps(second=np.ones((SIDE, SIDE), np.int32))),
    "halves": members(maps(second=np.ones((SIDE, SIDE), np.float16))),
    "pickle": members(maps(second=np.full((SIDE, SIDE), None))),
    "no_array": members(maps(second=b"hello")),
    "newer_format": members(maps(second=b"\x93NUMPY\x07\x00")),
    "too_short": members(
        maps(second=header("{'descr': '<f4', 'fortran_order': False, 'shape': (32, 32)}"))
    ),
    "code_for_a_header": members(maps(second=header("__import__('os').abort()"))),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_is_refused(tmp_path: Path, depth: Dataset, name: str) -> None:
    FORGED[name](tmp_path / "p.npz")
    with pytest.raises(OperationFailed, match="left predictions that can't be read") as caught:
        load_untrusted(tmp_path / "p.npz", depth, 0)
    assert len(caught.value.message) < 400


def test_an_archive_that_announces_more_than_it_holds_is_refused(
    tmp_path: Path, depth: Dataset
) -> None:
    file = tmp_path / "p.npz"
    members(maps())(file)
    data = bytearray(file.read_bytes())
    for place in range(len(data)):
        if data[place : place + 4] == b"PK\x01\x02":  # a member's entry in the directory
            data[place + 20 : place + 28] = (2**31).to_bytes(4, "little") * 2
    file.write_bytes(data)
    with pytest.raises(OperationFailed, match="more than it holds"):
        load_untrusted(file, depth, 0)


def test_boxes_must_add_up(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    boxes = open_dataset(str(tmp_path / "coco"))
    n = len(boxes)
    whole = {
        "boxes_xyxy.npy": np.ones((n, 4), np.float32),
        "scores.npy": np.ones(n, np.float32),
        "class_ids.npy": np.zeros(n, np.int64),
    }
    for counts in ([2] * n, [-1, *[1] * (n - 2), 3]):
        members({"counts.npy": np.array(counts, np.int64), **whole})(tmp_path / "p.npz")
        with pytest.raises(OperationFailed, match="add up"):
            load_untrusted(tmp_path / "p.npz", boxes, 1)


def test_values_must_be_finite(tmp_path: Path, depth: Dataset) -> None:
    save_predictions(tmp_path / "p.npz", [depth_map(), depth_map(float("inf")), depth_map()])
    with pytest.raises(ModelError, match="image 1 holds values that aren't finite"):
        load_untrusted(tmp_path / "p.npz", depth, 0)
