"""Which files belong to a model, and what is the same model in other places."""

import os
from pathlib import Path

import onnx
import pytest

from tiny_models import detector_card, write_detector
from trained_model_factory import trained_folder
from visiondyno.errors import ModelError, Unavailable
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.card_file import card_path, card_text
from visiondyno.runtimes.model_files import (
    content_digest,
    digest_in_description,
    model_files,
    model_size_bytes,
)
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.trained_model import RECORD, WEIGHTS

ROWS = [[0.0, 0.0, 4.0, 4.0, 0.5, 1.0]]


def names_of(reference: str, *, is_deep: bool = True) -> list[str]:
    files = model_files(resolve_reference(reference), is_deep=is_deep)
    assert files is not None
    return sorted(files.members)


def external(path: Path) -> Path:
    write_detector(path, ROWS)
    data = f"{path.stem}.data"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=data, size_threshold=0)
    return path


def digest_of(reference: str) -> str:
    files = model_files(resolve_reference(reference))
    assert files is not None
    return content_digest(files)


@pytest.mark.parametrize("prefix", ["", "openvino:"])
def test_an_onnx_file_has_its_card_and_its_weights(tmp_path: Path, prefix: str) -> None:
    path = external(tmp_path / "m.onnx")
    card_path(path).write_text(card_text(detector_card(), "m.onnx", {}))
    (tmp_path / "other.onnx").write_bytes(b"")
    assert names_of(f"{prefix}{path}") == ["m.data", "m.model.yaml", "m.onnx"]
    assert names_of(f"{prefix}{path}", is_deep=False) == ["m.model.yaml", "m.onnx"]
    sizes = sum((tmp_path / name).stat().st_size for name in ("m.onnx", "m.data"))
    assert model_size_bytes(resolve_reference(f"{prefix}{path}")) == sizes


def test_an_ir_has_its_weights_and_what_ultralytics_wrote_beside(tmp_path: Path) -> None:
    for name in ("m.xml", "m.bin", "metadata.yaml", "n.bin"):
        (tmp_path / name).write_text(name)
    assert names_of(str(tmp_path / "m.xml")) == ["m.bin", "m.xml", "metadata.yaml"]
    assert model_size_bytes(resolve_reference(str(tmp_path / "m.xml"))) == 5 + 5 + 13


def test_a_trained_folder_has_two_files_whatever_else_lies_there(tmp_path: Path) -> None:
    trained_folder(tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("of the training")
    assert names_of(str(tmp_path / "run")) == [f"run/{RECORD}", f"run/{WEIGHTS}"]


def test_other_folders_are_whole_but_for_hidden_files(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    for name in ("saved_model.pb", "variables/variables.index", ".git/config", "assets/.x"):
        (saved / name).parent.mkdir(parents=True, exist_ok=True)
        (saved / name).write_text(name)
    assert names_of(str(saved)) == ["saved/saved_model.pb", "saved/variables/variables.index"]


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a folder; give the model file inside it"):
        model_files(resolve_reference(str(tmp_path)))
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelError, match=r"is a pipe, a device or a socket"):
        model_files(resolve_reference(str(tmp_path / "pipe.onnx")))


def test_a_name_has_no_files() -> None:
    resolved = resolve_reference("fake:detection")
    assert model_files(resolved) is None
    assert model_size_bytes(resolved) is None


def test_content_is_the_same_under_other_names_and_in_other_places(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "m.onnx", ROWS)
    card_path(path).write_text("a card")
    (tmp_path / "there").mkdir()
    other = tmp_path / "there" / "n.onnx"
    other.write_bytes(path.read_bytes())
    card_path(other).write_text("a card")
    assert digest_of(str(path)) == digest_of(str(other))
    card_path(other).write_text("another card")
    assert digest_of(str(path)) != digest_of(str(other))
    card_path(other).unlink()
    assert digest_of(str(path)) != digest_of(str(other))


@pytest.mark.parametrize("changed", ["m.onnx", "m.data"])
def test_every_file_counts(tmp_path: Path, changed: str) -> None:
    path = external(tmp_path / "m.onnx")
    before = digest_of(str(path))
    content = bytearray((tmp_path / changed).read_bytes())
    content[-1] ^= 1
    (tmp_path / changed).write_bytes(content)
    assert digest_of(str(path)) != before


def test_each_part_of_a_trained_model_counts(tmp_path: Path) -> None:
    trained_folder(tmp_path / "run")
    before = digest_of(str(tmp_path / "run"))
    trained_folder(tmp_path / "elsewhere" / "run")
    assert digest_of(str(tmp_path / "elsewhere" / "run")) == before
    trained_folder(tmp_path / "other", classes=("truck", "car"))
    assert digest_of(str(tmp_path / "other")) != before


def test_files_that_are_gone_are_said(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "m.onnx", ROWS)
    files = model_files(resolve_reference(str(path)))
    assert files is not None
    path.unlink()
    with pytest.raises(ModelError, match=r"m.onnx can't be read"):
        content_digest(files)


def test_the_digest_of_a_description_is_known_before_loading(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx")
    card_path(path).write_text(card_text(detector_card(), "m.onnx", {}))
    for reference in (str(path), "fake:classification:3", "visiondyno:street-n"):
        with load_model(reference, LoadOptions()) as model:
            resolved = resolve_reference(reference)
            assert digest_in_description(resolved) == model.description.digest


def test_a_digest_that_only_loading_tells_is_not_guessed(tmp_path: Path) -> None:
    record = trained_folder(tmp_path / "run")
    known = digest_in_description(resolve_reference(str(tmp_path / "run")))
    assert known == f"sha256:{record.weights_sha256}"
    for name in ("m.keras", "m.yaml"):
        (tmp_path / name).write_text("")
    for reference in (
        "ultralytics:yolov8n",
        "torch:some.module:make",
        str(tmp_path / "m.keras"),
        f"ultralytics:{tmp_path / 'm.yaml'}",
    ):
        with pytest.raises(Unavailable, match=r"can't be told without loading it"):
            digest_in_description(resolve_reference(reference))
