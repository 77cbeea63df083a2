"""Trained models: what their folders hold is verified, and they are found again, newest first."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from trained_model_factory import STREET, trained_folder, trained_record
from visiondyno.errors import ModelError, StorageFull
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.trained_models import (
    find_trained,
    is_of_family,
    read_trained,
    read_weights,
    register,
    trained_models,
    write_trained,
)
from visiondyno.specs.trained_model import RECORD, WEIGHTS


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_folder_with_a_record_is_a_reference(tmp_path: Path) -> None:
    record = trained_folder(tmp_path / "run")
    found = resolve_reference(str(tmp_path / "run"))
    assert (found.runtime, found.path) == ("trained", tmp_path / "run")
    assert read_trained(tmp_path / "run") == record
    weights = read_weights(tmp_path / "run", record)
    np.testing.assert_array_equal(weights["weight"], np.arange(6))


@pytest.mark.torch
def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = {"weight": torch.randn(3, 2), "steps": torch.tensor(7), "half": torch.ones(2).half()}
    folder = tmp_path / "new" / "run"
    written = write_trained(folder, trained_record(), state)
    assert read_trained(folder) == written
    assert written == trained_record(weights_sha256=written.weights_sha256)
    read = read_weights(folder, written)
    for name, tensor in state.items():
        np.testing.assert_array_equal(read[name], tensor.numpy())
    again = write_trained(folder, trained_record(), {"weight": torch.zeros(1)})
    assert again.weights_sha256 != written.weights_sha256
    assert read_weights(folder, read_trained(folder)).keys() == {"weight"}


@pytest.mark.torch
def test_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFull, match=r"trained model can't be written to .*file/run"):
        write_trained(tmp_path / "file" / "run", trained_record(), {"weight": torch.zeros(1)})


def test_weights_that_are_not_those_of_the_record_are_refused(tmp_path: Path) -> None:
    record = trained_folder(tmp_path / "run")
    path = tmp_path / "run" / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"its SHA-256 differs.*copy the folder again"):
        read_weights(tmp_path / "run", record)
    path.unlink()
    with pytest.raises(ModelError, match=r"weights.safetensors can't be read .*whole folder"):
        read_weights(tmp_path / "run", record)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "isn't JSON"),
        ("[" * 100_000, "isn't JSON"),
        ("{}", "no record of a trained model: "),
        ('{"schema": "visiondyno.trained-model/9"}', "no record of a trained model: "),
    ],
)
def test_records_that_are_none_are_refused(tmp_path: Path, text: str, said: str) -> None:
    trained_folder(tmp_path / "run")
    (tmp_path / "run" / RECORD).write_text(text)
    with pytest.raises(ModelError, match=said):
        read_trained(tmp_path / "run")


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"visiondyno-model.json can't be read .*training left"):
        read_trained(tmp_path)


def test_the_newest_comes_first_whatever_the_time_zone(tmp_path: Path) -> None:
    moments = {
        "oldest": "2026-11-22T21:00:00",
        "middle": "2026-11-23T00:30:00+02:00",
        "newest": "2026-11-22T23:00:00Z",
        "unknown": "some day",
    }
    for name, moment in moments.items():
        register(tmp_path / name, trained_folder(tmp_path / name, created_at=moment))
    assert [one.folder.name for one in trained_models()] == [
        "newest",
        "middle",
        "oldest",
        "unknown",
    ]
    assert all(one.folder.is_absolute() for one in trained_models())


def test_the_index_follows_the_folders(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert trained_models() == []
    monkeypatch.chdir(tmp_path)
    register(Path("run"), trained_folder(Path("run")))
    register(tmp_path / "run", read_trained(Path("run")))
    assert [one.folder for one in trained_models()] == [tmp_path / "run"]
    (home / "models" / "other.json").write_text("[]")
    (home / "models" / "third.json").write_text(json.dumps({"folder": str(tmp_path / "bad")}))
    trained_folder(tmp_path / "bad")
    (tmp_path / "bad" / RECORD).write_text("{}")
    assert [one.folder for one in trained_models()] == [tmp_path / "run"]
    assert "other.json is no entry" in caplog.text
    assert "no record of a trained model" in caplog.text
    shutil.rmtree(tmp_path / "run")
    assert trained_models() == []


def test_an_index_that_can_not_be_written_is_said(tmp_path: Path, home: Path) -> None:
    home.write_text("a file")
    with pytest.raises(StorageFull, match="index of trained models can't be written"):
        register(tmp_path, trained_record())


@pytest.mark.parametrize(
    ("family", "library", "name", "is_one"),
    [
        ("yolov5", "ultralytics", "yolov5nu", True),
        ("yolov8", "ultralytics", "yolov8n", True),
        ("yolo11", "ultralytics", "yolo11s", True),
        ("yolov8", "ultralytics", "yolov5nu", False),
        ("yolov8", "timm", "yolov8n", False),
        ("yolo26n", "ultralytics", "yolo26n", True),
        ("", "ultralytics", "yolo26n", False),
        ("detectron2", "torchvision", "fasterrcnn_mobilenet_v3_large_320_fpn", True),
        ("detectron2", "torchvision", "retinanet_resnet50_fpn", False),
        ("detectron2", "transformers", "fasterrcnn_x", False),
        ("efficientnet_b0", "torchvision", "efficientnet_b0", True),
        ("efficientnet_b0", "timm", "efficientnet_b0", True),
        ("efficientnet_b0", "torchvision", "efficientnet_b01", False),
    ],
)
def test_families_are_what_users_call_so(
    family: str, library: str, name: str, is_one: bool
) -> None:
    assert is_of_family(trained_record(family=library, name=name), family) is is_one


def test_models_are_found_by_family_and_data(tmp_path: Path) -> None:
    other = {"reference": "elsewhere", "digest": f"sha256:{'6' * 64}", "images": 3}
    for name, changes in {
        "a": {"family": "ultralytics", "name": "yolov8n"},
        "b": {"family": "ultralytics", "name": "yolov8s", "trained_on": other},
        "c": {"created_at": "2027-01-01T00:00:00Z"},
        "d": {"family": "ultralytics", "name": "yolov8m", "created_at": "2027-01-01T00:00:00Z"},
    }.items():
        register(tmp_path / name, trained_folder(tmp_path / name, **changes))
    assert [one.folder.name for one in find_trained("yolov8", STREET)] == ["d", "a"]
    assert [one.folder.name for one in find_trained("yolov8", None)] == ["d", "b", "a"]
    assert find_trained("yolov5", None) == []
