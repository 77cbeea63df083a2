"""ONNX files that an export makes: in half precision, and checked before they are handed out."""

import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ChildDied, ModelError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.onnx_answers import FEATURES, Arrays, read_answers
from visiondyno.sandbox import run_in_child

FP32_TOLERANCE = 1e-3
"""Of the largest output, by which a file in fp32 may differ: other orders of sums do less."""

HALF_NOTE = (
    "Processors without half-precision arithmetic widen fp16 to float32 while it runs: there it is "
    "smaller, and no faster. It is meant for GPUs."
)

_CHILD = "visiondyno.operations.onnx_answers:answer_features"
_LARGEST_BYTES = 2_000_000_000
# ONNX Runtime 1.31 dies of a Gelu in half precision on processors (of vision transformers).
_KEPT_IN_FP32 = ("Gelu",)


def to_half(model: Any) -> Any:
    """A `ModelProto` that computes in float16, with inputs and outputs of float32.

    Operators that have no half precision, or lose too much by it, stay float32: those of
    `onnxruntime.transformers.float16`, and Gelu. Weights beyond float16 become the nearest there
    are.

    Raises:
        ModelError: the converter gives up.
    """
    before = list(sys.path)
    from onnxruntime.transformers import float16

    sys.path[:] = before  # its package puts its own folder there, full of common names
    try:
        half = float16.convert_float_to_float16(
            model,
            keep_io_types=True,
            op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *_KEPT_IN_FP32],
        )
    except Exception as error:  # it raises whatever it stumbles over
        raise ModelError(
            f"The model can't be converted to fp16 ({type(error).__name__}: {error}); take "
            "'precision': 'fp32'."
        ) from error
    _drop_repeated(half.graph)
    return half


def _drop_repeated(graph: Any) -> None:
    """Remove casts that the converter made again, for a weight that two kept operators share."""
    made: set[tuple[str, ...]] = set()
    once = []
    for node in graph.node:
        outputs = tuple(node.output)
        if node.op_type == "Cast" and outputs in made:
            continue
        made.add(outputs)
        once.append(node)
    del graph.node[:]
    graph.node.extend(once)


def serialized(model: Any) -> bytes:
    """The bytes of a `ModelProto`, weights inside.

    Raises:
        ModelError: it is longer than an ONNX file may be without further files.
    """
    size = model.ByteSize()
    if size > _LARGEST_BYTES:
        raise ModelError(
            f"The ONNX file would have {size / 1e9:.1f} GB, and one file holds at most "
            f"{_LARGEST_BYTES / 1e9:.0f} GB; take 'precision': 'fp16', or a smaller model."
        )
    data: bytes = model.SerializeToString()
    return data


def answers_to_features(
    data: bytes,
    features: NDArray[Any],
    batches: Sequence[int],
    context: OperationContext,
    threads: int | None,
) -> Arrays:
    """What the file in `data` answers to `features`, in batches of these sizes.

    Raises:
        ModelError: it can't be run, or ONNX Runtime dies of it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / FEATURES, features)
        (folder / "model.onnx").write_bytes(data)
        payload = {
            "folder": name,
            "model": str(folder / "model.onnx"),
            "batches": list(batches),
            "threads": threads or 0,
        }
        try:
            run_in_child(_CHILD, payload, check=context.check)
        except ChildDied as error:
            raise ModelError(
                f"ONNX Runtime dies of the exported file ({error.message}) Take another "
                "'precision' or 'opset'."
            ) from error
        return read_answers(folder)


def differences(expected: Arrays, found: Arrays, precision: str) -> dict[str, float]:
    """How far a file's answers are from those of its source.

    Returns:
        `max_abs_difference` and `mean_abs_difference` over all outputs, and `max_abs_output`, the
        largest number of the source, to judge them by.

    Raises:
        ModelError: shapes differ, a number isn't finite, or a file in fp32 differs by more than
            `FP32_TOLERANCE`.
    """
    shapes = [array.shape for array in expected], [array.shape for array in found]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"The exported file answers shapes {shapes[1]}, and its source {shapes[0]}; it can't "
            "be used in its place."
        )
    worst, largest, total, count = 0.0, 0.0, 0.0, 0
    for one, other in zip(expected, found, strict=True):
        values, others = one.astype(np.float64), other.astype(np.float64)
        _check_finite(values, "source", "give other 'check_data'")
        _check_finite(others, f"exported file in {precision}", "take 'precision': 'fp32'")
        errors = np.abs(values - others)
        worst = max(worst, float(errors.max(initial=0.0)))
        largest = max(largest, float(np.abs(values).max(initial=0.0)))
        total, count = total + float(errors.sum()), count + errors.size
    if precision == "fp32" and worst > FP32_TOLERANCE * max(largest, 1.0):
        raise ModelError(
            f"The exported file's answers differ by up to {worst:.3g} from its source's, whose "
            f"largest is {largest:.3g}; it can't be used in its place."
        )
    return {
        "max_abs_difference": worst,
        "mean_abs_difference": total / max(count, 1),
        "max_abs_output": largest,
    }


def _check_finite(values: NDArray[np.float64], whose: str, hint: str) -> None:
    if not math.isfinite(float(np.abs(values).sum())):
        raise ModelError(f"The {whose} answers NaN or infinity in the check; {hint}.")
