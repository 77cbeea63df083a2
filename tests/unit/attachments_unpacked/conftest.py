"""A worker's home, and attachments that are as they should be."""

from pathlib import Path
from typing import Any

import pytest

from attached_jobs import attached, folder_of
from dataset_factory import write_coco
from tiny_models import write_detector

Json = dict[str, Any]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VISIONDYNO_BLOBS_URL", raising=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


@pytest.fixture
def coco(tmp_path: Path) -> Json:
    write_coco(tmp_path / "coco")
    return attached(folder_of(tmp_path / "coco", "set"), "set")


@pytest.fixture
def detector(tmp_path: Path) -> Json:
    path = write_detector(tmp_path / "m.onnx", [[0, 0, 4, 4, 0.5, 1]])
    return attached({"m.onnx": path.read_bytes()}, "m.onnx")
