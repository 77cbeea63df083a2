"""Tensors of the Open Inference Protocol: their types, and their forms as JSON and as bytes.

After "Tensor Data" and "Tensor Data Types" of KServe's Open Inference Protocol (version 2) and
Triton's binary tensor data extension. Everything that can't be read is a `SpecError` that names the
tensor.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import SpecError

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
"""NumPy's type for each of the protocol's, in the byte order of the binary form."""

_LENGTH = struct.Struct("<I")
_LARGEST_DIMENSION = 2**63 - 1
_MOST_DIMENSIONS = 32


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named array.

    Attributes:
        name: of the input or output.
        datatype: the protocol's, a key of `DTYPES`.
        array: of that type and the tensor's shape; BYTES are objects of `bytes`.
    """

    name: str
    datatype: str
    array: NDArray[Any]

    @property
    def shape(self) -> list[int]:
        """The array's, as JSON has it."""
        return list(self.array.shape)


def check_form(name: str, datatype: Any, shape: Any) -> tuple[str, tuple[int, ...]]:
    """Type and shape as a request gives them.

    Raises:
        SpecError: the type isn't one of the protocol's, or the shape no list of sizes.
    """
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise SpecError(
            f"Tensor '{name}': '{datatype}' isn't a datatype; there are {', '.join(DTYPES)}."
        )
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) > _MOST_DIMENSIONS:
        raise SpecError(f"Tensor '{name}': 'shape' must be a list of at most 32 sizes.")
    for size in shape:
        if type(size) is not int or not 0 <= size <= _LARGEST_DIMENSION:
            raise SpecError(f"Tensor '{name}': its shape has {size!r}, which isn't a size.")
    return datatype, tuple(shape)


