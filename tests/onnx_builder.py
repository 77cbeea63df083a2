"""ONNX files whose output depends on the image in a known way, for any input and output."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
}


def build_model(
    path: Path,
    base: NDArray[np.float32],
    *,
    slope: NDArray[np.float32] | None = None,
    batch: int | None = 1,
    size: tuple[int | None, int | None] = (32, 32),
    layout: str = "nchw",
    dtype: str = "float32",
    metadata: dict[str, str] | None = None,
    final: str | None = None,
    opset: int = 17,
    channels: int = 3,
) -> Path:
    """Write a model that answers `base + slope · m` for each image, m the mean of its input.

    Args:
        base: (1, …): the output of one image.
        slope: of the same shape; 0 if None.
        batch: fixed batch size, or None for any.
        size: input height and width; None for any.
        final: a last operator of one input, such as `Softmax`.
    """
    sides = (channels, *size) if layout == "nchw" else (*size, channels)
    free = ["n", "h", "w", "c"]
    shape = [batch if batch is not None else "n", *sides]
    shape = [free[i] if one is None else one for i, one in enumerate(shape)]
    slope = np.zeros_like(base) if slope is None else slope
    weight = np.float16 if dtype == "float16" else np.float32
    constants = {
        "base": base.astype(weight),
        "slope": slope.astype(weight),
        "column": np.array([-1, *[1] * (base.ndim - 1)], np.int64),
    }
    kind = _TYPES["float16" if dtype == "float16" else "float32"]
    nodes = [
        helper.make_node("Cast", ["images"], ["cast"], to=kind),
        helper.make_node("ReduceMean", ["cast"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "column"], ["m"]),
        helper.make_node("Mul", ["m", "slope"], ["change"]),
        helper.make_node("Add", ["base", "change"], ["sum" if final else "output"]),
    ]
    if final:
        nodes.append(helper.make_node(final, ["sum"], ["output"]))
    out = [batch if batch is not None else "n", *base.shape[1:]]
    graph = helper.make_graph(
        nodes,
        "built",
        [helper.make_tensor_value_info("images", _TYPES[dtype], shape)],
        [helper.make_tensor_value_info("output", kind, out)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path
