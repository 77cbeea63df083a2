"""Weights and quantisation in an ONNX graph: what precision the model really computes in."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from visiondyno.runtimes.base import Precision
from visiondyno.specs.model_card import Quantisation

_FLOAT_KINDS: dict[int, Precision] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.DOUBLE: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
}
_INT8_TYPES = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
# Scales, zero points and a first layer kept wide don't make a model mixed.
_MINOR_SHARE = 0.1
# Operators that compute with integers. ConvInteger, QLinearConv and the like are found by name.
_INTEGER_NAMES = ("DynamicQuantizeLinear", "QGemm", "QAttention", "DynamicQuantizeMatMul")


def count_weights(graph: Any) -> int:
    """Number of weights: floating-point tensors, and those of 8 bits or fewer."""
    return sum(elements for _, _, elements in _weights(graph))


def effective_precision(graph: Any) -> Precision:
    """The precision of the arithmetic, by the number of weights.

    Weights that the graph itself quantises (quantisation-aware training) count as int8. Weights of
    8 bits whose activations stay floating point (weight-only quantisation) are widened before they
    are used: such a model is `mixed`, as is one where two kinds hold more than a tenth each.
    """
    quantised_in_graph = _only_quantised(graph)
    counts: dict[Precision, int] = {}
    for name, data_type, elements in _weights(graph):
        kind = _FLOAT_KINDS.get(data_type, "int8")
        if name in quantised_in_graph:
            kind = "int8"
        counts[kind] = counts.get(kind, 0) + elements
    total = sum(counts.values())
    if not total:
        return "fp32"
    major = [kind for kind, count in counts.items() if count > _MINOR_SHARE * total]
    if "int8" in major and not _has_integer_activations(graph):
        return "mixed"
    return major[0] if len(major) == 1 else "mixed"


def edge_quantisation(graph: Any) -> dict[str, Quantisation]:
    """What the integers of the graph's inputs and outputs stand for, where the graph says it.

    An input that is dequantised first (or fed to `QLinearConv`), an output that is quantised last.
    """
    constants = _constants(graph)
    found: dict[str, Quantisation] = {}
    for value in graph.input:
        users = [node for node in graph.node if value.name in node.input]
        said = [
            _scalar_pair(node, constants)
            for node in users
            if node.op_type in ("DequantizeLinear", "QLinearConv") and node.input[0] == value.name
        ]
        if said and len(said) == len(users) and len(set(said)) == 1 and said[0] is not None:
            found[value.name] = said[0]
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in outputs:
            pair = _scalar_pair(node, constants)
            if pair is not None:
                found[node.output[0]] = pair
    return found


def _constants(graph: Any) -> dict[str, Any]:
    """Weight tensors by name, those in Constant nodes included."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found


def _weights(graph: Any) -> Iterator[tuple[str, int, int]]:
    """Name, type and number of elements of each weight tensor."""
    initial = {tensor.name for tensor in graph.initializer}
    for name, tensor in _constants(graph).items():
        is_weight = tensor.data_type in _FLOAT_KINDS or tensor.data_type in _INT8_TYPES
        if is_weight and (name in initial or tensor.dims):
            yield name, tensor.data_type, int(np.prod(tensor.dims, dtype=np.int64))


def _only_quantised(graph: Any) -> set[str]:
    """Names that are used as the data of `QuantizeLinear` and nowhere else."""
    quantised: set[str] = set()
    other: set[str] = set()
    for node in graph.node:
        first = 1 if node.op_type == "QuantizeLinear" else 0
        quantised.update(node.input[:first])
        other.update(node.input[first:])
    return quantised - other


def _has_integer_activations(graph: Any) -> bool:
    constants = _constants(graph)
    return any(
        node.op_type in _INTEGER_NAMES
        or node.op_type.endswith("Integer")
        or node.op_type.startswith("QLinear")
        or (node.op_type == "QuantizeLinear" and node.input[0] not in constants)
        for node in graph.node
    )


def _scalar_pair(node: Any, constants: dict[str, Any]) -> Quantisation | None:
    """Scale and zero point of a node, or None where they aren't one constant each."""
    values = []
    for name in node.input[1:3]:
        tensor = constants.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        array = numpy_helper.to_array(tensor)
        if array.size != 1:
            return None
        values.append(array.reshape(-1)[0])
    zero_point = int(values[1]) if len(values) > 1 else 0
    return Quantisation(scale=float(values[0]), zero_point=zero_point)
