"""ONNX files of a few hundred bytes whose output is known."""

import json
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from visiondyno.specs.model_card import DetectionCard, InputCard, ModelCard

SIDE = 32
CLASSES = ("car", "truck", "stop sign")


def detector_card(classes: tuple[str, ...] = CLASSES) -> ModelCard:
    return ModelCard(
        task="detection",
        head="end_to_end",
        classes=classes,
        input=InputCard(height=SIDE, width=SIDE, resize="stretch", scale=1.0),
        detection=DetectionCard(nms_iou=None),
    )


def write_constant_model(
    path: Path, output: NDArray[np.float32], card: ModelCard | None = None
) -> Path:
    """A model that answers `output`, (1, …), to every image: 0 × the image's mean is added."""
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    answer = numpy_helper.from_array(output, "answer")
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["answer", "nothing"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, list(output.shape))],
        [zero, answer],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if card is not None:
        text = json.dumps(card.model_dump(mode="json", by_alias=True))
        model.metadata_props.add(key="visiondyno.model", value=text)
    onnx.save(model, path)
    return path


def grow(path: Path, more_bytes: int) -> Path:
    """Give a model a weight of noise that nothing uses, so that its file has so many bytes more."""
    model = onnx.load(path)
    noise = np.random.default_rng(0).bytes(more_bytes // 4 * 4)
    weight = numpy_helper.from_array(np.frombuffer(noise, np.int32), "unused")
    model.graph.initializer.append(weight)
    onnx.save(model, path)
    return path


def write_detector(path: Path, rows: list[list[float]], card: ModelCard | None = None) -> Path:
    """A detector that answers these rows (left, top, right, bottom, score, class) always."""
    answer = np.array([rows], np.float32).reshape(1, -1, 6)
    return write_constant_model(path, answer, card or detector_card())
