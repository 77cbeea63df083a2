"""What an operator has to do, whoever does it: floating-point operations and bytes, by its shapes.

The rules, stated once:

- A multiply-add counts as two operations, as in the tables of YOLOX and Ultralytics.
- A convolution: 2 × elements written × kernel height × kernel width × input channels of a group; a
  matrix product: 2 × elements written × length of the sum. Biases and activations fused into
  them add nothing.
- A pooling: the elements read for each one written. A reduction: the elements read.
- An element-wise operator: a stated number for each element written (`_PER_ELEMENT`).
- A resizing: 0 where it takes the nearest element, 8 an element (four multiply-adds) where linear.
- What only moves or renames data computes nothing: 0, which is known.
- Everything else isn't counted: None, never 0.

Bytes are the least that must pass: every input, weights included, and every output once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from visiondyno.measurements.operators import OperatorRun, OperatorTensor, Shape

_OTHER_SIZES = {"bfloat16": 2, "bool": 1, "float8e4m3fn": 1, "float8e5m2": 1}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one execution has to do.

    Attributes:
        flop: floating-point operations (integer ones of quantised operators alike); None: not
            counted.
        bytes: read and written, each once; None where a shape is unknown.
        is_multiply_add: a convolution or a matrix product, as most published figures count alone.
    """

    flop: int | None
    bytes: int | None
    is_multiply_add: bool = False


def cost_of(operator: OperatorRun) -> Cost:
    """The cost of one execution, by the rules above."""
    kind = plain_kind(operator.kind)
    if kind in _VIEWS:
        return Cost(0, 0)
    if kind in _PRODUCTS:
        flop = _guarded(_PRODUCTS[kind], operator)
        # A weight whose shape isn't told is one whose bytes aren't known either.
        moved = None if flop is None else _bytes(operator)
        return Cost(flop, moved, is_multiply_add=flop is not None)
    if kind in _PACKED:
        return Cost(None, None)
    if kind in _MOVES:
        return Cost(0, _moved_bytes(operator, kind))
    return Cost(_other_flop(operator, kind), _bytes(operator))


def plain_kind(kind: str) -> str:
    """The operator's type without the runtime's own spelling: `aten::relu_` → `relu`."""
    return kind.rsplit("::", 1)[-1].rsplit(".", 1)[-1].strip("_").replace("_", "").lower()


def elements(shape: Shape) -> int:
    """How many numbers a tensor of that shape holds; 1 of a scalar."""
    return math.prod(shape)


def tensor_bytes(tensor: OperatorTensor) -> int | None:
    """Its size; None of a type that has no fixed one.

    OpenVINO gives a bias that isn't there no type, and no elements.
    """
    if not elements(tensor.shape):
        return 0
    try:
        size = _OTHER_SIZES.get(tensor.dtype) or np.dtype(tensor.dtype).itemsize
    except TypeError:
        return None
    return elements(tensor.shape) * size if size else None


def _bytes(operator: OperatorRun) -> int | None:
    tensors = (*operator.inputs, *operator.outputs)
    sizes = [tensor_bytes(tensor) for tensor in tensors]
    if not operator.outputs or None in sizes:
        return None
    return sum(size for size in sizes if size is not None)


def _moved_bytes(operator: OperatorRun, kind: str) -> int | None:
    """Of what takes a part of its input, only that part is read."""
    if kind not in _TAKES_A_PART:
        return _bytes(operator)
    sizes = [tensor_bytes(tensor) for tensor in operator.outputs]
    if not sizes or None in sizes:
        return None
    return 2 * sum(size for size in sizes if size is not None)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _guarded(rule: Callable[[OperatorRun], int | None], operator: OperatorRun) -> int | None:
    """None where the shapes that the rule needs weren't told."""
    if not operator.outputs:
        return None
    try:
        return rule(operator)
    except IndexError:
        return None


def _other_flop(operator: OperatorRun, kind: str) -> int | None:
    if not operator.outputs:
        return None
    written = elements(operator.outputs[0].shape)
    if kind in _PER_ELEMENT:
        return written * _PER_ELEMENT[kind]
    if kind in _REDUCTIONS:
        return elements(operator.inputs[0].shape) if operator.inputs else None
    if kind in _POOLS:
        return None if operator.window is None else written * operator.window
    if kind in _RESIZES:
        return None if operator.mode is None else written * _RESIZE_FLOP.get(operator.mode, 0)
    return None


def _convolution(weight_at: int) -> Callable[[OperatorRun], int | None]:
    def rule(operator: OperatorRun) -> int | None:
        out, weight = operator.outputs[0].shape, operator.inputs[weight_at].shape
        skipped = _skipped(weight, out)
        if skipped is None:
            return None
        return 2 * elements(out) * elements(weight[skipped:])

    return rule


def _skipped(weight: Shape, image: Shape) -> int | None:
    """How many sizes stand before those that are summed over; None of what is no weight.

    Grouped weights of OpenVINO have the groups in front: (G, out/G, in/G, …).
    """
    return {len(image): 1, len(image) + 1: 2}.get(len(weight))


def _transposed_convolution(operator: OperatorRun) -> int | None:
    read, weight = operator.inputs[0].shape, operator.inputs[1].shape
    skipped = _skipped(weight, read)
    if skipped is None:
        return None
    return 2 * elements(read) * elements(weight[skipped:])


def _product(left_at: int) -> Callable[[OperatorRun], int | None]:
    def rule(operator: OperatorRun) -> int | None:
        out = operator.outputs[0].shape
        return 2 * elements(out) * length_of_sum(operator.inputs[left_at].shape, out)

    return rule


