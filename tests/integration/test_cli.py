"""The commands as their users run them; `compare` has tests of its own."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataset_factory import write_coco
from tiny_models import CLASSES, write_constant_model, write_detector
from visiondyno import __version__
from visiondyno.cli import dyno, main
from visiondyno.cli.progress import ProgressDisplay
from visiondyno.job import JobEvent, JobState


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_detector(
        tmp_path / "net.onnx", [[1, 2, 15, 28, 0.9, 0], [4, 4, 9, 9, 0.4, 2], [0, 0, 3, 3, 0.1, 1]]
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_coco(tmp_path / "data")
    return tmp_path / "data"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert __version__ in capsys.readouterr().out


def test_help_names_every_command_with_its_own_summary(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    with dyno.make_context("dyno", ["--help"], resilient_parsing=True) as context:
        for name in dyno.list_commands(context):
            command = dyno.get_command(context, name)
            assert command is not None
            assert command.help is not None
            summary = " ".join(command.help.split("\n\n")[0].split())
            assert summary in said, name


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from visiondyno.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'cv2', 'pydantic', 'onnxruntime', 'rich', 'scipy', 'jinja2', 'yaml'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_predict_prints_draws_and_speaks_json(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = data / "images" / "a.jpg", tmp_path / "drawn.png"
    assert run("predict", str(model), str(image), "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "2 found" in said
    assert "stop sign" in said
    before, after = cv2.imread(str(image)), cv2.imread(str(out))
    assert before.shape == after.shape
    assert np.any(before != after)

    assert run("predict", str(model), str(image), "--json", "--confidence", "0.05") == 0
    found = json.loads(capsys.readouterr().out)[str(image)]
    assert found["names"] == ["car", "stop sign", "truck"]
    assert found["boxes_xyxy"][0] == pytest.approx([2, 3, 30, 42], abs=0.01)  # 64×48 from 32×32


def test_predict_of_a_classifier_gives_the_best_classes(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = data / "images" / "a.jpg"
    assert run("predict", "fake:classification", str(image), "--json", "--confidence", "0") == 0
    found = json.loads(capsys.readouterr().out)[str(image)]
    assert found["scores"] == sorted(found["scores"], reverse=True)
    assert sum(found["scores"]) == pytest.approx(1, abs=1e-4)
    assert run("predict", "fake:classification", str(image)) == 0
    assert found["names"][0] in capsys.readouterr().out


def test_evaluate_prints_a_table_or_json(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "images" / "d.webp").write_bytes(b"")
    assert run("evaluate", str(model), "--data", str(data), "--skip-bad") == 0
    said = capsys.readouterr().out
    assert "mAP 50–95" in said
    assert "Skipped 1" in said
    assert run("evaluate", str(model), "--data", str(data), "--skip-bad", "--json") == 0
    output = json.loads(capsys.readouterr().out)
    assert output["images"] == 3
    assert set(output["per_class"]) == set(CLASSES)


def test_models_shows_where_each_part_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = write_constant_model(tmp_path / "bare.onnx", np.zeros((1, 84, 21), np.float32))
    assert run("models", "show", str(bare)) == 0
    assert "shape" in capsys.readouterr().out
    assert run("models", "init", str(bare)) == 0
    card = tmp_path / "bare.model.yaml"
    assert str(card) in capsys.readouterr().out
    card.write_text(card.read_text().replace("yolov8", "yolov8  # checked"))
    assert run("models", "show", str(bare), "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert "bare.model.yaml" in shown["card_source"]["head"]
    assert shown["card"]["head"] == "yolov8"


def test_models_lists_the_shipped_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models") == 0
    said = capsys.readouterr().out
    assert "visiondyno:street-n" in said
    assert "visiondyno:street-s" in said


def test_datasets_lists_shows_and_writes(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run("datasets") == 0
    assert "street:demo" in capsys.readouterr().out
    assert run("datasets", "show", str(data)) == 0
    said = capsys.readouterr().out
    assert "4 images" in said
    assert "sha256:" in said
    assert run("datasets", "write", "street:demo:3", str(tmp_path / "street")) == 0
    capsys.readouterr()
    assert run("datasets", "show", str(tmp_path / "street"), "--json") == 0
    written = json.loads(capsys.readouterr().out)
    assert run("datasets", "show", "street:demo:3", "--json") == 0
    assert written["digest"] == json.loads(capsys.readouterr().out)["digest"]
    assert run("datasets", "write", "street:demo:3", str(tmp_path / "street")) == 2


def test_doctor_says_what_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    assert "peak memory" in capsys.readouterr().out
    assert run("doctor", "--json") == 0
    findings = json.loads(capsys.readouterr().out)
    assert {finding["status"] for finding in findings} <= {"ok", "limited", "missing"}
    assert all(f["fix"] or f["status"] != "missing" or f["detail"] for f in findings)


def test_a_defect_is_told_apart_from_bad_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode() -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("visiondyno.cli.doctor.examine", lambda **_: explode())
    assert run("doctor") == 1
    said = capsys.readouterr().err
    assert "defect" in said
    assert "Traceback" not in said
    monkeypatch.setenv("VISIONDYNO_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("visiondyno.cli.doctor.examine", interrupt)
    assert run("doctor") == 130


@pytest.mark.parametrize("name", ["click", "visiondyno.cli.doctor", "onnxruntime"])
def test_an_interrupt_while_modules_are_imported_is_a_sentence(name: str) -> None:
    code = (
        "import sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {name!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from visiondyno.cli import main\n"
        "main(['doctor'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.strip().startswith("Interrupted; ")
    assert "Traceback" not in done.stderr


def event(number: int, **progress: object) -> JobEvent:
    return JobEvent(
        job_id="a", number=number, state=JobState.IN_PROGRESS, progress=progress or None
    )


def test_progress_off_a_terminal_is_one_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as display:
        display.show(event(1))
        display.show(event(2, stage="reading the data"))
        display.show(event(3, stage="accuracy pass", model="net", done=1, total=9))
        display.show(event(4, stage="accuracy pass", model="net", done=9, total=9))
    assert capsys.readouterr().err.splitlines() == ["reading the data", "net: accuracy pass"]


def test_progress_on_a_terminal_moves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with ProgressDisplay() as display:
        display.show(event(1, stage="accuracy pass", model="net", done=4, total=9))
        display.show(event(2, stage="single-stream", model="net", done=1500))
        display._bars.refresh()
    said = capsys.readouterr().err
    assert "net: single-stream" in said
    assert "1,500" in said