def reshaped(name: str, array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """The array in that shape.

    Raises:
        SpecError: no array can have it: a size of 0 stands beside one beyond all memory.
    """
    try:
        return array.reshape(shape)
    except ValueError as error:
        raise SpecError(f"Tensor '{name}' can't have the shape {list(shape)}.") from error


# ---- the binary form


def from_binary(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Tensor:
    """A tensor of little-endian elements, row by row; BYTES each after its length in 4 bytes.

    Numbers stay a view into `data`.

    Raises:
        SpecError: the data has another size than type and shape need, or holds a BOOL that is
            neither 0 nor 1.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, reshaped(name, _elements(name, data, count), shape))
    dtype = DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise SpecError(
            f"Tensor '{name}' has {len(data)} bytes; {datatype} of shape {list(shape)} needs "
            f"{count * dtype.itemsize}."
        )
    if datatype == "BOOL":
        flags = np.frombuffer(data, np.uint8)
        if (flags > 1).any():
            raise SpecError(f"Tensor '{name}' holds a BOOL that is neither 0 nor 1.")
        return Tensor(name, datatype, reshaped(name, flags.view(np.bool_), shape))
    return Tensor(name, datatype, reshaped(name, np.frombuffer(data, dtype), shape))


def to_binary(tensor: Tensor) -> bytes:
    """The opposite of `from_binary`."""
    if tensor.datatype == "BYTES":
        parts: list[bytes] = []
        for element in tensor.array.ravel():
            parts += (_LENGTH.pack(len(element)), element)
        return b"".join(parts)
    return tensor.array.astype(DTYPES[tensor.datatype], copy=False).tobytes()


def _elements(name: str, data: bytes | memoryview, count: int) -> NDArray[np.object_]:
    if count * _LENGTH.size > len(data):
        raise SpecError(f"Tensor '{name}' has {len(data)} bytes, too few for {count} elements.")
    found = np.empty(count, object)
    at = 0
    for index in range(count):
        end = at + _LENGTH.size
        size = _LENGTH.unpack_from(data, at)[0] if end <= len(data) else len(data)
        if end + size > len(data):
            raise SpecError(f"Tensor '{name}' ends within its element {index}.")
        found[index] = bytes(data[end : end + size])
        at = end + size
    if at != len(data):
        raise SpecError(f"Tensor '{name}' has {len(data) - at} bytes after its last element.")
    return found


# ---- the JSON form


def from_json(name: str, datatype: str, shape: Sequence[int], data: Any) -> Tensor:
    """A tensor of a JSON array, nested as the shape says or flat, row by row.

    Elements are taken as they are or refused: integers for integer types, any number for floating
    point, true and false for BOOL, strings (as UTF-8) for BYTES.

    Raises:
        SpecError: the array doesn't have the shape, or an element isn't of the type or range.
    """
    flat = _flat(name, shape, data)
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        _only(name, datatype, flat, {str}, "strings")
        texts = np.empty(len(flat), object)
        texts[:] = [text.encode() for text in flat]
        return Tensor(name, datatype, reshaped(name, texts, shape))
    if datatype == "BOOL":
        _only(name, datatype, flat, {bool}, "true and false")
    elif dtype.kind in "iu":
        _only(name, datatype, flat, {int}, "integers")
        range_ = np.iinfo(dtype)
        if flat and not range_.min <= min(flat) <= max(flat) <= range_.max:
            raise SpecError(f"Tensor '{name}' holds a number outside the range of {datatype}.")
    else:
        _only(name, datatype, flat, {int, float}, "numbers")
        return Tensor(name, datatype, reshaped(name, _floats(name, datatype, flat), shape))
    return Tensor(name, datatype, reshaped(name, np.array(flat, dtype), shape))


def to_json(tensor: Tensor) -> list[Any]:
    """The elements row by row, flat.

    Raises:
        SpecError: JSON has no form for an element: NaN, an infinite number, BYTES that aren't
            UTF-8.
    """
    array = tensor.array
    if tensor.datatype == "BYTES":
        try:
            return [element.decode() for element in array.ravel()]
        except UnicodeDecodeError:
            raise SpecError(
                f"Tensor '{tensor.name}' holds bytes that aren't text; ask for it as binary data."
            ) from None
    if tensor.datatype in ("FP16", "BF16", "FP32", "FP64"):
        with np.errstate(invalid="ignore"):  # of NaN, which is looked for below
            array = array.astype(np.float64, copy=False)
        if not np.isfinite(array).all():
            raise SpecError(
                f"Tensor '{tensor.name}' holds NaN or an infinite number, which JSON can't; ask "
                "for it as binary data."
            )
    flat: list[Any] = array.ravel().tolist()
    return flat


def _flat(name: str, shape: Sequence[int], data: Any) -> list[Any]:
    """The elements of a nested or flat array."""
    if type(data) is not list:
        raise SpecError(f"Tensor '{name}': 'data' must be an array.")
    count = math.prod(shape)
    if len(data) == count and list not in set(map(type, data)):
        return data
    level = [data]
    for size in shape:
        if any(type(part) is not list or len(part) != size for part in level):
            raise _misshapen(name, shape)
        level = list(chain.from_iterable(level))
    if not shape or list in set(map(type, level)):
        raise _misshapen(name, shape)
    return level


def _misshapen(name: str, shape: Sequence[int]) -> SpecError:
    return SpecError(
        f"Tensor '{name}': 'data' has neither the shape {list(shape)} nor, flat, "
        f"{math.prod(shape)} elements."
    )


def _only(name: str, datatype: str, flat: list[Any], kinds: set[type], said: str) -> None:
    others = set(map(type, flat)) - kinds
    if others:
        wrong = next(one for one in flat if type(one) in others)
        raise SpecError(f"Tensor '{name}' is {datatype} and takes {said}, not {str(wrong)[:40]!r}.")


def _floats(name: str, datatype: str, flat: list[Any]) -> NDArray[Any]:
    try:
        numbers = np.array(flat, np.float64)
    except OverflowError:
        numbers = np.array([math.inf])
    with np.errstate(over="ignore"):
        array = numbers.astype(DTYPES[datatype])
    if not np.isfinite(array).all():
        raise SpecError(f"Tensor '{name}' holds a number outside the range of {datatype}.")
    return array
