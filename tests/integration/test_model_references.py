"""References to models: what names none, and what is meant."""

from pathlib import Path

import pytest
from onnx_cases import yolov8_base

from onnx_builder import build_model
from visiondyno.errors import ModelError
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.onnx import OnnxRuntime
from visiondyno.runtimes.registry import load_model, resolve_reference, shipped_models

REFERENCES = {
    "ultralytics:yolov8n": "ultralytics runtime isn't available in this version; export",
    "torchvision:resnet50": "torchvision runtime",
    "Trained_yolov5": "export the model to ONNX",
    "llama2_70b": "is not a vision model: text",
    "opus_mt": "is not a vision model: translation",
    "wav2vec2": "is not a vision model: audio",
    "visiondyno:nothing": "no shipped model 'nothing'; there are: ",
    "no/such/file.onnx": "no model file no/such/file.onnx",
    " ": "is empty",
}


@pytest.mark.parametrize("reference", REFERENCES)
def test_references_that_name_no_model(reference: str) -> None:
    with pytest.raises(ModelError, match=REFERENCES[reference]):
        load_model(reference)


def test_a_near_name_is_suggested(tmp_path: Path) -> None:
    path = build_model(tmp_path / "parking.onnx", yolov8_base()[0])
    with pytest.raises(ModelError, match=rf"did you mean {path}\?"):
        load_model(str(tmp_path / "praking.onnx"))


def test_shipped_models_are_files(tmp_path: Path) -> None:
    for name in shipped_models():
        path = resolve_reference(f"visiondyno:{name}").path
        assert path is not None
        assert path.is_file()


def test_onnx_runtime_alone_takes_files_only() -> None:
    with pytest.raises(ModelError, match="isn't an ONNX model"):
        OnnxRuntime().load("fake:detection", LoadOptions())
