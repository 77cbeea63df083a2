"""Operations and bytes of operators whose weights ONNX Runtime packs, as it profiles them."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from visiondyno.measurements.operator_costs import cost_of
from visiondyno.runtimes.onnx_profile import node_facts, operators_of

SCALE, ZERO, WEIGHT_ZERO = np.float32(0.1), np.uint8(3), np.int8(0)
OF_X = {"s": SCALE, "z": ZERO}
OF_W = {"ws": SCALE, "wz": WEIGHT_ZERO}


def _node(kind, inputs, out="y", **attributes):
    return helper.make_node(kind, inputs.split(), [out], name=f"/{kind.lower()}", **attributes)


QDQ = [
    _node("QuantizeLinear", "x s z", "xq"),
    _node("DequantizeLinear", "xq s z", "xd"),
    helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="weight"),
    _node("Conv", "xd wd", "c"),
    helper.make_node("QuantizeLinear", ["c", "s", "z"], ["y"], name="end"),
]
# nodes, weight, other constants, x; executed as, operations, bytes
CASES = {
    "matmul": ([_node("MatMul", "x w")], ("float32", 64, 32), {}, ("float32", 5, 64),
               "MatMul", 2 * 5 * 32 * 64, 4 * (5 * 64 + 64 * 32 + 5 * 32)),
    "gemm": ([_node("Gemm", "x w b", transA=1, transB=1)], ("float32", 32, 64),
             {"b": np.zeros((1, 32), np.float32)}, ("float32", 64, 5),
             "Gemm", 2 * 5 * 32 * 64, 4 * (5 * 64 + 64 * 32 + 32 + 5 * 32)),
    "transposed-left": (
        [_node("Transpose", "x", "t", perm=[0, 2, 1]), _node("MatMul", "t w")],
        ("float32", 64, 32), {}, ("float32", 2, 64, 5),
        "FusedMatMul", 2 * 10 * 32 * 64, 4 * (10 * 64 + 64 * 32 + 10 * 32)),
    "transposed-convolution": (
        [_node("ConvTranspose", "x w b", strides=[2, 2], group=2)], ("float32", 8, 2, 2, 2),
        {"b": np.zeros(4, np.float32)}, ("float32", 1, 8, 6, 6),
        "ConvTranspose", 2 * 288 * 2 * 4, 4 * (288 + 64 + 4 + 4 * 144)),
    "quantised-convolution": (
        [_node("QLinearConv", "x s z w ws wz s z")], ("int8", 8, 3, 3, 3), OF_X | OF_W,
        ("uint8", 1, 3, 6, 6), "QLinearConv", 2 * 8 * 16 * 27, 108 + 216 + 128 + 4 * 3 + 3),
    "quantise-dequantise": (
        QDQ, ("int8", 16, 16, 3, 3), OF_X | OF_W,
        ("float32", 1, 16, 8, 8), "QLinearConv", 2 * 16 * 36 * 144,
        16 * 64 + 16 * 144 + 16 * 36 + 4 * 3 + 3),
    "integer-convolution": (
        [_node("ConvInteger", "x w z")], ("int8", 8, 3, 3, 3), {"z": ZERO}, ("uint8", 1, 3, 6, 6),
        "ConvInteger", 2 * 8 * 16 * 27, 108 + 216 + 1 + 4 * 128),
    "integer-product": (
        [_node("MatMulInteger", "x w z")], ("int8", 64, 32), {"z": ZERO}, ("uint8", 5, 64),
        "MatMulInteger", 2 * 5 * 32 * 64, 320 + 2048 + 1 + 4 * 160),
    "quantised-product": (
        [_node("QLinearMatMul", "x s z w ws wz s z")], ("int8", 64, 32), OF_X | OF_W,
        ("uint8", 5, 64), "QLinearMatMul", 2 * 5 * 32 * 64, 320 + 2048 + 160 + 4 * 3 + 3),
    "recurrent": ([_node("LSTM", "x w r", hidden_size=8)], ("float32", 1, 32, 4),
                  {"r": np.zeros((1, 32, 8), np.float32)}, ("float32", 3, 2, 4),
                  "LSTM", None, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_weights_that_are_packed_count(case, tmp_path):
    nodes, (weight_type, *sizes), others, (dtype, *shape), kind, flop, moved = CASES[case]
    constants = {"w": np.ones(sizes, weight_type), **others}
    types = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", types[dtype], shape)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "m.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.ones(shape, dtype)})
    events = json.loads(Path(session.end_profiling()).read_bytes())
    found = operators_of(events, node_facts(path))
    (one,) = [one for one in found if one.kind == kind]
    cost = cost_of(one)
    assert (cost.flop, cost.bytes) == (flop, moved)


def test_what_the_file_does_not_tell_is_not_counted():
    from visiondyno.measurements.operators import OperatorTensor
    from visiondyno.runtimes.onnx_packed_weights import with_weight

    def tensors(*shapes):
        return tuple(OperatorTensor("uint8", shape) for shape in shapes)

    told, out = tensors((1, 3, 6, 6), (), (), (), (), (), ()), tensors((1, 8, 4, 4))
    assert with_weight("QLinearConv", told, out, None) == told
    assert with_weight("Relu", out, out, None) == out
    assert with_weight("MatMul", (), out, None) == ()
