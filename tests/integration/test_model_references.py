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
    "Trained_yolov5": "names a family, not a model.*or the folder of a training",
    "efficientnet_b0": "names a family, not a model.*such as ultralytics:yolov8n",
    "detectron2": "names a family, not a model",
    "torchvision:": "'torchvision:' names no model; write torchvision:NAME",
    "torch:own_models:make": "names Python code.*jobs that come to a worker never import code",
    "no-runtime:model": "no model file no-runtime:model",
    "llama2_70b": "is not a vision model: text",
    "opus_mt": "is not a vision model: translation",
    "wav2vec2": "is not a vision model: audio",
    "visiondyno:nothing": "no shipped model 'nothing'; there are: ",
    "no/such/file.onnx": "no model file no/such/file.onnx",
    "no/such/file.pt2": "no model file no/such/file.pt2",
    " ": "is empty",
    "torchvison:resnet50": r"no model torchvison:resnet50; did you mean torchvision:resnet50\?",
    "Timm:resnet18@none": r"did you mean timm:resnet18@none\?",
    "ulralytics:yolov8n": r"did you mean ultralytics:yolov8n\?",
    "yolov8n": r"did you mean ultralytics:yolov8n\?",
    "resnet50": "path of a model's file.*torchvision:resnet50.*or a shipped model",
    "stret-n": r"did you mean visiondyno:street-n",
    "~nobody-of-this-name/model.onnx": "no model file ~nobody-of-this-name/model.onnx",
    "torchvision:~nobody-of-this-name/x": "no model '~nobody-of-this-name/x'",
    "x" * 5000: "no model file xxx",
    f"timm:{'x' * 5000}": "no model 'xxx",
    "model\0.onnx": "no model file model",
}


@pytest.mark.parametrize(
    "reference",
    [
        pytest.param(
            name,
            # The libraries themselves say what they have.
            marks=pytest.mark.torch if name.startswith(("torchvision:", "timm:")) else (),
        )
        for name in REFERENCES
    ],
)
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


MEANT = {
    "ultralytics:yolov8n": ("ultralytics", "yolov8n"),
    "torchvision:resnet50@IMAGENET1K_V2": ("torchvision", "resnet50@IMAGENET1K_V2"),
    "timm:resnet18.a1_in1k": ("timm", "resnet18.a1_in1k"),
    "transformers:PekingU/rtdetr_v2_r18vd": ("transformers", "PekingU/rtdetr_v2_r18vd"),
    "detectron2:COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml": (
        "detectron2",
        "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
    ),
    "torch:package.module:factory": ("torch", "package.module:factory"),
    "fake:detection:3": ("fake", "detection:3"),
}


@pytest.mark.parametrize("reference", MEANT)
def test_names_before_a_colon_choose_the_runtime(reference: str) -> None:
    found = resolve_reference(reference)
    assert (found.runtime, found.name) == MEANT[reference]
    assert found.path is None


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("m.onnx", "onnx"),
        ("m.pt", "ultralytics"),
        ("M.PT2", "torch"),
        ("m.torchscript", "torch"),
        ("m.xml", "openvino"),
        ("m.tflite", "litert"),
        ("m.keras", "keras"),
        ("m.h5", "keras"),
        ("m.anything", "onnx"),
        ("run/visiondyno-model.json", "trained"),
        ("saved/saved_model.pb", "tensorflow"),
        ("hub/config.json", "transformers"),
    ],
)
def test_files_and_folders_choose_the_runtime(tmp_path: Path, name: str, runtime: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"")
    path = file if file.parent == tmp_path else file.parent
    found = resolve_reference(str(path))
    assert (found.runtime, found.path) == (runtime, path)


def test_a_prefix_takes_a_file_from_its_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(b"")
    Path("yolov8n").mkdir()
    found = resolve_reference("openvino:m.onnx")
    assert (found.runtime, found.path, found.name) == ("openvino", Path("m.onnx"), "m.onnx")
    assert resolve_reference("ultralytics:yolov8n").path is None
    assert resolve_reference("ultralytics:./yolov8n").path == Path("yolov8n")


def test_near_names_of_every_kind_are_suggested(tmp_path: Path) -> None:
    (tmp_path / "street.pt2").write_bytes(b"")
    with pytest.raises(ModelError, match=r"did you mean .*street\.pt2\?"):
        resolve_reference(str(tmp_path / "steret.pt2"))


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything: so the system's answer is told here, not provoked.
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(ModelError, match=r"model\.onnx can't be looked at: Permission denied"):
        resolve_reference(str(tmp_path / "model.onnx"))
