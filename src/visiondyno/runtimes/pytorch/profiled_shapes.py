"""Shapes that torch's profiler doesn't tell, from those of an operator's inputs and its numbers."""

from collections.abc import Callable, Sequence
from math import ceil, floor
from typing import Any

from visiondyno.measurements.operator_costs import plain_kind
from visiondyno.measurements.operators import Shape

_POOLS = {"maxpool2d", "avgpool2d"}
_SAME_AS_FIRST = frozenset(
    ("relu", "relu6", "sigmoid", "silu", "hardswish", "hardsigmoid", "hardtanh", "leakyrelu", "elu",
     "gelu", "mish", "tanh", "softmax", "logsoftmax", "batchnorm", "layernorm", "groupnorm", "exp",
     "log", "sqrt", "neg", "abs", "clamp", "clip", "sign", "floor", "ceil", "round", "reciprocal",
     "contiguous", "clone", "copy", "roll")
)  # fmt: skip
_BROADCAST = frozenset(("add", "sub", "mul", "div", "pow", "maximum", "minimum", "where"))


def output_shape(
    kind: str, inputs: Sequence[Sequence[int]], numbers: Sequence[Any]
) -> Shape | None:
    """The shape of what an operator writes; None where the rules here don't cover it.

    Args:
        kind: `aten::…`; convolutions as `aten::convolution`'s arguments, whatever they are called.
        inputs: shapes of its arguments; [] of one that is no tensor.
        numbers: its arguments; None of a tensor.
    """
    name = plain_kind(kind)
    if name in _SAME_AS_FIRST:
        return tuple(inputs[0]) if inputs and inputs[0] else None
    if name in _BROADCAST:
        return _broadcast([shape for shape in inputs if shape])
    rule = next((rule for begins, rule in _RULES if name.startswith(begins)), None)
    if rule is None:
        return None
    try:
        return rule(inputs, numbers)
    except (IndexError, TypeError, ValueError):
        return None


def pooled_window(kind: str, numbers: Sequence[Any]) -> int | None:
    """How many elements a pooling reads for each one it writes; None of other operators."""
    if plain_kind(kind) not in _POOLS or len(numbers) < 2 or not numbers[1]:
        return None
    height, width = _pair(numbers[1])
    return height * width


def resize_mode(kind: str) -> str | None:
    """`nearest`, `linear` or `cubic` of a resizing; None of other operators."""
    name = plain_kind(kind)
    if not name.startswith("upsample"):
        return None
    return next((mode for mode in ("nearest", "linear", "cubic") if mode in name), None)


_Rule = Callable[[Sequence[Sequence[int]], Sequence[Any]], Shape | None]


def _convolved(inputs: Sequence[Sequence[int]], numbers: Sequence[Any]) -> Shape | None:
    image, weight = inputs[0], inputs[1]
    stride, padding, dilation = numbers[3:6]
    sizes = range(len(weight) - 2)
    stride, padding, dilation = (_many(one, len(sizes)) for one in (stride, padding, dilation))
    if len(numbers) > 6 and numbers[6] is True:
        return None
    found = [
        (image[2 + n] + 2 * padding[n] - dilation[n] * (weight[2 + n] - 1) - 1) // stride[n] + 1
        for n in sizes
    ]
    return (image[0], weight[0], *found)


def _transposed(inputs: Sequence[Sequence[int]], numbers: Sequence[Any]) -> Shape:
    """Of `conv_transpose…`: stride, padding, what is added to the output, groups, dilation."""
    image, weight = inputs[0], inputs[1]
    count = len(weight) - 2
    stride, padding, added = (_many(one, count) for one in numbers[3:6])
    dilation = _many(numbers[7], count)
    sizes = [
        (image[2 + n] - 1) * stride[n]
        - 2 * padding[n]
        + dilation[n] * (weight[2 + n] - 1)
        + added[n]
        + 1
        for n in range(count)
    ]
    return (image[0], weight[1] * int(numbers[6]), *sizes)


def _pooled(inputs: Sequence[Sequence[int]], numbers: Sequence[Any]) -> Shape:
    image = inputs[0]
    kernel = _pair(numbers[1])
    stride = _pair(numbers[2]) if numbers[2] else kernel
    padding = _pair(numbers[3])
    # max_pool2d has a dilation before the way of rounding, avg_pool2d hasn't.
    is_max = len(numbers) > 5 and isinstance(numbers[4], list)
    dilation = _pair(numbers[4]) if is_max else (1, 1)
    rounded = ceil if numbers[5 if is_max else 4] else floor
    sizes = [
        int(
            rounded((image[n - 2] + 2 * padding[n] - dilation[n] * (kernel[n] - 1) - 1) / stride[n])
        )
        + 1
        for n in range(2)
    ]
    return (*image[:-2], *sizes)


def _added_product(inputs: Sequence[Sequence[int]], _: Sequence[Any]) -> Shape:
    return (inputs[1][0], inputs[2][1])


def _linear(inputs: Sequence[Sequence[int]], _: Sequence[Any]) -> Shape:
    return (*inputs[0][:-1], inputs[1][0])


def _product(inputs: Sequence[Sequence[int]], _: Sequence[Any]) -> Shape:
    left, right = inputs[0], inputs[1]
    if len(right) == 1:
        return tuple(left[:-1])
    batch = _broadcast([tuple(left[:-2]), tuple(right[:-2])]) or ()
    return (*batch, *left[-2:-1], right[-1])


def _averaged(inputs: Sequence[Sequence[int]], numbers: Sequence[Any]) -> Shape:
    return (*inputs[0][: -len(numbers[1])], *numbers[1])


def _attended(inputs: Sequence[Sequence[int]], _: Sequence[Any]) -> Shape:
    return (*inputs[0][:-1], inputs[2][-1])


def _resized(inputs: Sequence[Sequence[int]], numbers: Sequence[Any]) -> Shape | None:
    image = inputs[0]
    if isinstance(numbers[1], list):
        return (*image[:-2], *(int(size) for size in numbers[1]))
    factors = numbers[-1]
    if not isinstance(factors, list) or len(factors) != 2:
        return None
    return (*image[:-2], *(int(image[n - 2] * factors[n]) for n in range(2)))


def _broadcast(shapes: Sequence[Sequence[int]]) -> Shape | None:
    if not shapes:
        return None
    length = max(map(len, shapes))
    padded = [(1,) * (length - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(max(sizes) for sizes in zip(*padded, strict=True))


def _pair(value: Any) -> tuple[int, int]:
    first, *rest = value if isinstance(value, list) else [value]
    return int(first), int(rest[0] if rest else first)


def _many(value: Any, count: int) -> list[int]:
    numbers = value if isinstance(value, list) else [value]
    return [int(numbers[n if n < len(numbers) else 0]) for n in range(count)]


_RULES: tuple[tuple[str, _Rule], ...] = (
    ("convtranspose", _transposed),
    ("conv", _convolved),
    ("maxpool2d", _pooled),
    ("avgpool2d", _pooled),
    ("adaptiveavgpool", _averaged),
    ("addmm", _added_product),
    ("linear", _linear),
    ("matmul", _product),
    ("mm", _product),
    ("bmm", _product),
    ("scaleddotproductattention", _attended),
    ("upsample", _resized),
)
"""The beginning of an operator's name, and what gives its output's shape; the first that fits."""
