"""Operations and bytes of operators, against numbers worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profile_factory import operator, tensor
from visiondyno.measurements.operator_costs import cost_of, plain_kind, tensor_bytes

HAND = {
    # 2 · (4·16·16 written) · (8·3·3 summed)
    "conv": ("Conv", [(1, 8, 16, 16), (4, 8, 3, 3), (4,)], [(1, 4, 16, 16)], 147_456),
    "depthwise": ("Conv", [(1, 8, 4, 4), (8, 1, 3, 3)], [(1, 8, 4, 4)], 2 * 128 * 9),
    "grouped-openvino": (
        "GroupConvolution", [(1, 8, 4, 4), (2, 4, 4, 3, 3)], [(1, 8, 4, 4)], 2 * 128 * 36,
    ),
    "torch-conv": ("aten::conv2d", [(1, 8, 16, 16), (4, 8, 3, 3)], [(1, 4, 16, 16)], 147_456),
    "quantised-conv": (
        "QLinearConv", [(1, 8, 4, 4), (), (), (4, 8, 1, 1)], [(1, 4, 4, 4)], 2 * 64 * 8,
    ),
    "transposed": ("ConvTranspose", [(1, 8, 4, 4), (8, 2, 2, 2)], [(1, 2, 8, 8)], 2 * 128 * 8),
    "transposed-grouped": (
        "GroupConvolutionBackpropData",
        [(1, 8, 4, 4), (2, 4, 1, 2, 2)], [(1, 2, 8, 8)], 2 * 128 * 4,
    ),
    "matmul": ("MatMul", [(5, 7), (7, 3)], [(5, 3)], 2 * 15 * 7),
    "gemm-transposed": ("Gemm", [(7, 5), (7, 3), (3,)], [(5, 3)], 2 * 15 * 7),
    "gemm-of-nothing": ("Gemm", [(0, 7), (7, 3)], [(0, 3)], 0),
    "matmul-transposed": ("FusedMatMul", [(7, 5), (7, 3)], [(5, 3)], 2 * 15 * 7),
    "matmul-batched": ("MatMul", [(2, 5, 7), (7, 3)], [(2, 5, 3)], 2 * 30 * 7),
    "matmul-vector": ("MatMul", [(5, 7), (7,)], [(5,)], 2 * 5 * 7),
    "matmul-of-nothing": ("MatMul", [(0, 7), (7, 3)], [(0, 3)], 0),
    "linear": ("aten::linear", [(2, 7), (3, 7)], [(2, 3)], 2 * 6 * 7),
    "addmm": ("aten::addmm", [(3,), (2, 7), (7, 3)], [(2, 3)], 2 * 6 * 7),
    "attention": (
        "aten::scaled_dot_product_attention",
        [(1, 2, 5, 8), (1, 2, 6, 8), (1, 2, 6, 4)], [(1, 2, 5, 4)], 2 * 10 * 6 * 12,
    ),
    "relu": ("aten::relu_", [(2, 3)], [(2, 3)], 6),
    "sigmoid": ("Sigmoid", [(2, 3)], [(2, 3)], 24),
    "softmax": ("aten::_softmax", [(2, 3)], [(2, 3)], 30),
    "mean": ("GlobalAveragePool", [(1, 4, 5, 5)], [(1, 4, 1, 1)], 100),
    "transpose": ("Transpose", [(2, 3)], [(3, 2)], 0),
    "reshape": ("Reshape", [(2, 3), (1,)], [(6,)], 0),
}  # fmt: skip


@pytest.mark.parametrize("case", HAND)
def test_operations_are_those_counted_by_hand(case):
    kind, inputs, outputs, flop = HAND[case]
    one = operator(
        kind, inputs=tuple(tensor(*s) for s in inputs), outputs=tuple(tensor(*s) for s in outputs)
    )
    assert cost_of(one).flop == flop


def test_pools_and_resizings_count_what_the_profile_says_of_them():
    out = {"inputs": (tensor(1, 2, 8, 8),), "outputs": (tensor(1, 2, 4, 4),)}
    assert cost_of(operator("MaxPool", window=9, **out)).flop == 32 * 9
    assert cost_of(operator("NhwcMaxPool", window=9, **out)).flop == 32 * 9  # of int8
    assert cost_of(operator("MaxPool", **out)).flop is None
    assert cost_of(operator("Resize", mode="nearest", **out)).flop == 0
    assert cost_of(operator("Resize", mode="linear", **out)).flop == 32 * 8
    assert cost_of(operator("Resize", **out)).flop is None


@pytest.mark.parametrize(
    "given",
    [{"kind": "Mystery"}, {"inputs": ()}, {"outputs": ()}, {"kind": "Relu", "outputs": ()},
     {"kind": "ReduceMean", "inputs": ()}],
    ids=["no-rule", "no-inputs", "no-outputs", "no-size", "nothing-read"],
)  # fmt: skip
def test_what_has_no_rule_or_shape_is_not_counted(given):
    cost = cost_of(operator(**given))
    assert cost.flop is None
    assert not cost.is_multiply_add


def test_bytes_are_every_tensor_once():
    assert cost_of(operator()).bytes == 4 * (2048 + 288 + 1024)
    half = {"inputs": (tensor(2, 3, dtype="float16"),), "outputs": (tensor(6, dtype="bfloat16"),)}
    assert cost_of(operator("Relu", **half)).bytes == 24
    # What stands where its weight would is none, so that there is one that isn't told of.
    assert cost_of(operator("Conv", **half)).bytes is None


def test_a_slice_reads_what_it_writes_and_a_view_nothing():
    sizes = {"inputs": (tensor(1000),), "outputs": (tensor(10),)}
    assert cost_of(operator("Slice", **sizes)).bytes == 80
    assert cost_of(operator("Concat", **sizes)).bytes == 4040
    assert cost_of(operator("aten::view", **sizes)).bytes == 0
    assert cost_of(operator("Slice", inputs=(tensor(5),), outputs=())).bytes is None


def test_types_without_a_size_have_no_bytes():
    assert tensor_bytes(tensor(3, dtype="string")) is None
    assert tensor_bytes(tensor(0, dtype="undefined")) == 0
    assert tensor_bytes(tensor(3, dtype="object_of_sorts")) is None
    unknown = operator("Relu", inputs=(tensor(3, dtype="string"),), outputs=(tensor(3),))
    assert cost_of(unknown).bytes is None


def test_spellings_of_a_type_are_one():
    for kind in ("aten::max_pool2d", "MaxPool2d", "com.microsoft.MaxPool2d"):
        assert plain_kind(kind) == "maxpool2d"


@given(*(st.integers(1, 40) for _ in range(5)), st.sampled_from([1, 3, 5]))
def test_a_convolution_of_one_pixel_is_a_product(batch, read, written, height, width, side):
    one = operator(
        inputs=(tensor(batch, read, height, width), tensor(written, read, side, side)),
        outputs=(tensor(batch, written, height, width),),
    )
    rows, inner = batch * height * width, read * side * side
    product = operator(
        "MatMul",
        inputs=(tensor(rows, inner), tensor(inner, written)),
        outputs=(tensor(rows, written),),
    )
    assert cost_of(one).flop == cost_of(product).flop == 2 * rows * inner * written
