"""Where a training stands, as one file.

The file is a line that names the format, the SHA-256 of what follows, the length of the values, the
values as JSON, and the tensors as safetensors. Nothing in it is unpickled.
"""

import hashlib
import json
from typing import Any

from visiondyno.errors import ModelError
from visiondyno.state import from_safetensors, from_tensors, safetensors_pieces, to_tensors
from visiondyno.training.session import SessionState

Piece = bytes | bytearray | memoryview

_FORMAT = b"visiondyno.training-state/1\n"
_DIGEST_BYTES = 32
_LENGTH_BYTES = 8


def to_pieces(state: SessionState) -> tuple[Piece, ...]:
    """The file that holds `state`, in pieces; they share the memory of its tensors.

    Raises:
        ModelError: a tensor can't be written, or there are too many.
    """
    values = json.dumps(state.values, separators=(",", ":")).encode()
    tensors = safetensors_pieces(from_tensors(state.tensors, copy=False))
    rest = (len(values).to_bytes(_LENGTH_BYTES, "little"), values, *tensors)
    digest = hashlib.sha256()
    for part in rest:
        digest.update(part)
    return (_FORMAT, digest.digest(), *rest)


def from_bytes(data: bytes) -> SessionState:
    """What `to_pieces` was given; its tensors on the processor.

    Raises:
        ModelError: the file is damaged, or something else.
    """
    view = memoryview(data)
    begin = len(_FORMAT) + _DIGEST_BYTES
    rest = view[begin:]
    is_whole = view[begin - _DIGEST_BYTES : begin] == hashlib.sha256(rest).digest()
    if bytes(view[: len(_FORMAT)]) != _FORMAT or not is_whole:
        raise ModelError("The training state is damaged. Begin anew without it.")
    end = _LENGTH_BYTES + int.from_bytes(rest[:_LENGTH_BYTES], "little")
    values: dict[str, Any] = json.loads(bytes(rest[_LENGTH_BYTES:end]))
    arrays = from_safetensors(rest[end:], max_bytes=len(rest))
    return SessionState(to_tensors(arrays), values)
