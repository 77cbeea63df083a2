"""What a model state is: named tensors, the dtypes they may have, words for refusing one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from visiondyno.errors import ModelError, TooLarge

Tensor: TypeAlias = npt.NDArray[Any]
State: TypeAlias = Mapping[str, Tensor]
Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_STATE_BYTES = 2 * 2**30
"""How large a decoded state is at most, unless the caller says otherwise."""

MAX_HEADER_BYTES = 4 * 2**20
"""Room for some 30,000 tensors; parsing it takes at most about 100 MB."""

METADATA = "__metadata__"

LENGTH_BYTES = 8
"""Of the number that a safetensors file begins with."""

_SHOWN = 80
_SEND_SAFETENSORS = (
    "Send the model state as safetensors; a pickle, such as a file of torch.save, is never opened"
)

# In the order of the layout: as the library's own, so that both write the same bytes.
DTYPES: dict[str, np.dtype[Any]] = {
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
    "F32": np.dtype("<f4"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype("<f2"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAME_OF = {dtype: name for name, dtype in DTYPES.items()}
RANK = {name: rank for rank, name in enumerate(DTYPES)}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies.

    Attributes:
        name: the tensor's.
        dtype: a key of `DTYPES`.
        shape: its dimensions; () for a scalar.
        begin: offset of its first byte after the header.
        end: offset past its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def check_size(length_bytes: int, max_bytes: int) -> None:
    """Refuse what is longer than it may be.

    Raises:
        TooLarge: it is.
    """
    if length_bytes > max_bytes:
        raise TooLarge(
            f"The model state takes {length_bytes:,} bytes, more than the {max_bytes:,} that are "
            "taken here. Send a smaller model, or raise the limit"
        )


def unreadable(why: str) -> ModelError:
    """The state's bytes aren't what they should be; `why` completes “can't be read: …”."""
    return ModelError(f"The model state can't be read: {why}. {_SEND_SAFETENSORS}")


def quoted(name: object) -> str:
    """A name for a message: short and printable, whoever made it up."""
    text = str(name)
    return ascii(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def raw_bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """Its bytes, row by row and little-endian: uint8 of shape (nbytes,), a view where possible."""
    little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
    flat: npt.NDArray[np.uint8] = np.ascontiguousarray(little).reshape(-1).view(np.uint8)
    return flat


def dtype_name(tensor: Tensor) -> str | None:
    """Its name in `DTYPES`, in either byte order; None where safetensors has none."""
    return _NAME_OF.get(tensor.dtype.newbyteorder("<"))


def is_unicode(name: str) -> bool:
    """Whether it can be written as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def check_bools(name: str, tensor: Tensor) -> None:
    """Refuse a tensor of bools with other bytes than 0 and 1, on which NumPy and torch go wrong.

    Raises:
        ModelError: it is one.
    """
    if raw_bytes(tensor).max(initial=0) > 1:
        raise unreadable(f"the tensor {quoted(name)} is of bools, but has bytes other than 0 and 1")
