"""Prepared images are kept: used again while the data are the same, and only then."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from class_images import age, noise, write_classes, write_png
from sample_cases import blob, everything, opened, worker_files

from dataset_factory import idx_bytes, write_idx
from visiondyno.errors import Cancelled, DatasetError, StorageFull
from visiondyno.operations import sample_images
from visiondyno.operations.prepared_images import map_images
from visiondyno.operations.worker_files import WorkerFiles

pytestmark = pytest.mark.torch


@pytest.fixture
def files(tmp_path: Path) -> WorkerFiles:
    return worker_files(tmp_path)


@pytest.fixture(autouse=True)
def own_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def test_data_that_did_not_change_are_not_opened_again(
    files: WorkerFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    write_idx(root, {"t10k": 20})
    age(root)
    first = opened(f"{root}:train", files)
    assert len(first.samples) == 16
    assert "'train' is 16 of its 20 images" in first.notes[0]

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("the data set was opened")

    with monkeypatch.context() as patch:
        patch.setattr(sample_images, "open_dataset", refused)
        again = opened(f"{root}:train", files)
        other_way = opened({"data": f"{root}:train", "layout": "hwc"}, files)
        with pytest.raises(AssertionError, match="was opened"):
            opened(f"{root}:test", files)
    assert (again.digest, again.notes, again.classes) == (first.digest, first.notes, first.classes)
    assert everything(again.samples).equal(everything(first.samples))
    assert other_way.digest != first.digest


def test_a_change_of_the_same_size_is_seen_even_where_its_time_was_set_back(
    files: WorkerFiles, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(noise(0, 4, 3, 3)))
    labels = root / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.array([0, 1, 2, 3], np.uint8)))
    age(root)
    before, status = opened(str(root), files), labels.stat()
    with labels.open("r+b") as file:
        file.write(idx_bytes(np.array([3, 2, 1, 0], np.uint8)))
    age(root)
    assert (labels.stat().st_size, labels.stat().st_mtime_ns, labels.stat().st_ino) == (
        status.st_size, status.st_mtime_ns, status.st_ino
    )  # fmt: skip
    after = opened(str(root), files)
    assert after.samples.labels.tolist() == [3, 2, 1, 0]
    assert after.digest != before.digest


def test_files_of_just_now_are_not_relied_upon(
    files: WorkerFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    write_classes(root, noise(0, 3, 3), noise(1, 3, 3))
    opens = []
    real = sample_images.open_dataset

    def counted(*args: Any, **kwargs: Any) -> Any:
        opens.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(sample_images, "open_dataset", counted)
    digests = {opened(str(root), files).digest for _ in range(2)}
    assert (len(opens), len(digests)) == (2, 1)
    age(root)
    digests |= {opened(str(root), files).digest for _ in range(2)}
    assert (len(opens), len(digests)) == (3, 1)


def test_data_that_change_while_they_are_read_are_refused(
    files: WorkerFiles, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    write_classes(root, noise(0, 3, 3), noise(1, 3, 3))
    age(root)

    def meddle(event: dict[str, Any]) -> None:
        if event.get("done") == 0:
            write_png(root / "class1" / "image.png", noise(9, 3, 3))

    with pytest.raises(DatasetError, match="was changed while it was read"):
        opened(str(root), files, on_progress=meddle)
    found = opened(str(root), files)
    assert np.array_equal(everything(found.samples)[1, 0].numpy() * 255, noise(9, 3, 3))


def test_copies_of_the_same_data_share_their_arrays(files: WorkerFiles, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_classes(tmp_path / name, noise(0, 3, 3), noise(1, 3, 3))
    first = opened(str(tmp_path / "one"), files)
    events: list[dict[str, Any]] = []
    second = opened(str(tmp_path / "two"), files, on_progress=events.append)
    assert first.digest == second.digest
    assert [event["stage"] for event in events] == ["reading the data"]


def test_arrays_that_are_damaged_or_evicted_are_made_anew(
    files: WorkerFiles, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    write_classes(root, noise(0, 3, 3), noise(1, 3, 3))
    age(root)
    first = opened(str(root), files)
    values = everything(first.samples)
    pixels = next(files.cache.folder.rglob("pixels.bin"))
    for damage in (lambda: os.truncate(pixels, 5), (pixels.parent / "labels.npy").unlink):
        damage()
        assert map_images(pixels.parent) is None
        again = opened(str(root), files)
        assert again.digest == first.digest
        assert everything(again.samples).equal(values)
    note = next(files.cache.folder.rglob("samples-known/*"))
    note.write_text("[]")
    assert opened(str(root), files).digest == first.digest


def test_arrays_that_cannot_be_kept_say_what_to_raise(
    files: WorkerFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "data", noise(0, 3, 3), noise(1, 3, 3))
    monkeypatch.setattr(sample_images, "map_images", lambda _: None)
    with pytest.raises(StorageFull, match="Raise VISIONDYNO_CACHE_BYTES"):
        opened(str(tmp_path / "data"), files)


def test_samples_outlive_their_files(files: WorkerFiles, tmp_path: Path) -> None:
    write_classes(tmp_path / "data", noise(0, 3, 3), noise(1, 3, 3))
    reference = blob(files, features=noise(2, 4, 4), labels=np.arange(4))
    images, tensors = opened(str(tmp_path / "data"), files), opened(reference, files)
    shutil.rmtree(files.cache.folder)
    shutil.rmtree(tmp_path / "blobs")
    assert np.array_equal(everything(images.samples)[1, 0].numpy() * 255, noise(1, 3, 3))
    assert np.array_equal(everything(tensors.samples).numpy(), noise(2, 4, 4))


def test_preparing_tells_its_progress_and_stops_when_cancelled(
    files: WorkerFiles, tmp_path: Path
) -> None:
    write_classes(tmp_path / "data", *[noise(seed, 3, 3) for seed in range(70)])
    events: list[dict[str, Any]] = []
    with pytest.raises(Cancelled):
        opened(
            str(tmp_path / "data"),
            files,
            on_progress=events.append,
            is_cancelled=lambda: bool(events) and events[-1].get("done") == 40,
        )
    assert events[0] == {"stage": "reading the data", "data": str(tmp_path / "data")}
    assert events[-1] == {"stage": "preparing the data", "done": 40, "total": 70}
    assert not list(files.cache.folder.rglob("pixels.bin")), "half of the work isn't kept"
    assert len(opened(str(tmp_path / "data"), files).samples) == 70
