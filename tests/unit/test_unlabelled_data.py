"""Images and videos without labels: what is opened, and where models agree on them."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import visiondyno
from visiondyno.datasets.indexed import describe
from visiondyno.datasets.registry import open_dataset
from visiondyno.datasets.video import MOST_UNLABELLED_FRAMES
from visiondyno.errors import ClassMismatch, DatasetError, SpecError
from visiondyno.operations.unlabelled import agreement
from visiondyno.predictions import Classification, DepthMap, Detections, NoTruth
from visiondyno.vision import video_file
from visiondyno.vision.video_file import VideoFile

NAMES = ("car", "truck")


def write_clip(path: Path, frames: int) -> Path:
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 10.0, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), number % 50 * 5, np.uint8))
    writer.release()
    return path


def write_images(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((20, 30, 3), 90, np.uint8))
    return folder


@pytest.mark.parametrize("names", [("b.jpg", "a.png"), ("images/b.jpg", "images/a.png")])
def test_a_folder_of_images_is_opened_where_labels_arent_needed(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    folder = write_images(tmp_path / "set", *names)
    with pytest.raises(DatasetError, match=r"but no labels.*dyno compare measures speed"):
        open_dataset(str(folder))
    dataset = open_dataset(str(folder), unlabelled=True)
    assert (dataset.task, dataset.format, dataset.classes) == ("unlabelled", "images", ())
    assert [dataset.sample(n).path.name for n in range(2)] == ["a.png", "b.jpg"]
    assert dataset.sample(0).truth == NoTruth()
    assert (dataset.sample(0).width, dataset.sample(0).height) == (30, 20)
    assert "no labels: accuracy isn't measured" in dataset.notes[-1]
    assert describe(dataset)["objects"] == 0
    assert dataset.digest.startswith("sha256:")


def test_folders_in_a_folder(tmp_path: Path) -> None:
    deep = write_images(tmp_path / "deep", "day/one/a.jpg")
    assert len(open_dataset(str(deep), unlabelled=True)) == 1
    classes = write_images(tmp_path / "classes", "cat/a.jpg", "dog/b.jpg")
    assert open_dataset(str(classes), unlabelled=True).task == "classification"


def test_a_video_gives_frames_at_even_distances(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.avi", 21)
    cache = tmp_path / "cache"
    dataset = open_dataset(str(clip), unlabelled=True, max_images=5, cache_dir=cache)
    assert (dataset.task, dataset.format) == ("unlabelled", "frames")
    names = [dataset.sample(n).path.stem for n in range(len(dataset))]
    assert names == [f"frame_{n:09d}" for n in (0, 5, 10, 15, 20)]
    assert "the 5 at even distances" in dataset.notes[0]
    assert len(open_dataset(str(clip), unlabelled=True, cache_dir=cache)) == 21
    one = open_dataset(str(clip), unlabelled=True, max_images=1, cache_dir=cache)
    assert len(one) == 1


def test_a_long_video_gives_some_hundred_frames(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.avi", MOST_UNLABELLED_FRAMES + 50)
    dataset = open_dataset(str(clip), unlabelled=True, cache_dir=tmp_path)
    assert len(dataset) == MOST_UNLABELLED_FRAMES


def test_a_cut_off_video_gives_what_it_has(tmp_path: Path) -> None:
    content = write_clip(tmp_path / "clip.avi", 30).read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(content[: len(content) * 7 // 10])
    assert 0 < len(open_dataset(str(cut), unlabelled=True, cache_dir=tmp_path)) < 30


def test_a_video_that_does_not_say_how_long_it_is_gives_even_distances_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "clip.avi", 21)
    real = video_file._header
    monkeypatch.setattr(
        video_file, "_header", lambda capture: replace(real(capture), frames_announced=None)
    )
    dataset = open_dataset(str(clip), unlabelled=True, max_images=3, cache_dir=tmp_path)
    names = [dataset.sample(n).path.stem for n in range(len(dataset))]
    assert names == [f"frame_{n:09d}" for n in (0, 10, 20)]
    assert "length unknown" in dataset.notes[0]


def test_a_frame_that_cant_be_decoded_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "clip.avi", 5)
    real = VideoFile.image
    monkeypatch.setattr(
        VideoFile, "image", lambda video: None if video.passed == 2 else real(video)
    )
    dataset = open_dataset(str(clip), unlabelled=True, cache_dir=tmp_path)
    assert len(dataset) == 4
    assert "the 4 at even distances" in dataset.notes[0]


def test_models_are_compared_without_accuracy(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.avi", 12)
    options = {"duration_s": 0.05, "resamples": 100, "use_cache": False}
    models = ("fake:detection", "fake:detection:1")
    found = visiondyno.compare(models, data=str(clip), **options)
    first, second = found.models
    assert found.dataset.task == "unlabelled"
    assert (found.dataset.objects, found.dataset.classes) == (0, {})
    for model in found.models:
        assert model.measures["accuracy"].value is None
        assert model.measures["accuracy"].reason == "the data have no labels"
        assert model.measures["latency_p50_ms"].value > 0
        assert not model.worst_images
    assert first.measures["agreement"].reason == "it is the reference model itself"
    assert 0 <= second.measures["agreement"].value < 1
    assert any("no labels" in note for note in found.notes)
    with pytest.raises(ClassMismatch, match="doesn't know plane"):
        visiondyno.compare(models[:1], data=str(clip), classes=["plane"], **options)
    with pytest.raises(SpecError, match="has no labels"):
        visiondyno.compare(models[:1], data=str(clip), level="image", **options)
    with pytest.raises(DatasetError, match="has no labels"):
        visiondyno.evaluate(models[0], data=str(clip))


# ---- agreement


def boxes(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    array = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(array[:, :4], array[:, 4], array[:, 5].astype(np.int64))


@given(count=st.integers(1, 20), shift=st.sampled_from([0, 2, 30]))
def test_agreement_is_of_overlapping_boxes_of_one_class(count: int, shift: int) -> None:
    first = [boxes((0, 0, 20, 20, 0.9, 0))] * count
    second = [boxes((shift, 0, 20 + shift, 20, 0.5, 0))] * count
    found = agreement(first, second, (NAMES, NAMES), 100, 0)
    assert found.value == (1.0 if shift < 7 else 0.0)
    assert found.n == count
    assert agreement(second, first, (NAMES, NAMES), 100, 0).value == found.value


def test_agreement_counts_each_box_once_and_by_name() -> None:
    one = boxes((0, 0, 20, 20, 0.9, 0), (1, 0, 21, 20, 0.8, 0), (0, 0, 20, 20, 0.2, 0))
    other = boxes((0, 0, 20, 20, 0.9, 1))
    swapped = ("truck", "car")
    assert agreement([one], [other], (NAMES, swapped), 100, 0).value == pytest.approx(2 / 3)
    assert agreement([one], [other], (NAMES, NAMES), 100, 0).value == 0
    partly = agreement([one], [other], (NAMES, ("plane", "car")), 100, 0)
    assert partly.value == pytest.approx(2 / 3)
    assert "2 classes that only one model knows" in partly.method
    mixed = agreement([one, boxes()] * 20, [one, other] * 20, (NAMES, NAMES), 200, 0)
    assert mixed.value == pytest.approx(4 / 5)
    assert mixed.interval is not None


def test_what_agreement_cant_be_told_of() -> None:
    nothing = [boxes()] * 3
    empty = agreement(nothing, nothing, (NAMES, NAMES), 100, 0)
    assert empty.reason == "neither model finds anything in any image"
    apart = agreement(nothing, nothing, (NAMES, ("a",)), 100, 0)
    assert apart.reason == "the models know no class in common"
    maps = [DepthMap(np.ones((2, 2), np.float32))]
    assert "depth maps" in (agreement(maps, maps, ((), ()), 100, 0).reason or "")


def test_classifiers_agree_on_the_best_class() -> None:
    cars, trucks = (Classification(np.array(p, np.float32)) for p in ((0.9, 0.1), (0.2, 0.8)))
    found = agreement([cars, trucks, cars], [cars, cars, cars], (NAMES, NAMES), 100, 0)
    assert found.value == pytest.approx(2 / 3)
    assert "same best class" in found.method
    partly = agreement([cars], [cars], (NAMES, ("car", "plane")), 100, 0)
    assert partly.value == 1
    assert "2 classes that only one model knows never agree" in partly.method
    assert agreement([trucks], [trucks], (NAMES, ("car", "plane")), 100, 0).value == 0
