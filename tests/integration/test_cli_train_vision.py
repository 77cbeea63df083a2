"""`dyno train` of a detector, as its users run it."""

import json
from pathlib import Path
from typing import Any

import pytest

from block_images import write_blocks
from training_endpoint import training_endpoint
from visiondyno.cli import main
from visiondyno.client.vision_training import VisionTrainingFolder, make_vision_config
from visiondyno.runtimes.trained_models import find_trained, read_trained

pytest.importorskip("torch")
pytest.importorskip("ultralytics")
pytestmark = pytest.mark.torch

SMALL = ("--imgsz", "64", "--batch-size", "4", "--threads", "1", "--device", "cpu")
FILES = {
    "config.yaml",
    "history.csv",
    "history.json",
    "training.html",
    "visiondyno-model.json",
    "weights.safetensors",
}


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


def history(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(out, "history.json").read_text(encoding="utf-8"))
    return found


def test_a_detectors_training_leaves_a_model_that_runs_and_what_repeats_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--model", "ultralytics:yolov8n", "--data", "blocks", "--epochs", "2", *SMALL)
    assert dyno("train", *asked, "--optimizer", "SGD", "--out", "first") == 0
    said = capsys.readouterr()
    assert "Learning from blocks:train, scored on blocks:val" in said.err
    assert "Best epoch" in said.out
    assert "mAP 50–95" in said.out
    assert f"dyno evaluate first --data {folder}/blocks:val" in said.out
    assert {path.name for path in (folder / "first").iterdir()} == FILES
    assert "mAP 50–95" in (folder / "first" / "training.html").read_text(encoding="utf-8")
    record = read_trained(folder / "first")
    assert record.trained_on.reference == f"{folder}/blocks:train"
    (registered,) = find_trained("yolov8", record.trained_on.digest)
    assert registered.folder == folder / "first"
    # The best epoch is scored by the model's runtime as it was in training.
    assert dyno("evaluate", "first", "--data", "blocks:val", "--json") == 0
    measures = json.loads(capsys.readouterr().out)["metrics"]
    assert measures["map_50_95"]["value"] == pytest.approx(record.metrics["map_50_95"], abs=1e-4)

    assert dyno("train", "first/config.yaml", "--out", "second", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["trained_model"]["weights_sha256"] == record.weights_sha256
    assert told["history"] == history("first")["history"]
    # The same again may be written over itself, another training may not.
    assert dyno("train", "first/config.yaml", "--epochs", "1", "--out", "second") == 2
    assert "another training" in capsys.readouterr().err


def test_goes_on_from_weights_of_a_file_and_is_repeated_from_another_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--model", "ultralytics:yolov8n", "--data", "blocks:train", "--epochs", "1", *SMALL)
    assert dyno("train", *asked, "--out", "first") == 0
    begins = ("--state", "first/weights.safetensors", "--set", "validation_share=0.25")
    assert dyno("train", *asked, *begins, "--classes", "car,sign", "--out", "second") == 0
    said = capsys.readouterr().out
    assert "2 of the 8 images" in said
    assert f"dyno evaluate second --data {folder}/blocks:train --classes car,sign" in said
    assert history("first")["history"] != history("second")["history"]
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert dyno("train", "../second/config.yaml", "--out", "third") == 0
    assert history("third")["history"] == history("../second")["history"]


def test_two_trainings_at_once_do_not_write_to_one_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--model", "ultralytics:yolov8n", "--data", "blocks", "--epochs", "1", *SMALL)
    config = make_vision_config({"model": "ultralytics:yolov8n", "data": "blocks"}, "the other")
    with VisionTrainingFolder(folder / "out", config).claimed():
        assert dyno("train", *asked, "--out", "out") != 0
    assert "Another training is writing to the folder out" in capsys.readouterr().err
    assert list((folder / "out").iterdir()) == []


@pytest.mark.slow
def test_other_places_train_detectors_to_the_same_weights(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ("--model", "ultralytics:yolov8n", "--data", "blocks", "--epochs", "1", *SMALL)
    blocks = Path("blocks").resolve()
    assert dyno("train", *asked, "--out", "here") == 0
    assert dyno("train", *asked, "--on", "local", "--out", "beside") == 0
    with training_endpoint(tmp_path_factory.mktemp("endpoint")) as endpoint:
        for name, value in endpoint.environ.items():
            monkeypatch.setenv(name, value)
        # Its worker sees no file of ours: both splits go with the job, the weights come as a blob.
        assert dyno("train", *asked, "--on", "runpod", "--out", "far") == 0
    records = [read_trained(Path(name)) for name in ("here", "beside", "far")]
    assert len({record.weights_sha256 for record in records}) == 1
    assert len({record.trained_on.digest for record in records}) == 1
    assert records[2].trained_on.reference == f"{blocks}:train"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "ultralytics:yolov8n"), "Which data?"),
        (("--model", "ultralytics:yolov8q", "--data", "blocks"), "did you mean 'yolov8"),
        (("--model", "ultralytics:yolov8n", "--data", "blocks", "--loss", "mse"), "--loss"),
        (("--model", "ultralytics:yolov8n", "--data", "nowhere"), "nowhere"),
        (
            ("--model", "ultralytics:yolov8n", "--data", "blocks", "--set", "epoch=3"),
            "did you mean 'epochs'",
        ),
        (
            ("--model", "ultralytics:yolov8n", "--data", "blocks", "--set", "epocks.x=3"),
            "did you mean 'epochs'",
        ),
        (("--model", "ultralytics:yolov8n", "--data", "blocks", "--level", "image"), "'level'"),
        (("--model", "torchvision:resnet18", "--data", "blocks", "--imgsz", "64"), "--imgsz"),
        (("--model", "transformers:x", "--data", "blocks", "--level", "image"), "can't be trained"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dyno("train", *arguments, "--epochs", "1", "--out", "out") == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_a_file_is_read_as_what_it_describes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "sub").mkdir()
    config = folder / "sub" / "c.yaml"
    config.write_text("model: ultralytics:yolov8n\ndata: ../blocks:train\nepochs: 1\nmosaic: 3\n")
    assert dyno("train", str(config)) == 2
    assert "mosaic" in capsys.readouterr().err
    text = "model: ultralytics:yolov8n\ndata: ../blocks:train\nimage_size: 64\n"
    config.write_text(f"{text}validation_share: 0.5\nbatch_size: 4\nmodel_state: w.safetensors\n")
    assert dyno("train", str(config), "--set", "arguments.nbs=4") == 2
    assert str(folder / "sub" / "w.safetensors") in capsys.readouterr().err
