"""What every arm serves: a detector of 5.4 GFLOP, and a JPEG of 84 kB to post.

Both are made here from a seed, so that the benchmark needs no file of others. The weights are
random: what is compared is servers, and the same boxes must come back from each.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE_PIXELS = 320
CLASSES = 80
JPEG_BYTES = 84_000
_SEED = 8
_STAGES = ((16, 0), (32, 5), (64, 16), (128, 16), (256, 6))
"""Channels after each halving of the side, and residual blocks that follow it."""
_HEADS = (2, 3, 4)
"""Stages that have an output: strides 8, 16 and 32."""
_GAIN, _SCORE_BIAS = 60.0, -7.8
"""Of the logits; chosen so that about ten boxes are above 0.25."""
_SCENE_PIXELS = (720, 1280)


@dataclass
class _Graph:
    """Nodes and weights as they are added; counts multiply-adds."""

    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(_SEED))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    multiply_adds: int = 0

    def add(self, operator: str, inputs: list[str], **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, value: NDArray[np.float32] | NDArray[np.int64]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def convolution(self, source: str, shape: tuple[int, int, int, int], cells: int) -> str:
        """Of weights `shape` (out, in, height, width); `cells`: of its output."""
        stride = {"strides": [2, 2]} if shape[0] != shape[1] and shape[2] == 3 else {}
        fan_in = int(np.prod(shape[1:]))
        weight = self.random.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
        bias = np.zeros(shape[0], np.float32)
        self.multiply_adds += cells * shape[0] * fan_in
        inputs = [source, self.constant(weight), self.constant(bias)]
        return self.add("Conv", inputs, pads=[shape[2] // 2] * 4, **stride)


def write_detector(path: Path) -> float:
    """Write the model; its GFLOP for one image.

    Its output is a YOLOv8 detector's: (1, 4 + classes, 2100), boxes as cxcywh in input pixels, then
    scores.
    """
    graph = _Graph()
    source, channels, side = "images", 3, SIDE_PIXELS
    heads = []
    for stage, (width, blocks) in enumerate(_STAGES):
        side //= 2
        source = graph.convolution(source, (width, channels, 3, 3), side * side)
        source = graph.add("Relu", [source])
        channels = width
        for _ in range(blocks):
            inner = graph.convolution(source, (width, width, 3, 3), side * side)
            half = graph.constant(np.array(0.5, np.float32))
            sum_ = graph.add("Add", [source, graph.add("Relu", [inner])])
            source = graph.add("Mul", [sum_, half])
        if stage in _HEADS:
            head = graph.convolution(source, (4 + CLASSES, width, 1, 1), side * side)
            flat = graph.constant(np.array([1, 4 + CLASSES, -1], np.int64))
            heads.append(graph.add("Reshape", [head, flat]))
    outputs = graph.add("Concat", heads, axis=2)
    _finish(graph, outputs)
    onnx.save(_model(graph), path)
    return 2 * graph.multiply_adds / 1e9


def _finish(graph: _Graph, outputs: str) -> None:
    """Logits to pixels and scores."""
    split = graph.constant(np.array([4, CLASSES], np.int64))
    graph.nodes.append(helper.make_node("Split", [outputs, split], ["boxes", "scores"], axis=1))
    side = graph.constant(np.array(SIDE_PIXELS, np.float32))
    gain = graph.constant(np.array(_GAIN, np.float32))
    bias = graph.constant(np.array(_SCORE_BIAS, np.float32))
    sharp = graph.add("Mul", ["boxes", gain])
    boxes = graph.add("Mul", [graph.add("Sigmoid", [sharp]), side])
    sharp = graph.add("Mul", ["scores", gain])
    scores = graph.add("Sigmoid", [graph.add("Add", [sharp, bias])])
    graph.nodes.append(helper.make_node("Concat", [boxes, scores], ["output"], axis=1))


def _model(graph: _Graph) -> onnx.ModelProto:
    cells = sum((SIDE_PIXELS >> stage + 1) ** 2 for stage in _HEADS)
    float32 = TensorProto.FLOAT
    built = helper.make_graph(
        graph.nodes,
        "detector",
        [helper.make_tensor_value_info("images", float32, [1, 3, SIDE_PIXELS, SIDE_PIXELS])],
        [helper.make_tensor_value_info("output", float32, [1, 4 + CLASSES, cells])],
        graph.weights,
    )
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    # By these the card of the model is read from the file, as from an exporter's.
    told = {
        "description": "a detector of random weights",
        "stride": "32",
        "task": "detect",
        "imgsz": f"[{SIDE_PIXELS}, {SIDE_PIXELS}]",
        "names": str({number: f"class {number}" for number in range(CLASSES)}),
    }
    for key, value in told.items():
        model.metadata_props.add(key=key, value=value)
    return model


def write_scene(path: Path) -> int:
    """Write the JPEG, as near to `JPEG_BYTES` as a quality gets it; its bytes.

    Noise of all scales, each half as strong as the next larger one, which is about the spectrum of
    photographs.
    """
    random = np.random.default_rng(_SEED)
    height, width = _SCENE_PIXELS
    scene = np.zeros((height, width, 3), np.float32)
    for octave in range(6):
        cells = random.normal(0, 128 / 2**octave, (9 << octave, 16 << octave, 3)).astype(np.float32)
        scene += cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
    pixels = (scene + 128).clip(0, 255).astype(np.uint8)
    tried = [
        cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        for quality in range(20, 100)
    ]
    best = min(tried, key=lambda data: abs(len(data) - JPEG_BYTES))
    path.write_bytes(best)
    return len(best)


def digest(path: Path) -> str:
    """SHA-256, the first 16 digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
