"""`dyno predict` of videos, folders and patterns, as its users run it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from visiondyno.cli import main
from visiondyno.cli.progress import ProgressDisplay
from visiondyno.job import JobEvent
from visiondyno.vision.video_file import VideoFile


def write_clip(path: Path, frames: int) -> Path:
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 10.0, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), number % 200, np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", 12)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "fake:detection", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def length(path: Path) -> int:
    with VideoFile(path) as video:
        while video.next_frame() is not None:
            pass
        return video.passed


def test_a_video_is_drawn_and_written_as_lines(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, lines = tmp_path / "drawn.mp4", tmp_path / "found.jsonl"
    assert run(clip, "--out", drawn, "--out", lines, "--track", "--start", "0.2", "--end", "1") == 0
    said = capsys.readouterr()
    assert f"{clip}: 8 frames" in said.out
    assert "objects" in said.out
    assert f"Written: {drawn}" in said.out
    assert "without sound" in said.out
    assert "predicting frames" in said.err
    assert length(drawn) == 8
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [one["frame"] for one in found] == list(range(2, 10))
    assert {"time_s", "boxes_xyxy", "scores", "classes", "names", "track_ids"} <= found[0].keys()
    assert sorted(tmp_path.iterdir()) == [drawn, lines]


def test_json_is_a_line_a_frame_on_standard_output(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--every", 5, "--max-frames", 2, "--classes", "car", "--confidence", 0)
    assert run(clip, "--json", *options) == 0
    said = capsys.readouterr()
    found = [json.loads(line) for line in said.out.splitlines()]
    assert [one["frame"] for one in found] == [0, 5]
    assert {name for one in found for name in one["names"]} <= {"car"}
    assert f"{clip}: 2 frames" in said.err


def test_an_interrupted_video_is_kept_as_far_as_it_came(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "long.mp4", 5000)
    drawn, lines = tmp_path / "drawn.avi", tmp_path / "found.jsonl"
    command = [
        *(sys.executable, "-m", "visiondyno", "predict", "fake:detection", str(clip)),
        *("--out", str(drawn), "--out", str(lines), "--threads", "1"),
    ]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + 120
    while not any(p.stat().st_size > 20_000 for p in tmp_path.glob(".found.jsonl.*")):
        assert child.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "chosen frames are in" in said
    assert "Interrupted" in said
    frames = len(lines.read_text().splitlines())
    assert 20 < frames < 5000
    assert abs(length(drawn) - frames) <= 1
    assert names_in(tmp_path) == ["drawn.avi", "found.jsonl", "long.mp4"]


def test_folders_and_patterns_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("b.jpg", "a.png", "c.jpg"):
        cv2.imwrite(str(images / name), np.full((48, 64, 3), 90, np.uint8))
    assert run(images, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [str(images / name) for name in ("a.png", "b.jpg", "c.jpg")]
    out = tmp_path / "drawn" / "here"
    assert run(images / "*.jpg", images / "b.jpg", "--out", out) == 0
    assert names_in(out) == ["b.jpg", "c.jpg"]
    assert run(images / "a.png", "--out", out) == 0
    assert (out / "a.png").is_file()
    assert "Drawn: " in capsys.readouterr().out


def write_image(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.full((48, 64, 3), 90, np.uint8))
    return path


def test_a_bad_image_keeps_no_other_from_being_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [write_image(tmp_path / f"{name}.png") for name in "abc"]
    for bad in (images[0], images[2]):
        bad.write_bytes(bad.read_bytes()[:60])
    missing = tmp_path / "gone.png"
    assert run(*images, missing, "--json") == 2
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert list(found) == [str(path) for path in (*images, missing)]
    assert "boxes_xyxy" in found[str(images[1])]
    assert "damaged" in found[str(images[2])]["error"]["message"]
    assert "3 of 4 images can't be read" in said.err
    assert f"Not predicted: {missing} can't be read: No such file" in said.err
    assert run(*images, "--out", tmp_path / "drawn") == 2
    assert names_in(tmp_path / "drawn") == ["b.png"]


def test_videos_in_a_folder_are_not_passed_over_in_silence(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    write_image(folder / "a.png")
    (folder / "b.mp4").write_bytes(clip.read_bytes())
    assert run(folder, "--json", "--out", tmp_path / "drawn") == 0
    said = capsys.readouterr()
    assert list(json.loads(said.out)) == [str(folder / "a.png")]
    assert "Note: 1 video is passed over: give each by itself." in said.err
    (folder / "a.png").unlink()
    assert run(folder) == 2
    assert "but 1 video is there" in " ".join(capsys.readouterr().err.split())


def test_a_video_is_one_whatever_it_is_called(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recording"
    path.write_bytes(clip.read_bytes())
    assert run(path, "--max-frames", 2) == 0
    assert f"{path}: 2 frames" in capsys.readouterr().out


def test_an_image_is_never_drawn_over_its_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write_image(tmp_path / "a.png")
    before = image.read_bytes()
    assert run(image, "--out", image) == 2
    assert "drawn over its own source" in " ".join(capsys.readouterr().err.split())
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("IMAGES", "--track"), "--track is of videos"),
        (("IMAGES", "--start", "3"), "--start is of videos"),
        (("CLIP", "CLIP2"), "A video comes alone"),
        (("CLIP", "--out", "x.gif"), "neither a video (.avi"),
        (("CLIP", "--out", "a.mp4", "--out", "b.mp4"), "give each once"),
        (("CLIP", "--out", "none/x.mp4"), "a folder that isn't there"),
        (("CLIP", "--out", "CLIP"), "is the video itself"),
        (("CLIP", "--every", "2", "--fps", "1"), "give one of 'every' and 'fps'"),
        (("CLIP", "--start", "90"), "None of the video's 12 frames was chosen"),
        (("none.mp4",), "can't be read: No such file"),
        (("EMPTY",), "is empty (0 bytes)"),
        (("BARE",), "holds no image"),
        (("BARE/*.jpg",), "No file fits the pattern"),
        (("IMAGES", "--out", "x.jpg"), "takes one image, and there are 2"),
        (("IMAGES", "--out", "a", "--out", "b"), "Give --out once"),
        (("IMAGES", "--out", "IMAGES"), "drawn over its own source"),
        (("IMAGES", "MORE", "--out", "d"), "Two images are called a.jpg"),
        (("IMAGES", "--out", "EMPTY/d"), "can't be made"),
        (("IMAGES", "--classes", "plane"), "no class 'plane'"),
    ],
)
def test_what_cant_be_done_is_said(
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    image = np.full((48, 64, 3), 90, np.uint8)
    for folder, names in (("images", ("a.jpg", "b.jpg")), ("more", ("a.jpg",)), ("bare", ())):
        Path(folder).mkdir()
        for name in names:
            cv2.imwrite(f"{folder}/{name}", image)
    Path("empty.mp4").touch()
    stands_for = {
        "IMAGES": "images",
        "MORE": "more",
        "BARE": "bare",
        "BARE/*.jpg": "bare/*.jpg",
        "CLIP": str(clip),
        "CLIP2": str(clip.with_name("other.mp4")),
        "EMPTY": "empty.mp4",
        "EMPTY/d": "empty.mp4/d",
    }
    assert run(*(stands_for.get(one, one) for one in arguments)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert says in said
    assert "Traceback" not in said


def test_lines_that_cant_be_written_are_told(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken.jsonl").mkdir()
    assert run(clip, "--out", tmp_path / "taken.jsonl") == 2
    assert "Predictions can't be written to" in capsys.readouterr().err


def test_progress_tells_how_fast_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as display:
        said = {"stage": "predicting frames", "done": 3, "total": 9, "detail": "8.1 frames/s"}
        display.show(JobEvent(job_id="", number=0, state="IN_PROGRESS", progress=said))
        assert display._bars.tasks[0].fields["count"] == "3/9  8.1 frames/s"
