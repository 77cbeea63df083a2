"""Weights that ONNX Runtime packed for its kernels, and whose shapes its profile then leaves out.

What the file says of them, or the other shapes, stands in their place: without them a quantised
convolution would seem to do nothing, and a matrix product to read no weights.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import onnx

from visiondyno.measurements.operator_costs import length_of_sum
from visiondyno.measurements.operators import OperatorTensor

_PLACES = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}
"""Of the weight among the inputs; 1 of all others."""

_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvTranspose", "ConvInteger", "QLinearConv"})
_TWO_SIDES = frozenset({"MatMul", "FusedMatMul"})
_SUMS = frozenset({"Gemm", "FusedGemm"})
_OF_INTEGERS = frozenset({
    "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm",
})  # fmt: skip


def nodes_of(graph: Any) -> Iterator[Any]:
    """A graph's nodes, then those of its loops and branches."""
    yield from graph.node
    for inner in _graphs_in(graph):
        yield from nodes_of(inner)


def weights_by_node(graph: Any) -> dict[str, OperatorTensor]:
    """The weight of each convolution, by the node's name and by that of its first output.

    Looked through is what makes floats of stored integers.
    """
    known = _constants(graph)
    found: dict[str, OperatorTensor] = {}
    for node in nodes_of(graph):
        if node.op_type == "DequantizeLinear" and node.input[0] in known:
            known[node.output[0]] = known[node.input[0]]
        place = _PLACES.get(node.op_type, 1)
        if node.op_type in _CONVOLUTIONS and len(node.input) > place:
            weight = known.get(node.input[place])
            if weight is not None:
                found |= dict.fromkeys((node.name, node.output[0]), weight)
    return found


def with_weight(
    kind: str,
    inputs: Sequence[OperatorTensor],
    outputs: Sequence[OperatorTensor],
    weight: OperatorTensor | None,
) -> tuple[OperatorTensor, ...]:
    """An operator's inputs, with its weight in its place where the profile doesn't tell of it.

    Args:
        kind: as executed.
        inputs: that are told of.
        outputs: likewise.
        weight: of a convolution, as its file says; None where that is unknown.
    """
    place = _PLACES.get(kind, 1)
    if kind in _CONVOLUTIONS:
        missing = weight
        is_told = len(inputs) > place and len(inputs[place].shape) >= 3
    elif kind in _TWO_SIDES | _SUMS | _OF_INTEGERS and inputs and outputs and outputs[0].shape:
        missing = _right_side(kind, inputs[0], outputs[0])
        is_told = len(inputs) > place and _is_right_side(kind, inputs[place], missing)
    else:
        return tuple(inputs)
    if is_told or missing is None or len(inputs) < place:
        return tuple(inputs)
    return (*inputs[:place], missing, *inputs[place:])


def _graphs_in(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _constants(graph: Any) -> dict[str, OperatorTensor]:
    found = {tensor.name: _tensor(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            found[node.output[0]] = _tensor(node.attribute[0].t)
    for inner in _graphs_in(graph):
        found = _constants(inner) | found
    return found


def _tensor(tensor: Any) -> OperatorTensor:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name
    return OperatorTensor(dtype, tuple(tensor.dims))


def _right_side(kind: str, left: OperatorTensor, out: OperatorTensor) -> OperatorTensor | None:
    """Of a product: what is packed has two sizes, and they follow from the others."""
    if not left.shape:
        return None
    shape = (length_of_sum(left.shape, out.shape), out.shape[-1])
    return OperatorTensor("int8" if kind in _OF_INTEGERS else left.dtype, shape)


def _is_right_side(kind: str, told: OperatorTensor, right: OperatorTensor | None) -> bool:
    """Whether it is that, and not what comes after it."""
    if kind in _TWO_SIDES:
        return True
    if kind in _SUMS:
        return right is not None and sorted(told.shape) == sorted(right.shape)
    return len(told.shape) > 1