def length_of_sum(left: Shape, out: Shape) -> int:
    """Of a matrix product; its left side may be transposed, and then it isn't the last size.

    Raises:
        IndexError: the left side is a scalar.
    """
    if len(left) < 2 or len(out) < len(left) or not out[-2]:
        return left[-1]
    return left[-2] * left[-1] // out[-2]


def _gemm(operator: OperatorRun) -> int | None:
    # Its left side may be transposed: the length of the sum is what is left of its elements.
    out = operator.outputs[0].shape
    if not elements(out):  # of detections, where there are none
        return 0
    return 2 * elements(out) * elements(operator.inputs[0].shape) // out[0]


def _attention(operator: OperatorRun) -> int | None:
    query, key, value = (operator.inputs[place].shape for place in range(3))
    pairs = elements(query[:-1]) * key[-2]
    return 2 * pairs * (query[-1] + value[-1])


_PRODUCTS: dict[str, Callable[[OperatorRun], int | None]] = {
    **dict.fromkeys(
        ("conv", "fusedconv", "nhwcfusedconv", "convinteger", "convolution", "groupconvolution",
         "conv1d", "conv2d", "conv3d"),
        _convolution(1),
    ),
    "qlinearconv": _convolution(3),
    **dict.fromkeys(
        ("convtranspose", "deconvolution", "convolutionbackpropdata",
         "groupconvolutionbackpropdata", "convtranspose1d", "convtranspose2d", "convtranspose3d"),
        _transposed_convolution,
    ),
    **dict.fromkeys(
        ("matmul", "fusedmatmul", "matmulinteger", "qlinearmatmul", "mm", "bmm", "linear",
         "dynamicquantizematmul", "matmulintegertofloat", "fullyconnected"),
        _product(0),
    ),
    "addmm": _product(1),
    **dict.fromkeys(("gemm", "fusedgemm", "qgemm"), _gemm),
    "scaleddotproductattention": _attention,
}  # fmt: skip

_PACKED = frozenset(
    _words("lstm gru rnn dynamicquantizelstm attention qattention multiheadattention matmulnbits")
)
"""No rule, and weights that ONNX Runtime doesn't tell of."""

_VIEWS = frozenset(
    _words(
        "reshape flatten squeeze unsqueeze identity view viewas detach alias expand dropout "
        "unflatten permute transposeview t asstrided select liftfresh resolveconj resolveneg"
    )
)
"""Names for the same memory; ONNX Runtime and torch copy nothing."""

_MOVES = frozenset(
    _words(
        "transpose concat cat concatenation slice split splitwithsizes chunk gather gatherelements "
        "gathernd stridedslice pad constantpadnd reorder reorderinput reorderoutput cast convert "
        "contiguous clone copy to tile stack variadicsplit depthtospace spacetodepth pixelshuffle "
        "indexselect index shuffle channelshuffle memcpytohost memcpyfromhost narrow roll"
    )
)
_TAKES_A_PART = frozenset(
    _words(
        "slice split splitwithsizes chunk gather gatherelements gathernd stridedslice "
        "variadicsplit indexselect index narrow"
    )
)

_PER_ELEMENT: dict[str, int] = {
    **dict.fromkeys(
        _words("add sub subtract mul multiply div divide neg abs relu relu6 clip clamp min max "
        "minimum maximum where equal greater less and or not floor ceil round sqrt reciprocal exp "
        "log pow power bias sign mod floormod not_ xor greaterequal lessequal"),
        1,
    ),
    **dict.fromkeys(_words("leakyrelu prelu thresholdedrelu"), 2),
    # Negation, exponential, sum, quotient.
    **dict.fromkeys(_words("sigmoid logistic"), 4),
    **dict.fromkeys(_words("hardsigmoid hardtanh"), 3),
    **dict.fromkeys(_words("hardswish hswish"), 4),
    **dict.fromkeys(_words("quickgelu silu swish swishcpu"), 5),
    **dict.fromkeys(_words("tanh elu celu selu softplus erf biasadd"), 5),
    **dict.fromkeys(_words("gelu biasgelu fastgelu mish"), 8),
    # Largest, difference, exponential, sum, quotient.
    **dict.fromkeys(_words("softmax logsoftmax"), 5),
    **dict.fromkeys(_words("batchnormalization batchnorm"), 2),
    **dict.fromkeys(
        _words("layernormalization layernorm nativelayernorm skiplayernormalization groupnorm "
        "instancenormalization groupnormalization mvn rmsnormalization"),
        8,
    ),
    **dict.fromkeys(
        _words("quantizelinear dequantizelinear dynamicquantizelinear fakequantize "
        "qlinearadd qlinearmul qlinearsigmoid qlinearleakyrelu qlinearconcat"),
        2,
    ),
}  # fmt: skip
_REDUCTIONS = frozenset(
    _words(
        "globalaveragepool globalmaxpool reducemean reducesum reducemax reducemin reduceprod "
        "mean sum amax amin argmax argmin adaptiveavgpool2d qlinearglobalaveragepool reduce"
    )
)
_POOLS = frozenset(
    _words("maxpool nhwcmaxpool averagepool avgpool maxpool2d avgpool2d qlinearaveragepool")
)
_RESIZES = frozenset(
    _words(
        "resize upsample interpolate upsamplenearest2d upsamplebilinear2d upsamplebicubic2d "
        "qlinearresize"
    )
)
_RESIZE_FLOP = {"nearest": 0, "linear": 8, "cubic": 32}
