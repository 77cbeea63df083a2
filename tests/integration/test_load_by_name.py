"""No load downloads: a model known by name whose weights aren't here says how they are fetched."""

import socket
from pathlib import Path
from typing import Any, get_args

import pytest

from visiondyno.errors import ModelError
from visiondyno.runtimes.references import RuntimeName
from visiondyno.runtimes.registry import load_model

pytestmark = pytest.mark.torch

PUBLISHED = {
    "ultralytics": ("ultralytics:yolov8n", "ultralytics:yolov5n6", "ultralytics:yolo11n-cls"),
    "torchvision": ("torchvision:resnet18", "torchvision:fasterrcnn_resnet50_fpn_v2"),
    "timm": ("timm:resnet18.a1_in1k",),
    "transformers": ("transformers:nobody/no-detector", "transformers:nobody/no-detector@v1"),
}
"""Names with published weights, by runtime."""

NOTHING_PUBLISHED = {
    "onnx",
    "cuda-graph",
    "tensorrt",
    "tensorrt-fp16",
    "fake",
    "torch",
    "openvino",
    "openvino-bf16",
    "litert",
    "keras",
    "tensorflow",
    "trained",
    # Whose package can't be installed here: tests of its own.
    "detectron2",
}


def test_every_runtime_is_of_one_kind_or_the_other() -> None:
    assert set(get_args(RuntimeName)) == set(PUBLISHED) | NOTHING_PUBLISHED


@pytest.mark.parametrize("reference", [one for names in PUBLISHED.values() for one in names])
def test_load_opens_no_connection_and_names_the_command(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("VISIONDYNO_OFFLINE", raising=False)
    asked: list[object] = []

    def refuse(*place: Any, **_: Any) -> None:
        asked.append(place)
        raise OSError("the network is cut")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(ModelError, match=f"with: dyno models pull {reference}$"):
        load_model(reference)
    assert asked == []
