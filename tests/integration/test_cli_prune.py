"""`dyno prune`, as its users run it."""

import json
from pathlib import Path
from typing import Any

import pytest

from block_images import write_blocks
from visiondyno.cli import main
from visiondyno.client.pruned_model import make_pruning
from visiondyno.runtimes.trained_models import find_trained, read_trained, trained_models

pytest.importorskip("torch")
pytest.importorskip("ultralytics")
pytest.importorskip("torch_pruning")
pytestmark = pytest.mark.torch

SMALL = ("--batch-size", "4", "--threads", "1", "--device", "cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with data in it; what a worker keeps stays below it."""
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_blocks(tmp_path / "blocks")
    return tmp_path


def dyno(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_trained_detector_is_pruned_trained_on_and_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--model", "ultralytics:yolov8n", "--data", "blocks", "--imgsz", "64")
    assert dyno("train", *asked, *SMALL, "--out", "first") == 0
    capsys.readouterr()
    Path("blocks/images/val/8.png").write_bytes(b"no image any more")
    asked = ("first", "--ratio", ".4", "--data", "blocks", "--epochs", "1", "--duration", ".2")
    # What is left out of the training is left out of the comparison.
    assert dyno("prune", *asked, *SMALL, "--skip-bad", "--out", "second") == 0
    said = capsys.readouterr()
    assert "Learning from blocks:train, scored on blocks:val" in said.err
    for line in ("Pruned ", "Parameters ", "FLOPs ", "Layers ", "Model "):
        assert any(found.startswith(line) for found in said.out.splitlines()), line
    assert "right after pruning" in said.out
    assert "Next         dyno export second --format onnx" in said.out
    pruning = json.loads(Path("second/pruning.json").read_text(encoding="utf-8"))
    pruned = read_trained(Path("second")).pruned
    assert pruned is not None
    assert pruned.epochs_after == 1
    assert pruned.parameters_after == pruning["parameters_after"] < pruning["parameters_before"]
    report: dict[str, Any] = json.loads(Path("second/report/report.json").read_text("utf-8"))
    first, second = report["models"]
    assert first["description"]["parameters"] > 1.5 * second["description"]["parameters"]
    assert Path("second/report/report.html").is_file()
    # A pruned model is listed, and doesn't stand for its family.
    assert {one.folder.name for one in trained_models()} == {"first", "second"}
    assert [one.folder.name for one in find_trained("yolov8", None)] == ["first"]

    assert dyno("prune", "second", "--ratio", ".5", "--out", "third", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pruning"]["parameters_before"] == pruning["parameters_after"]
    assert result["pruning"]["metrics_before"] is None
    assert dyno("prune", "second", "--ratio", ".5", "--out", "third") == 0  # once more the same
    assert dyno("prune", "second", "--ratio", ".6", "--out", "third") == 2
    assert "holds the weights of another training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere", "--ratio", ".3"), "nowhere"),
        (("visiondyno:street-n",), "visiondyno:street-n can't be pruned"),
        (("visiondyno:street-n", "--epochs", "3"), "--epochs needs --data"),
        (("visiondyno:street-n", "--ratio", "1.5"), "less than 1"),
        (("visiondyno:street-n", "--set", "optimizer"), "--set takes NAME=VALUE"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_a_sentence(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dyno("prune", *arguments) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


def test_the_folder_knows_what_it_was_made_by(folder: Path) -> None:
    config = make_pruning({"model": "first", "ratio": 0.4, "epochs": 0})
    (folder / "config.yaml").write_text(config.to_yaml())
    assert config.is_in(folder / "config.yaml")
    other = make_pruning({"model": "first", "ratio": 0.5, "epochs": 0})
    assert not other.is_in(folder / "config.yaml")
    assert not other.is_in(folder / "absent.yaml")
    assert (config.monitor, config.less_is_better) == ("train_loss", True)
    scored = {"model": "m", "data": "d", "validation_share": 0.2}
    assert make_pruning(scored).monitor == "val_map_50_95"
    assert make_pruning({**scored, "level": "image"}).monitor == "val_image_ap"
