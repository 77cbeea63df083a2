"""Every runtime says what to install where its package isn't there."""

import sys
from pathlib import Path
from typing import get_args

import pytest

from trained_model_factory import trained_folder
from visiondyno.errors import MissingExtra, Unavailable
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.references import RuntimeName
from visiondyno.runtimes.registry import runtime

ALWAYS_HERE = {"onnx", "fake"}
# Files of the first, by providers of ONNX Runtime that it has on GPUs: tests of their own.
ON_GPUS = {"cuda-graph", "tensorrt", "tensorrt-fp16"}

# A runtime, the package that it needs and the extra that brings it.
NEEDS: list[tuple[RuntimeName, str, str]] = [
    ("torch", "torch", "torch"),
    ("ultralytics", "torch", "torch"),
    ("ultralytics", "ultralytics", "ultralytics"),
    ("torchvision", "torch", "torch"),
    ("torchvision", "torchvision", "torch"),
    ("timm", "torch", "torch"),
    ("timm", "timm", "timm"),
    ("transformers", "torch", "torch"),
    ("transformers", "transformers", "transformers"),
    ("openvino", "openvino", "openvino"),
    ("openvino-bf16", "openvino", "openvino"),
    ("litert", "ai_edge_litert", "litert"),
    ("keras", "keras", "keras"),
    ("tensorflow", "tensorflow", "tensorflow"),
    ("trained", "torch", "torch"),
    ("trained", "torchvision", "torch"),
]

REFERENCES: dict[RuntimeName, str] = {
    "torch": "m.pt2",
    "ultralytics": "ultralytics:yolov8n",
    "torchvision": "torchvision:resnet18@none",
    "timm": "timm:resnet18@none",
    "transformers": "transformers:PekingU/rtdetr_v2_r18vd",
    "openvino": "m.xml",
    "openvino-bf16": "openvino-bf16:m.xml",
    "litert": "m.tflite",
    "keras": "m.keras",
    "tensorflow": "saved",
    "trained": "run",
    "detectron2": "detectron2:COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of every kind; what is in them isn't looked at without the package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in ("m.pt2", "m.bin", "m.tflite", "m.keras"):
        Path(name).write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    Path("m.xml").write_text("<?xml version='1.0'?><net name='m' version='11'></net>")
    Path("saved").mkdir()
    Path("saved/saved_model.pb").write_bytes(b"")
    trained_folder(Path("run"))
    return tmp_path


def block(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Have their import fail, as it does where they aren't installed."""
    for name in list(sys.modules):
        if name.partition(".")[0] in packages:
            monkeypatch.delitem(sys.modules, name)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


def test_every_runtime_is_covered() -> None:
    covered = {name for name, _, _ in NEEDS} | ALWAYS_HERE | ON_GPUS | {"detectron2"}
    assert covered == set(get_args(RuntimeName))


@pytest.mark.torch
@pytest.mark.parametrize(("name", "package", "extra"), NEEDS)
def test_a_missing_extra_is_named(
    name: RuntimeName, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    block(monkeypatch, package)
    with pytest.raises(MissingExtra) as caught:
        runtime(name).load(REFERENCES[name], LoadOptions())
    assert f"pip install 'visiondyno[{extra}]'" in caught.value.message


@pytest.mark.parametrize("name", REFERENCES)
def test_where_nothing_is_installed_every_runtime_says_what_to_install(
    name: RuntimeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = {package for _, package, _ in NEEDS} | {"detectron2", "tf2onnx"}
    block(monkeypatch, *packages)
    with pytest.raises(Unavailable) as caught:
        runtime(name).load(REFERENCES[name], LoadOptions())
    assert "pip install" in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.torch
def test_what_detectron2_can_be_replaced_by_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    block(monkeypatch, "detectron2")
    with pytest.raises(Unavailable, match="torchvision:fasterrcnn_resnet50_fpn_v2"):
        runtime("detectron2").load(REFERENCES["detectron2"], LoadOptions())
