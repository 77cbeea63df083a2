"""Files that are made of a model say of what, and what it had learned from."""

import json
from pathlib import Path

import onnx
import pytest

from tiny_models import write_detector
from trained_model_factory import trained_folder
from visiondyno.datasets.registry import open_dataset
from visiondyno.operations.export_graph import carry_metadata, carry_origin
from visiondyno.operations.learned_images import learned_notes
from visiondyno.operations.made_of import data_name, made_of, source_name
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.made_model import MADE_KEY, read_made
from visiondyno.runtimes.registry import load_model

LEARNED = {
    "reference": "street:val:2",
    "digest": f"sha256:{'5' * 64}",
    "images": 2,
    "validation_reference": "/home/me/own data",
    "validation_digest": f"sha256:{'6' * 64}",
}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A file of a model that learned from two street scenes."""
    folder = tmp_path / "runs" / "trained"
    trained_folder(folder, trained_on=LEARNED)
    path = write_detector(tmp_path / "exported.onnx", [[1, 1, 9, 9, 0.9, 0]])
    with load_model(str(path), LoadOptions()) as model:
        made = made_of(str(folder), model, "export", {"precision": "fp32"})
    graph = onnx.load(str(path))
    carry_origin(graph, made)
    onnx.save(graph, path)
    return path


def test_images_that_were_learned_are_told_of_exported_files(exported: Path) -> None:
    (said,) = learned_notes([str(exported)], open_dataset("street:val:2"))
    assert "learned from 2 of the 2 images" in said
    assert learned_notes([str(exported)], open_dataset("street:demo:3")) == ()


def test_what_was_learned_is_handed_on(exported: Path, tmp_path: Path) -> None:
    with load_model(str(exported), LoadOptions()) as model:
        again = made_of(str(exported), model, "quantize", {"method": "fp16"})
    assert again.source == "exported.onnx"
    assert again.learned is not None
    assert again.learned.trained_on.reference == "street:val:2"
    assert again.learned.best_epoch == 2
    # Where data lay says nothing to others.
    assert again.learned.trained_on.validation_reference == "./own data"
    assert str(tmp_path) not in again.model_dump_json()


def test_an_origin_that_cannot_be_read_is_none(exported: Path) -> None:
    graph = onnx.load(str(exported))
    for prop in graph.metadata_props:
        if prop.key == MADE_KEY:
            prop.value = json.dumps({"by": 5})
    other = onnx.ModelProto()
    carry_metadata(other, graph)
    metadata = {prop.key: prop.value for prop in other.metadata_props}
    assert MADE_KEY in metadata
    assert read_made(metadata) is None
    assert read_made({}) is None


def test_names_hold_no_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert source_name("ultralytics:yolov8n.yaml") == "ultralytics:yolov8n.yaml"
    assert data_name("street:train:40") == "street:train:40"
    assert data_name("coco128") == "coco128"
    assert data_name("sets/street:val") == "./street:val"
    assert data_name(".") == f"./{tmp_path.name}"
