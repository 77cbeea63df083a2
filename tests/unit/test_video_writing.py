"""Videos that are written: frames, times, and what can't be written."""

import resource
from pathlib import Path

import numpy as np
import pytest

from video_clips import HEIGHT, SPEED, WIDTH, brightness
from visiondyno.errors import (
    SpecError,
    StorageFull,
)
from visiondyno.vision.video_file import VideoFile
from visiondyno.vision.video_writer import VideoWriter


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with VideoWriter(path, SPEED) as writer:
        for number in range(6):
            writer.write(np.full((HEIGHT, WIDTH, 3), number * 40, np.uint8), number / SPEED)
    assert brightness(path) == pytest.approx([n * 40 for n in range(6)], abs=6)
    with VideoFile(path) as video:
        assert (video.header.width, video.header.height) == (WIDTH, HEIGHT)
        assert video.header.frames_per_second == pytest.approx(SPEED)
    assert list(tmp_path.iterdir()) == [path]


def test_uneven_times_are_kept_by_holding_frames(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    with VideoWriter(path, 10.0) as writer:
        for value, time_s in ((0, 5.0), (50, 5.1), (100, 5.5), (150, 5.52), (200, 5.61)):
            writer.write(np.full((48, 64, 3), value, np.uint8), time_s)
    # What comes sooner than a frame lasts isn't shown.
    assert brightness(path) == pytest.approx([0, 50, 50, 50, 50, 150, 200], abs=4)
    with VideoWriter(path, 10.0) as writer:
        for value in (0, 100, 200):
            writer.write(np.full((48, 64, 3), value, np.uint8), None)
    assert brightness(path) == pytest.approx([0, 100, 200], abs=4)


def write_at(path: Path, times_s: list[float | None], speed: float = 10.0) -> VideoWriter:
    """A video of images that are shown at these times, each 50 brighter than the one before."""
    with VideoWriter(path, speed) as writer:
        for number, time_s in enumerate(times_s):
            writer.write(np.full((48, 64, 3), number * 50, np.uint8), time_s)
    return writer


def test_a_long_gap_is_shortened_once(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    writer = write_at(path, [0.0, 0.1, 1e6, 1e6 + 0.1, 1e6 + 0.3])
    assert (writer.shortened, writer.longest_s) == (1, 60)
    found = brightness(path)
    assert len(found) == 1 + 600 + 1 + 2 + 1
    assert found[-4:] == pytest.approx([100, 150, 150, 200], abs=4)
    slow = write_at(path, [0.0, 100.0, 200.0], speed=0.01)  # as chosen
    assert slow.shortened == 0
    assert len(brightness(path)) == 10 + 10 + 1


def test_times_that_go_back_lose_no_image(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    assert write_at(path, [5.0, 5.1, 0.0, 0.1]).went_back == 1
    assert brightness(path) == pytest.approx([0, 50, 100, 150], abs=4)
    write_at(path, [None, None, 7.0, 7.2, None])
    assert brightness(path) == pytest.approx([0, 50, 100, 100, 150, 200], abs=4)


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4"])
def test_a_video_that_a_full_disk_cuts_off_is_not_taken_for_whole(
    tmp_path: Path, suffix: str
) -> None:
    def write_noise() -> None:
        rng = np.random.default_rng(0)
        with VideoWriter(tmp_path / f"out{suffix}", 10.0) as writer:
            for number in range(60):
                writer.write(rng.integers(0, 255, (120, 160, 3), np.uint8), number / 10)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # of each file of this process
    try:
        with pytest.raises(StorageFull, match="has room"):
            write_noise()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_name_that_looks_like_a_protocol_is_a_file_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_at(Path("concat:a.avi"), [0.0, 0.1])
    assert brightness(Path("concat:a.avi")) == pytest.approx([0, 50], abs=4)


def test_odd_and_changing_sizes_are_written(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    with VideoWriter(path, 25.0) as writer:
        writer.write(np.full((33, 51, 3), 90, np.uint8), 0.0)
        writer.write(np.full((70, 90, 3), 90, np.uint8), 0.04)
    assert writer.is_padded
    with VideoFile(path) as video:
        assert (video.header.width, video.header.height) == (52, 34)
    assert brightness(path) == pytest.approx([90, 90], abs=3)


def test_what_cant_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(SpecError, match=r"end its name in one of \.avi"):
        VideoWriter(tmp_path / "out.gif", 25)
    with pytest.raises(StorageFull, match="its folder isn't there"):
        VideoWriter(tmp_path / "none" / "out.mp4", 25).write(image, 0)
    writer = VideoWriter(tmp_path / "out.mp4", 25)
    writer.write(image, 0)
    writer._partial.unlink()  # as where OpenCV couldn't write it
    with pytest.raises(StorageFull, match="can't be written"):
        writer.close()
    folder = tmp_path / "taken.mp4"
    folder.mkdir()
    writer = VideoWriter(folder, 25)
    writer.write(image, 0)
    with pytest.raises(StorageFull, match="Is a directory"):
        writer.close()
    assert list(tmp_path.iterdir()) == [folder]
    VideoWriter(tmp_path / "empty.mp4", 25).close()
    assert not (tmp_path / "empty.mp4").exists()
