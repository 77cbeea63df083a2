"""The files of each format, and what cannot become one; TensorRT's with a session that pretends."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from onnx_builder import build_model
from visiondyno.errors import ModelError, SpecError, Unavailable
from visiondyno.operations.export_formats import write_openvino, write_tensorrt
from visiondyno.runtimes.model_cards import METADATA_KEY, resolve_card
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.onnx_gpu import TENSORRT

CARD = {
    "schema": "visiondyno.model/1",
    "task": "classification",
    "head": "classification",
    "classes": ["a", "b", "c"],
    "input": {"height": 32, "width": 32, "resize": "stretch"},
}


def classifier(folder: Path, batch: int | None = 1) -> Path:
    metadata = {METADATA_KEY: json.dumps(CARD)}
    base = np.array([[0.1, 0.7, 0.2]], np.float32)
    return build_model(folder / "three.onnx", base, batch=batch, metadata=metadata)


def compiling(
    monkeypatch: pytest.MonkeyPatch, engine: bytes, provider: str = TENSORRT
) -> list[Any]:
    """A session that writes the file which TensorRT's provider would, with this engine inside."""
    calls: list[Any] = []

    class Session:
        def __init__(self, path: str, options: Any, providers: Any, enable_fallback: int) -> None:
            calls.append((onnx.load(path), providers, enable_fallback))
            target = options.get_session_config_entry("ep.context_file_path")
            node = helper.make_node(
                "EPContext", ["images"], ["output"], domain="com.microsoft",
                ep_cache_context=engine,
            )  # fmt: skip
            source = calls[-1][0].graph
            graph = helper.make_graph([node], "compiled", source.input, source.output)
            onnx.save(helper.make_model(graph, ir_version=9), target)

        def get_providers(self) -> list[str]:
            return [provider]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return calls


@pytest.fixture
def fixed_graph(tmp_path: Path) -> onnx.ModelProto:
    return onnx.load(str(classifier(tmp_path, batch=2)))


def test_an_engine_of_tensorrt_is_written_with_its_card(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fixed_graph: onnx.ModelProto,
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    calls = compiling(monkeypatch, b"engine")
    written = write_tensorrt(fixed_graph, "fp16", tmp_path, "source")
    assert [path.name for path in written.paths] == ["source.onnx"]
    assert written.device == "cuda"
    made = onnx.load(str(written.paths[0]))
    assert {prop.key for prop in made.metadata_props} == {METADATA_KEY}
    assert made.graph.node[0].op_type == "EPContext"
    _, providers, fallback = calls[0]
    assert providers == [(TENSORRT, {"device_id": "0", "trt_fp16_enable": "1"})]
    assert fallback == 0


@pytest.mark.parametrize(
    ("engine", "provider", "kind", "words"),
    [
        (b"", TENSORRT, ModelError, "built no engine"),
        (b"engine", "CPUExecutionProvider", Unavailable, "couldn't start its TensorRT provider"),
    ],
)
def test_a_file_without_an_engine_is_refused(
    engine: bytes,
    provider: str,
    kind: type[Exception],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fixed_graph: onnx.ModelProto,
) -> None:
    compiling(monkeypatch, engine, provider)
    with pytest.raises(kind, match=words):
        write_tensorrt(fixed_graph, "fp32", tmp_path, "three")


def test_an_engine_for_any_size_is_refused(tmp_path: Path) -> None:
    free = onnx.load(str(classifier(tmp_path, batch=None)))
    with pytest.raises(SpecError, match="'images' takes any; give 'image_size' and 'batch_size'"):
        write_tensorrt(free, "fp32", tmp_path, "three")


def test_what_tensorrt_cannot_build_is_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fixed_graph: onnx.ModelProto,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel\n  for this GPU.")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ModelError, match=r"can't build an engine: no kernel for this GPU\.$"):
        write_tensorrt(fixed_graph, "fp32", tmp_path, "three")


def test_what_openvino_cannot_convert_is_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    graph = onnx.load(str(classifier(tmp_path)))
    card = resolve_card(read_onnx(tmp_path / "three.onnx")).card
    graph.graph.node[-1].op_type = "Unheard"
    logs = logging.root.level, logging.root.filters[:], logging.root.handlers[:]
    with pytest.raises(
        ModelError, match=r"OpenVINO can't convert the model: .*run it as openvino:"
    ):
        write_openvino(graph, card, "fp32", tmp_path, "three")
    assert not (tmp_path / "source.onnx").exists()
    assert (logging.root.level, logging.root.filters, logging.root.handlers) == logs
