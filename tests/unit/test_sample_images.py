"""Images become samples: their pixels, sizes, channels and labels; what is wrong is named."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from class_images import age, noise, write_classes, write_png
from hypothesis import given
from hypothesis import strategies as st
from sample_cases import everything, opened, worker_files
from training_cases import torch

from dataset_factory import write_coco, write_depth, write_image_folder
from visiondyno.errors import DatasetError, SpecError, TooLarge
from visiondyno.operations import prepared_images, sample_images
from visiondyno.operations.prepared_images import resized
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.training_data import ImageData

pytestmark = pytest.mark.torch


@pytest.fixture
def files(tmp_path: Path) -> WorkerFiles:
    return worker_files(tmp_path)


@pytest.fixture(autouse=True)
def own_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def test_images_are_what_torchvision_makes_of_them(files: WorkerFiles, tmp_path: Path) -> None:
    from torchvision.transforms.functional import normalize, to_tensor

    images = [noise(seed, 6, 5, 3) for seed in range(3)]
    write_classes(tmp_path / "data", *images)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    asked = {"data": str(tmp_path / "data"), "mean": mean, "std": std}
    found = opened(asked, files)
    taken = found.samples.features(torch.tensor([2, 0]))
    for sample, index in zip(taken, (2, 0), strict=True):
        rgb = np.ascontiguousarray(images[index][:, :, ::-1])
        assert sample.equal(normalize(to_tensor(rgb), mean, std)), "to the bit"
    assert found.classes == ("class0", "class1", "class2")
    assert found.samples.labels.tolist() == [0, 1, 2]
    assert found.samples.labels.dtype == torch.int64
    other = opened(asked | {"layout": "hwc"}, files)
    assert everything(other.samples).equal(everything(found.samples).permute(0, 2, 3, 1))
    assert other.digest != found.digest


def test_images_are_grey_only_if_all_are_unless_it_is_said(
    files: WorkerFiles, tmp_path: Path
) -> None:
    grey, colour = noise(0, 4, 3), noise(1, 4, 3, 3)
    write_classes(tmp_path / "grey", grey, np.repeat(grey[::-1, :, None], 3, axis=2))
    write_classes(tmp_path / "mixed", *[grey] * 40, colour, grey)
    found = everything(opened(str(tmp_path / "grey"), files).samples)
    assert found.shape == (2, 1, 4, 3)
    assert np.array_equal(found[1, 0].numpy(), grey[::-1] / np.float32(255))
    mixed = everything(opened(str(tmp_path / "mixed"), files).samples)
    assert mixed.shape == (42, 3, 4, 3)
    order = sorted(range(42), key=str).index(40)
    assert np.array_equal(
        mixed[order].numpy(), colour[:, :, ::-1].transpose(2, 0, 1) / np.float32(255)
    )
    for index in set(range(42)) - {order}:
        assert np.array_equal(mixed[index].numpy(), np.stack([grey] * 3) / np.float32(255))
    one = everything(opened({"data": str(tmp_path / "mixed"), "channels": 1}, files).samples)
    made_grey = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
    assert np.array_equal(one[order, 0].numpy(), made_grey / np.float32(255))
    three = everything(opened({"data": str(tmp_path / "grey"), "channels": 3}, files).samples)
    assert three.shape == (2, 3, 4, 3)
    assert three[:, 0].equal(found[:, 0])
    assert three[:, 2].equal(found[:, 0])


def test_a_folder_below_the_data_folder_is_found_by_its_name(
    files: WorkerFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_DATA", str(tmp_path / "all"))
    write_classes(tmp_path / "all" / "pets" / "train", noise(0, 3, 3), noise(1, 3, 3))
    write_classes(tmp_path / "all" / "pets" / "val", noise(2, 3, 3), noise(3, 3, 3))
    age(tmp_path / "all")
    first, other = opened("pets:train", files), opened("pets:val", files)
    assert first.digest != other.digest
    monkeypatch.setattr(sample_images, "open_dataset", lambda *_, **__: pytest.fail("opened"))
    assert opened("pets:train", files).digest == first.digest


def test_images_of_several_sizes_need_one_to_be_resized_to(
    files: WorkerFiles, tmp_path: Path
) -> None:
    write_image_folder(tmp_path / "data")
    with pytest.raises(
        DatasetError, match=r"b.png is 21×30 pixels and the first image 20×30; give"
    ):
        opened(str(tmp_path / "data"), files)
    found = opened({"data": str(tmp_path / "data"), "image_size": [6, 40]}, files)
    assert everything(found.samples).shape == (4, 3, 6, 40)
    assert found.classes == ("cat", "dog", "eel")
    assert found.samples.labels.tolist() == [0, 0, 1, 1]
    square = opened({"data": str(tmp_path / "data"), "image_size": 8}, files)
    assert everything(square.samples).shape == (4, 3, 8, 8)


@given(
    sides=st.tuples(*[st.integers(1, 12)] * 4),
    value=st.integers(0, 255),
)
def test_resizing_gives_the_size_asked_for_and_keeps_what_is_even(
    sides: tuple[int, int, int, int], value: int
) -> None:
    image = np.full((*sides[:2], 3), value, np.uint8)
    assert np.array_equal(resized(image, *sides[2:]), np.full((*sides[2:], 3), value, np.uint8))


def test_images_that_shrink_are_averaged_over_areas() -> None:
    image = np.array([[0, 100, 50], [20, 80, 150]], np.uint8)
    shown = np.repeat(image[:, :2, None], 3, axis=2)
    assert resized(shown, 1, 1).tolist() == [[[50, 50, 50]]]
    wide = resized(np.repeat(image[:, :, None], 3, axis=2), 1, 6)
    assert wide.shape == (1, 6, 3)
    assert wide[0, 0].tolist() == [10, 10, 10], "the mean of the first column, then stretched"


@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_normalisation_for_other_channels_is_refused(
    files: WorkerFiles, tmp_path: Path, name: str
) -> None:
    write_classes(tmp_path / "data", noise(0, 3, 3), noise(1, 3, 3))
    moments = {"mean": [0.5], "std": [0.5]} | {name: [0.5] * 3}
    with pytest.raises(SpecError, match=rf"'training_data.data.{name}' holds 3 numbers, .* 1 chan"):
        opened({"data": str(tmp_path / "data"), **moments}, files)


def test_a_damaged_image_stops_the_job_or_is_left_out_and_said(
    files: WorkerFiles, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    write_classes(root, noise(0, 8, 8), noise(1, 8, 8), noise(2, 8, 8))
    whole = (root / "class1" / "image.png").read_bytes()
    # Its header and its end are right: only decoding shows it.
    (root / "class1" / "image.png").write_bytes(whole[:45] + bytes(20) + whole[65:])
    (root / "class2" / "empty.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"^'training_data': .*empty.png is empty"):
        opened(str(root), files)
    (root / "class2" / "empty.png").unlink()
    with pytest.raises(DatasetError, match=r"^'training_data': .*class1/image.png is damaged"):
        opened(str(root), files)
    (root / "class2" / "empty.png").write_bytes(b"")
    found = opened({"data": str(root), "skip_bad": True}, files)
    assert found.samples.labels.tolist() == [0, 2]
    assert np.array_equal(everything(found.samples)[1, 0].numpy() * 255, noise(2, 8, 8))
    assert [note.partition(",")[0] for note in found.notes] == [
        "1 images were left out as bad",
        "1 images were left out as damaged",
    ]
    for index in (0, 2):
        (root / f"class{index}" / "image.png").write_bytes(whole[:45] + bytes(20) + whole[65:])
    with pytest.raises(DatasetError, match="each of its 3 images is bad"):
        opened({"data": str(root), "skip_bad": True}, files)


@pytest.mark.parametrize(
    ("write", "task"), [(write_coco, "detection"), (write_depth, "depth")], ids=["coco", "depth"]
)
def test_data_without_one_class_an_image_are_refused(
    files: WorkerFiles, tmp_path: Path, write: Any, task: str
) -> None:
    write(tmp_path / "data")
    with pytest.raises(DatasetError, match=rf"data' is a {task} data set, and training takes imag"):
        opened(str(tmp_path / "data"), files)


def test_built_in_scenes_are_refused_before_they_are_drawn(
    files: WorkerFiles, tmp_path: Path
) -> None:
    for name, task in (("street:train", "detection"), ("depth-scenes", "depth")):
        with pytest.raises(DatasetError, match=f"'{name}' is a {task} data set"):
            opened(name, files)
    assert not (tmp_path / "xdg").exists()


@pytest.mark.parametrize(
    "reference", ["nowhere", "nul\0byte", "digits:train:0"], ids=["nowhere", "nul", "none"]
)
def test_data_that_are_nowhere_are_named(files: WorkerFiles, reference: str) -> None:
    with pytest.raises(DatasetError, match=r"^'training_data.data': "):
        opened({"data": reference}, files)


def test_more_than_the_worker_may_keep_is_told_before_it_is_decoded(tmp_path: Path) -> None:
    files = worker_files(tmp_path, max_bytes=100)
    write_classes(tmp_path / "data", noise(0, 8, 8), noise(1, 8, 8))
    events: list[dict[str, Any]] = []
    with pytest.raises(TooLarge, match=r"^'training_data': the images of .* take 128 bytes"):
        opened(str(tmp_path / "data"), files, on_progress=events.append)
    assert [event["done"] for event in events if "done" in event] == [0]
    write_classes(tmp_path / "more", *[noise(0, 7, 7)] * 2)
    write_png(tmp_path / "more" / "class2" / "a.png", noise(0, 2, 2, 3))
    assert len(opened({"data": str(tmp_path / "more"), "max_images": 2}, files).samples) == 2
    with pytest.raises(TooLarge, match="take 108 bytes"):
        opened({"data": str(tmp_path / "more"), "image_size": [3, 4]}, files)


def test_few_large_images_are_in_memory_at_a_time(
    tmp_path: Path, files: WorkerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight images of 16,384 × 16,384 pixels would take 6 GB while they wait to be written."""
    write_classes(tmp_path / "data", *[noise(index, 8, 8) for index in range(8)])
    waiting: list[int] = []
    decode, add = prepared_images._image, prepared_images._PixelFile.add

    def decoded(*arguments: Any, **more: Any) -> Any:
        waiting.append(1)
        return decode(*arguments, **more)

    def added(*arguments: Any) -> None:
        add(*arguments)
        assert len(waiting) == 1
        waiting.clear()

    monkeypatch.setattr(prepared_images, "_image", decoded)
    monkeypatch.setattr(prepared_images._PixelFile, "add", added)
    monkeypatch.setattr(prepared_images, "_AT_ONCE_BYTES", 3 * 100 * 100)
    found = opened({"data": str(tmp_path / "data"), "image_size": 100}, files)
    assert len(found.samples) == 8


def test_image_data_give_their_size_for_both_sides() -> None:
    assert ImageData(data="x", image_size=8).size == (8, 8)
    assert ImageData(data="x").size is None
