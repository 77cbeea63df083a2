"""Rounded states: bfloat16, and 8-bit differences to a base.

Only floating-point tensors of two dimensions or more are rounded: kernels and matrices, nearly all
bytes of a model. Vectors and scalars (biases, batch statistics: a variance rounded below zero would
be NaN after its square root) travel exactly, as in PowerSGD (Vogels et al. 2019, section 3), and so
does a tensor that holds, or would come out with, NaN or infinity.

bf16: each value is rounded to the nearest bfloat16, ties to even; at most 2^-8 of its magnitude
is lost.

int8-delta: with the update u = target - base and, for each index r of the first dimension, the
scale s_r = max|u_r| / 127 in float32, rounded up,

    q = round(u / s_r) in [-127, 127],    decoded = base + s_r · q,    |decoded - target| ≤ s_r / 2

and half a unit in the last place of the tensor's dtype. Symmetric quantisation per output channel:
Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference", section 2.
All in float64 until the last rounding, so that both sides get the same bits.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from visiondyno.state.feedback import ErrorFeedback
from visiondyno.state.tensors import (
    DTYPES,
    State,
    Tensor,
    check_size,
    dtype_name,
    quoted,
    unreadable,
)

Float64 = npt.NDArray[np.float64]
Sent = tuple[dict[str, Tensor], Tensor]  # what goes on the wire, what comes out of it
Quantise = Callable[[str, Tensor, Float64], Sent | None]

_FLOATS = ("F64", "F32", "F16", "BF16")
_WIDER_THAN_BF16 = ("F64", "F32")
_RESTORE = "restore"
_EXACT, _LEVELS, _SCALES = "v:", "q:", "s:"
_TOP_LEVEL = 127


@dataclass(frozen=True, slots=True)
class Rounded:
    """A rounded state, on both sides.

    Attributes:
        wire: the tensors to send.
        metadata: the texts to send with them.
        decoded: what the receiver will have.
        max_abs_error: largest |decoded - state| of all numbers.
    """

    wire: dict[str, Tensor]
    metadata: dict[str, str]
    decoded: dict[str, Tensor]
    max_abs_error: float


def to_bf16(state: State, feedback: ErrorFeedback | None) -> Rounded:
    """Round to bfloat16 what is wider.

    Raises:
        ModelError: the feedback is of another model.
    """
    restore: dict[str, str] = {}

    def quantise(name: str, tensor: Tensor, target: Float64) -> Sent | None:
        dtype = str(dtype_name(tensor))
        if dtype not in _WIDER_THAN_BF16:
            return None
        short = target.astype(np.float32).astype(ml_dtypes.bfloat16)
        return {name: short}, short.astype(DTYPES[dtype])

    wire, decoded, error = _rounded(state, feedback, quantise, exact_prefix="")
    for name, tensor in wire.items():
        if tensor.dtype != decoded[name].dtype:
            restore[name] = str(dtype_name(decoded[name]))
    return Rounded(wire, {_RESTORE: json.dumps(restore, ensure_ascii=False)}, decoded, error)


def from_bf16(
    wire: State, metadata: Mapping[str, str], _base: State | None, max_bytes: int
) -> dict[str, Tensor]:
    """The state that `to_bf16` gave as `decoded`.

    Raises:
        ModelError: the metadata doesn't fit the tensors.
        TooLarge: it would take more than `max_bytes`.
    """
    restore = _parsed_restore(metadata.get(_RESTORE, ""))
    if restore.keys() - wire.keys():
        raise unreadable("its metadata names tensors that aren't there")
    state = dict(wire)
    grown = sum(wire[name].size * DTYPES[dtype].itemsize for name, dtype in restore.items())
    check_size(grown + sum(t.nbytes for n, t in wire.items() if n not in restore), max_bytes)
    for name, dtype in restore.items():
        if wire[name].dtype != ml_dtypes.bfloat16:
            raise unreadable(f"the tensor {quoted(name)} should be of bfloat16")
        state[name] = wire[name].astype(DTYPES[dtype])
    return state


def to_int8_delta(state: State, base: State, feedback: ErrorFeedback | None) -> Rounded:
    """Round the difference to `base`, of the same names, shapes and dtypes, to 8 bits.

    Raises:
        ModelError: the feedback is of another model.
    """

    def quantise(name: str, tensor: Tensor, target: Float64) -> Sent | None:
        rows = len(target)
        update = (target - base[name].astype(np.float64)).reshape(rows, -1)
        peaks = np.abs(update).max(axis=1)
        scales = (peaks / _TOP_LEVEL).astype(np.float32)
        too_small = scales.astype(np.float64) * _TOP_LEVEL < peaks
        scales = np.where(too_small, np.nextafter(scales, np.float32(np.inf)), scales)
        if not np.isfinite(scales).all():
            return None
        steps = np.where(scales > 0, scales, 1).astype(np.float64)[:, None]
        levels = np.rint(update / steps).astype(np.int8).reshape(tensor.shape)
        wire = {_LEVELS + name: levels, _SCALES + name: scales}
        return wire, _dequantised(base[name], levels, scales)

    wire, decoded, error = _rounded(state, feedback, quantise, exact_prefix=_EXACT)
    return Rounded(wire, {}, decoded, error)


def from_int8_delta(
    wire: State, _metadata: Mapping[str, str], base: State, _max_bytes: int
) -> dict[str, Tensor]:
    """The state that `to_int8_delta` gave as `decoded`.

    Raises:
        ModelError: `wire` doesn't fit `base`.
    """
    state: dict[str, Tensor] = {}
    used = set()
    for name, old in base.items():
        exact = wire.get(_EXACT + name)
        levels, scales = wire.get(_LEVELS + name), wire.get(_SCALES + name)
        if exact is not None and _describe(exact) == _describe(old):
            state[name] = exact
            used.add(_EXACT + name)
        elif levels is not None and scales is not None and _fit(levels, scales, old):
            with np.errstate(all="ignore"):
                state[name] = _dequantised(old, levels, scales)
            used |= {_LEVELS + name, _SCALES + name}
        else:
            raise unreadable(f"its update of {quoted(name)} doesn't fit the base it names")
    if wire.keys() - used:
        raise unreadable("it has tensors that aren't in the base it names")
    return state


def _rounded(
    state: State, feedback: ErrorFeedback | None, quantise: Quantise, exact_prefix: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    keeping = feedback or ErrorFeedback()
    wire: dict[str, Tensor] = {}
    decoded: dict[str, Tensor] = {}
    residuals: dict[str, Tensor] = {}
    worst = 0.0
    for name, tensor in state.items():
        target = keeping.target(name, tensor) if _may_be_rounded(tensor) else None
        sent = None
        if target is not None and np.isfinite(target).all():
            with np.errstate(over="ignore", invalid="ignore"):
                sent = quantise(name, tensor, target)
        came_out = None if sent is None else sent[1].astype(np.float64)
        if target is None or sent is None or came_out is None or not np.isfinite(came_out).all():
            wire[exact_prefix + name] = decoded[name] = tensor
            continue
        wire |= sent[0]
        decoded[name] = sent[1]
        worst = max(worst, float(np.abs(came_out - tensor.astype(np.float64)).max()))
        kept: type[Any] = np.float64 if tensor.dtype.itemsize == 8 else np.float32
        residuals[name] = (target - came_out).astype(kept)
    if feedback is not None:
        feedback.replace(residuals)
    return wire, decoded, worst


def _may_be_rounded(tensor: Tensor) -> bool:
    return tensor.ndim >= 2 and tensor.size > 0 and dtype_name(tensor) in _FLOATS


def _dequantised(base: Tensor, levels: Tensor, scales: Tensor) -> Tensor:
    steps = scales.astype(np.float64).reshape(-1, *[1] * (levels.ndim - 1))
    exact: Float64 = base.astype(np.float64) + steps * levels
    if base.dtype.itemsize == 8:
        return exact
    return exact.astype(np.float32).astype(base.dtype)


def _fit(levels: Tensor, scales: Tensor, old: Tensor) -> bool:
    return (
        _may_be_rounded(old)
        and _describe(levels) == ("I8", old.shape)
        and _describe(scales) == ("F32", old.shape[:1])
    )


def _describe(tensor: Tensor) -> tuple[str | None, tuple[int, ...]]:
    return dtype_name(tensor), tensor.shape


def _parsed_restore(text: str) -> dict[str, str]:
    try:
        restore = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise unreadable("its metadata doesn't say which tensors were rounded") from error
    if not isinstance(restore, dict) or any(v not in _WIDER_THAN_BF16 for v in restore.values()):
        raise unreadable("its metadata doesn't say which tensors were rounded")
    return restore
