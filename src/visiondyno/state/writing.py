"""The canonical form of a model state: safetensors, laid out in one way only.

A safetensors file is an 8-byte little-endian length, a JSON header of that length, and the tensors'
bytes (format: https://huggingface.co/docs/safetensors). We lay it out as the `safetensors` library
does: wider dtypes first, then by name, header padded to 8 bytes, no metadata. The SHA-256 of those
bytes is the state's identity, so that a file written by the library has the same one.

Writing and reading are our own because the library's NumPy side knows neither bfloat16 nor 8-bit
floats, copies every tensor, and parses a header of 100 MB for whoever sends one; the identity must
not change with a library's version either. The tests hold both against it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.state.tensors import (
    DTYPES,
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    METADATA,
    RANK,
    Buffer,
    Entry,
    State,
    Tensor,
    check_bools,
    dtype_name,
    is_unicode,
    quoted,
    raw_bytes,
)


def to_safetensors(state: State, metadata: Mapping[str, str] | None = None) -> bytes:
    """The state's canonical bytes; with `metadata`, the same layout with texts in the header.

    Args:
        state: tensors of any shape and strides, of a dtype in `DTYPES`, either byte order.
        metadata: None for the canonical form.

    Raises:
        ModelError: a name or a dtype can't be written, or there are too many tensors.
    """
    return b"".join(safetensors_pieces(state, metadata))


def safetensors_pieces(state: State, metadata: Mapping[str, str] | None = None) -> Iterator[Buffer]:
    """The bytes of `to_safetensors` piece by piece, without a copy of contiguous tensors.

    Raises:
        ModelError: as `to_safetensors`.
    """
    entries = _plan(state)
    yield _written_header(entries, metadata)
    for entry in entries:
        yield raw_bytes(state[entry.name]).data


def identity(state: State) -> str:
    """SHA-256 of the state's canonical bytes, 64 hexadecimal digits, without making a copy of them.

    Raises:
        ModelError: as `to_safetensors`.
    """
    digest = hashlib.sha256()
    for piece in safetensors_pieces(state):
        digest.update(piece)
    return digest.hexdigest()


def size_bytes(state: State) -> int:
    """Length of the state's canonical bytes.

    Raises:
        ModelError: as `to_safetensors`.
    """
    entries = _plan(state)
    return len(_written_header(entries, None)) + (entries[-1].end if entries else 0)


def _plan(state: State) -> list[Entry]:
    names = {name: _checked_dtype(name, tensor) for name, tensor in state.items()}
    entries = []
    begin = 0
    for name, dtype in sorted(names.items(), key=lambda item: (RANK[item[1]], item[0])):
        tensor = state[name]
        entries.append(Entry(name, dtype, tensor.shape, begin, begin + tensor.nbytes))
        begin += tensor.nbytes
    return entries


def _checked_dtype(name: str, tensor: Tensor) -> str:
    if not isinstance(name, str) or name == METADATA or not is_unicode(name):
        raise ModelError(
            f"A model state can't have a tensor named {quoted(name)}: names are Unicode texts, and "
            f"{METADATA} is taken. Rename it"
        )
    if not isinstance(tensor, np.ndarray):
        raise ModelError(
            f"{quoted(name)} in the model state is a {type(tensor).__name__}, not a NumPy array. "
            "Take the state of a torch module with visiondyno.state.from_module"
        )
    dtype = dtype_name(tensor)
    if dtype is None:
        raise ModelError(
            f"{quoted(name)} in the model state has the dtype {tensor.dtype}, which safetensors "
            f"doesn't have. Convert it to one of {', '.join(DTYPES)}"
        )
    if dtype == "BOOL":
        check_bools(name, tensor)
    return dtype


def _written_header(entries: Iterable[Entry], metadata: Mapping[str, str] | None) -> bytes:
    fields: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    for entry in entries:
        fields[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    if len(text) > MAX_HEADER_BYTES:
        raise ModelError(
            f"The names and shapes of the model state take {len(text):,} bytes, and "
            f"{MAX_HEADER_BYTES:,} at most are taken. Use fewer tensors or shorter names"
        )
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
