"""Videos: which frames are read, and what labels must say."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dataset_factory import VIDEO_SIZE, write_coco, write_video
from visiondyno.datasets.registry import open_dataset
from visiondyno.datasets.video import write_frames
from visiondyno.errors import DatasetError
from visiondyno.vision.video_file import VideoFile


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_video(tmp_path / "videos")
    return tmp_path / "videos" / "clip.avi"


def relabel(clip: Path, **changes: Any) -> None:
    path = clip.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_labelled_frames_are_the_ones_named(clip: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(clip), cache_dir=tmp_path / "cache")
    assert (dataset.format, dataset.task, len(dataset)) == ("video", "detection", 4)
    found = [dataset.sample(index) for index in range(4)]
    assert [item.image_id for item in found] == [2, 1, 4, 3], "in the order of frames"
    assert [len(item.truth) for item in found] == [0, 1, 0, 1]
    for item, number in zip(found, (0, 2, 5, 8), strict=True):
        assert (item.width, item.height) == VIDEO_SIZE
        assert cv2.imread(str(item.path)).mean() == pytest.approx(20 * number + 3.5, abs=3)
    (note,) = dataset.notes
    assert "64×48, 25 frames a second, 9 frames" in note
    assert "4 labelled ones, kept as JPEG of quality 95" in note


def test_frames_are_decoded_once(clip: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    for _ in range(2):
        open_dataset(str(clip), cache_dir=tmp_path, on_progress=lambda *at: told.append(at))
    assert told == [(0, 8)]
    (folder,) = tmp_path.glob("video-v1-*")
    assert len(list(folder.glob("*.jpg"))) == 4


def test_header(clip: Path) -> None:
    with VideoFile(clip) as video:
        header = video.header
    assert (header.width, header.height) == VIDEO_SIZE
    assert (header.frames_per_second, header.frames_announced) == (25.0, 9)


def test_a_video_without_labels_says_what_is_missing(clip: Path) -> None:
    clip.with_suffix(".json").unlink()
    with pytest.raises(DatasetError, match=r"no labels.*Put COCO JSON beside it as clip\.json"):
        open_dataset(str(clip))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["frame_000009"], r"ends after 9 frames, but its labels name frame 9"),
        (["photo.jpg"], "'photo.jpg', which names no frame"),
        ([None], "'None', which names no frame"),
        (["-1"], "'-1', which names no frame"),
        (["1", "frame_000001"], "Images 0 and 1 in .* are both frame 1"),
        ([], "list no images"),
    ],
)
def test_labels_must_name_frames(
    clip: Path, tmp_path: Path, names: list[str | None], words: str
) -> None:
    images = [{"id": index, "file_name": name} for index, name in enumerate(names)]
    relabel(clip, images=images, annotations=[])
    with pytest.raises(DatasetError, match=words):
        open_dataset(str(clip), cache_dir=tmp_path)


def test_labels_that_are_not_coco(clip: Path, tmp_path: Path) -> None:
    relabel(clip, images=["frame_000001"])
    with pytest.raises(DatasetError, match="list no images"):
        open_dataset(str(clip), cache_dir=tmp_path)
    relabel(clip, images=[{"id": 1, "file_name": "1"}, "x"])
    with pytest.raises(DatasetError, match="must be a list of objects"):
        open_dataset(str(clip), cache_dir=tmp_path)


def test_a_size_in_the_labels_must_be_the_video_s(clip: Path, tmp_path: Path) -> None:
    relabel(clip, images=[{"id": 1, "file_name": "1", "width": 640, "height": 480}], annotations=[])
    with pytest.raises(DatasetError, match=r"is 64×48 pixels, but clip\.json says 640×480"):
        open_dataset(str(clip), cache_dir=tmp_path)


PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nother.avi\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("data", [b"", b"not a video at all" * 100, PLAYLIST])
def test_what_is_no_video(clip: Path, tmp_path: Path, data: bytes) -> None:
    clip.rename(clip.with_name("other.avi"))
    clip.write_bytes(data)
    with pytest.raises(DatasetError, match=r"clip\.avi is no MP4, MOV, AVI"):
        open_dataset(str(clip), cache_dir=tmp_path)


def test_large_frames_are_refused_before_one_is_decoded(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visiondyno.datasets.video.MOST_FRAME_PIXELS", 3000)
    with pytest.raises(DatasetError, match=r"64×48 pixels; at most 0\.003 megapixels"):
        open_dataset(str(clip), cache_dir=tmp_path)


def test_a_truncated_video(clip: Path, tmp_path: Path) -> None:
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=r"ends after|can't be opened"):
        open_dataset(str(clip), cache_dir=tmp_path)
    assert not list(tmp_path.glob("video-*")), "nothing half-made stays"


def test_no_such_video(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="can't be opened"):
        write_frames(tmp_path / "gone.mp4", [0], tmp_path)


def test_a_file_has_no_split(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="one file and has no split 'val'"):
        open_dataset(f"{clip}:val", cache_dir=tmp_path)
    write_coco(tmp_path / "coco")
    with pytest.raises(DatasetError, match="no split 'val': its form has no splits"):
        open_dataset(f"{tmp_path / 'coco'}:val")


def test_frames_look_as_they_are(clip: Path, tmp_path: Path) -> None:
    """Nearly lossless: within a few levels of what the video holds."""
    write_frames(clip, [3], tmp_path)
    capture = cv2.VideoCapture(str(clip))
    frames = [capture.read()[1] for _ in range(4)]
    capture.release()
    kept = cv2.imread(str(tmp_path / "frame_000000003.jpg"))
    assert np.abs(kept.astype(int) - frames[3]).mean() < 2
