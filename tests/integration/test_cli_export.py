"""`dyno export` as it is typed."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from visiondyno.cli import dyno, made_model
from visiondyno.cli.made_model import write_made
from visiondyno.client.client import Client
from visiondyno.errors import SpecError, StorageFull
from visiondyno.runtimes.references import resolve_reference


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VISIONDYNO_BLOBS_URL", raising=False)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(dyno, ["export", *arguments], catch_exceptions=True)


def test_a_file_is_written_told_of_and_shown(tmp_path: Path) -> None:
    options = ["--precision", "fp16", "--data", "street:val", "--check-images", "6"]
    found = run("visiondyno:street-n", *options)
    assert found.exit_code == 0, found.output
    path = tmp_path / "street-n-fp16.onnx"
    assert f"Written: {path}" in found.stdout.replace("\n", "")
    assert "boxes are found again" in found.stdout
    assert "map_50_95: " in found.stdout
    shown = CliRunner().invoke(dyno, ["models", "show", str(path)])
    assert "fp16" in shown.output
    assert "car, truck, pedestrian, sign" in shown.output


def test_it_says_what_it_replaces_and_never_its_source(tmp_path: Path) -> None:
    target = tmp_path / "made" / "small.onnx"
    first = run("visiondyno:street-n", "--out", str(target), "--json")
    assert json.loads(first.stdout)["paths"] == [str(target)]
    assert "replaced" not in first.stderr
    assert "replaced" not in run("visiondyno:street-n", "--out", str(target)).stderr
    target.write_bytes(b"something else")
    again = run("visiondyno:street-n", "--out", str(target))
    assert f"{target} was there with other content, and was replaced" in again.stderr
    own = run(str(target), "--precision", "fp16", "--out", str(target))
    assert isinstance(own.exception, SpecError)
    assert "is the model that this one is made of" in own.exception.message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "x.xml"], "onnx is written as .onnx"),
        (["--compare", "report"], "--compare measures both on labelled images"),
        (["--compare", "r", "--data", "street:val", "--json"], "ask for one of them"),
        (["--opset", "3"], "'opset'"),
    ],
)
def test_wrong_options_are_a_sentence(options: list[str], words: str) -> None:
    found = run("visiondyno:street-n", *options)
    assert isinstance(found.exception, SpecError)
    assert words in found.exception.message


def test_the_source_is_refused_before_the_work(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    shutil.copy(str(resolve_reference("visiondyno:street-n").path), path)
    found = run("small.onnx", "--opset", "18")
    assert isinstance(found.exception, SpecError)
    assert "give --out another name" in found.exception.message
    assert "reading the model" not in found.stderr
    assert not (tmp_path / "home" / "blobs").exists()


def test_a_folder_that_cannot_be_made_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    found = run("visiondyno:street-n", "--out", "taken/within/small.onnx")
    assert isinstance(found.exception, SpecError)
    assert "can't be made (Not a directory)" in found.exception.message
    assert "reading the model" not in found.stderr


def test_of_two_files_the_main_one_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("m.xml", "m.bin"):
        (tmp_path / name).write_text("of an earlier model")
    written: list[str] = []

    def full(path: Path, data: bytes, *_: str) -> None:
        written.append(path.name)
        raise StorageFull(f"{len(data)} bytes are too many")

    monkeypatch.setattr(made_model, "write_whole", full)
    with Client("inline") as client:
        files = {name: client.put_blob(name.encode()) for name in ("m.xml", "m.bin")}
        with pytest.raises(StorageFull):
            write_made({"files": files}, client, tmp_path, "m", "visiondyno:street-n")
    assert written == ["m.bin"]
    # The earlier weights without their graph are no model; both together would be a wrong one.
    assert not (tmp_path / "m.xml").exists()
