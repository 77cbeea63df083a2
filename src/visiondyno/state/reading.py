"""Reading safetensors from anyone: checked to the byte, with bounded memory, nothing executed."""

import json
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from visiondyno.state.tensors import (
    DTYPES,
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    MAX_STATE_BYTES,
    METADATA,
    Buffer,
    Entry,
    Tensor,
    check_bools,
    check_size,
    is_unicode,
    quoted,
    unreadable,
)

_MAX_DIMENSIONS = 32  # NumPy 1's limit
_LARGEST_COUNT = 2**62


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors header says, checked.

    Attributes:
        entries: the tensors in the order of their bytes, without gaps or overlaps.
        metadata: texts beside them.
        data_begin: how many bytes come before the first tensor's.
    """

    entries: list[Entry]
    metadata: dict[str, str]
    data_begin: int


def from_safetensors(data: Buffer, max_bytes: int = MAX_STATE_BYTES) -> dict[str, Tensor]:
    """The tensors of a safetensors file; metadata is passed over.

    Args:
        data: the whole file.
        max_bytes: how long it may be.

    Returns:
        Read-only arrays on `data`'s own memory where that is aligned, in the order of their bytes.

    Raises:
        ModelError: it is something else, or damaged; nothing in it is ever executed.
        TooLarge: it is longer than `max_bytes`.
    """
    check_size(len(data), max_bytes)
    return read_tensors(data, parse_header(data))


def parse_header(data: Buffer) -> Header:
    """Read and check the header of a file.

    Raises:
        ModelError: it isn't a header of safetensors, or doesn't describe exactly this file.
    """
    view = memoryview(data)
    if bytes(view[LENGTH_BYTES : LENGTH_BYTES + 1]) != b"{":
        raise unreadable(_what_it_is(bytes(view[:LENGTH_BYTES])))
    header_bytes = int.from_bytes(view[:LENGTH_BYTES], "little")
    data_begin = LENGTH_BYTES + header_bytes
    if data_begin > len(view):
        raise unreadable(
            f"its first 8 bytes name a header of {header_bytes:,} bytes, but {len(view):,} came"
        )
    if header_bytes > MAX_HEADER_BYTES:
        raise unreadable(
            f"its header has {header_bytes:,} bytes, and {MAX_HEADER_BYTES:,} at most are read"
        )
    fields = _parsed_json(bytes(view[LENGTH_BYTES:data_begin]))
    metadata = _checked_metadata(fields.pop(METADATA, {}))
    entries = sorted(
        (_checked_entry(name, field) for name, field in fields.items()),
        key=lambda entry: (entry.begin, entry.end),
    )
    _check_coverage(entries, len(view) - data_begin)
    return Header(entries, metadata, data_begin)


def read_tensors(data: Buffer, header: Header) -> dict[str, Tensor]:
    """The tensors that `header`, of this `data`, describes: read-only, on its memory.

    Raises:
        ModelError: a bool is neither 0 nor 1.
    """
    tensors: dict[str, Tensor] = {}
    for entry in header.entries:
        dtype = DTYPES[entry.dtype]
        if entry.begin == entry.end:
            tensor: Tensor = np.empty(entry.shape, dtype)
        else:
            tensor = np.ndarray(entry.shape, dtype, data, header.data_begin + entry.begin)
        if not tensor.flags.aligned:
            tensor = tensor.copy()
        if entry.dtype == "BOOL":
            check_bools(entry.name, tensor)
        tensor.flags.writeable = False
        tensors[entry.name] = tensor
    return tensors


def _what_it_is(beginning: bytes) -> str:
    # Only asked where no header follows: the length of a header may look like any of these.
    if beginning.startswith(b"PK\x03\x04"):
        return "it is a zip file, which torch.save writes around a pickle"
    if beginning.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "it is a Python pickle, and unpickling runs whatever its sender wrote"
    if beginning.startswith(b"\x28\xb5\x2f\xfd"):
        return "it is a Zstandard frame, but its format doesn't say so (+shuffle+zstd)"
    return "it doesn't begin with 8 bytes of length and a JSON header"


def _parsed_json(text: bytes) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise unreadable("its header isn't one JSON object with every name once") from error
    return fields


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name is there twice")
    return fields


def _checked_metadata(metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise unreadable("the metadata in its header isn't an object of texts")
    return metadata


def _checked_entry(name: str, field: object) -> Entry:
    if not is_unicode(name):
        raise unreadable(f"the name {quoted(name)} in its header isn't Unicode")
    if not isinstance(field, dict) or set(field) != {"dtype", "shape", "data_offsets"}:
        raise unreadable(f"the tensor {quoted(name)} isn't described by dtype, shape, data_offsets")
    dtype = field["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise unreadable(f"the tensor {quoted(name)} has the unknown dtype {quoted(dtype)}")
    shape, offsets = field["shape"], field["data_offsets"]
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise unreadable(f"the tensor {quoted(name)} has the impossible shape {quoted(shape)}")
    width = DTYPES[dtype].itemsize
    if prod(max(length, 1) for length in shape) * width > _LARGEST_COUNT:
        raise unreadable(f"the tensor {quoted(name)} has the impossible shape {quoted(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise unreadable(f"the tensor {quoted(name)} has data_offsets that aren't two counts")
    if offsets[1] - offsets[0] != prod(shape) * width:
        raise unreadable(
            f"the tensor {quoted(name)} of shape {quoted(shape)} and dtype {dtype} takes "
            f"{prod(shape) * width:,} bytes, but its data_offsets are {quoted(offsets)}"
        )
    return Entry(name, dtype, tuple(shape), offsets[0], offsets[1])


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value <= _LARGEST_COUNT for value in values
    )


def _check_coverage(entries: list[Entry], data_bytes: int) -> None:
    if entries and entries[0].begin != 0:
        raise unreadable(f"nothing describes the bytes before {quoted(entries[0].name)}")
    for before, after in pairwise(entries):
        if after.begin != before.end:
            raise unreadable(
                f"the tensors {quoted(before.name)} and {quoted(after.name)} overlap or leave a gap"
            )
    described = entries[-1].end if entries else 0
    if described != data_bytes:
        raise unreadable(
            f"its header describes {described:,} bytes of tensors, but {data_bytes:,} came"
        )
