"""`make pairs` in small, and what its reports say: real trainings, real comparisons."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("ultralytics")

from visiondyno.report.write import read_report

pytestmark = [pytest.mark.torch, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SMALL = {"IMAGES": "8", "VALIDATION": "4", "EPOCHS": "1", "IMGSZ": "64", "DURATION": "0.1"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pairs")


def run_script(out: Path, pair: str) -> str:
    small = {f"PAIRS_{name}": value for name, value in SMALL.items()}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "pairs.py"), pair],
        env={**os.environ, **small, "PAIRS_OUT": str(out), "OMP_NUM_THREADS": "1"},
        cwd=out,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_pair_is_trained_compared_and_reported(out: Path) -> None:
    said = run_script(out, "efficientnet_b0-detectron2")
    assert "is there already" not in said
    found = read_report(out / "efficientnet_b0-detectron2" / "report.json")
    assert found.dataset.level == "image"
    assert [model.name for model in found.models] == [
        "efficientnet_b0",
        "fasterrcnn_mobilenet_v3_large_fpn",
    ]
    notes = " ".join(found.notes)
    assert "stands in for detectron2" in notes
    assert [model.stands_in_for for model in found.models] == [None, "detectron2"]
    for name in ("report.html", "report.md"):
        report = (out / "efficientnet_b0-detectron2" / name).read_text()
        assert report.count("in place of detectron2") == 1, name
    assert "in place of detectron2" in " ".join(said.split())
    assert "street:train:8" in notes
    # Other scenes than those that were learned from.
    assert "learned from" not in notes
    assert "Image AP" in said.rpartition("Pair ")[2]


def test_what_is_trained_is_taken_and_warned_of_on_its_own_images(out: Path) -> None:
    folder = out / "models" / "efficientnet_b0"
    args = ["compare", "family:efficientnet_b0", "--data", "street:train:8", "--duration", "0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "visiondyno", *args, "--out", str(out / "own")],
        env={**os.environ, "VISIONDYNO_HOME": str(out / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = read_report(out / "own" / "report.json")
    assert found.models[0].reference == str(folder)
    assert any("learned from 8 of the 8 images" in note for note in found.notes)
    assert "learned from 8 of the 8 images" in " ".join(done.stdout.split())
