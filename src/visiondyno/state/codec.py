"""A model state to bytes and back, in the formats that `model_state_format` names.

| format               | what is inside                                                        |
|----------------------|-----------------------------------------------------------------------|
| `safetensors`        | the canonical bytes; any other safetensors file is read too           |
| `delta+shuffle+zstd` | lossless difference to a base that both sides hold (`delta`)          |
| `bf16`               | kernels and matrices rounded to bfloat16 (`lossy`)                    |
| `int8-delta`         | difference to a base, rounded to 8 bits (`lossy`)                     |

Each but the delta exists plain and with `+shuffle+zstd` (`packing`); whichever is smaller is sent.
All are safetensors inside. Those that aren't the state itself name in their metadata the identity
of what comes out, and of the base; the receiver checks the first.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

from visiondyno.errors import ModelError, SpecError, TooLarge
from visiondyno.state import delta, lossy
from visiondyno.state.bases import Bases, check_same_tensors, find_base
from visiondyno.state.feedback import ErrorFeedback
from visiondyno.state.packing import LEVELS, is_packed, pack, unpack
from visiondyno.state.reading import parse_header, read_tensors
from visiondyno.state.tensors import (
    MAX_STATE_BYTES,
    Buffer,
    State,
    Tensor,
    check_size,
    quoted,
    unreadable,
)
from visiondyno.state.writing import identity, size_bytes, to_safetensors

INLINE_LIMIT_BYTES = 7_000_000
"""Encoded states up to this travel inside the job: 9.3 MB as base64, of the 10 MB RunPod takes."""

Lossy: TypeAlias = Literal["bf16", "int8-delta"]
Restore: TypeAlias = Callable[[State, Mapping[str, str], State, int], dict[str, Tensor]]

_WHOLE, _PACKED = "safetensors", "+shuffle+zstd"
_BASE, _SHA256 = "base", "sha256"
FORMATS = (
    "safetensors",
    "safetensors" + _PACKED,
    "delta" + _PACKED,
    "bf16",
    "bf16" + _PACKED,
    "int8-delta",
    "int8-delta" + _PACKED,
)
"""Every value of `model_state_format`."""

_RESTORE: dict[str, Restore] = {
    "delta": lambda wire, _metadata, base, _max_bytes: delta.restored(wire, base),
    "bf16": lossy.from_bf16,
    "int8-delta": lossy.from_int8_delta,
}
_WITH_BASE = ("delta", "int8-delta")


class Placement(StrEnum):
    """How an encoded state travels."""

    INLINE = "inline"
    BLOB = "blob"


@dataclass(frozen=True, slots=True)
class EncodedState:
    """A state as bytes.

    Attributes:
        format: one of `FORMATS`.
        data: the bytes. Their own SHA-256, not `sha256`, is the name of a blob that holds them.
        sha256: identity of what `decode` makes of them; of the state itself unless it was rounded.
        raw_bytes: length of the state's canonical bytes, to compare `size_bytes` with.
        base_sha256: identity of the base that the receiver must hold; None where it needs none.
        max_abs_error: largest |decoded - given| of all numbers; 0 for the lossless formats, where
            nothing is rounded.
        decoded: the tensors as the receiver will have them: the base of a next delta. The caller's
            own arrays, where they weren't rounded.
    """

    format: str
    data: bytes = field(repr=False)
    sha256: str
    raw_bytes: int
    base_sha256: str | None = None
    max_abs_error: float = 0.0
    decoded: State = field(repr=False, compare=False, default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Length of `data`."""
        return len(self.data)

    @property
    def placement(self) -> Placement:
        """Inline, or as a blob."""
        return inline_or_blob(self.size_bytes)


def encode(
    state: State,
    *,
    base: State | None = None,
    lossy: Lossy | None = None,
    feedback: ErrorFeedback | None = None,
    level: int = 1,
) -> EncodedState:
    """Encode a state in the smallest format that was allowed.

    Without `lossy`, the smallest of the plain file, the packed one and, with `base`, the delta.

    Args:
        state: tensors by name, of any shape and strides; see `tensors.DTYPES`.
        base: a state that the receiver has said it holds.
        lossy: rounds, in the way it names; None keeps every bit.
        feedback: of this sender and model; rounds the next state up by what this one lost.
        level: of Zstandard, 1–22; more than 1 rarely makes weights smaller.

    Raises:
        SpecError: the options don't go together.
        ModelError: the state can't be written, or is of another model than base or feedback.
    """
    _check_options(base, lossy, feedback, level)
    if base is not None:
        check_same_tensors(state, base)
    if lossy is not None:
        return _encode_rounded(state, base, lossy, feedback, level)
    plain = to_safetensors(state)
    sha256 = hashlib.sha256(plain).hexdigest()
    found = EncodedState(*_smaller("safetensors", plain, level), sha256, len(plain), decoded=state)
    if base is None:
        return found
    base_sha256 = identity(base)
    wire = to_safetensors(delta.differences(state, base), {_BASE: base_sha256, _SHA256: sha256})
    packed = pack(wire, level)
    if len(packed) >= found.size_bytes:
        return found
    return EncodedState(
        "delta" + _PACKED, packed, sha256, len(plain), base_sha256=base_sha256, decoded=state
    )


def encode_held(state: State, sha256: str) -> EncodedState:
    """A state that the receiver has said it holds, as the difference of nothing: some bytes a name.

    Args:
        state: the state.
        sha256: its identity.
    """
    metadata = {_BASE: sha256, _SHA256: sha256}
    packed = pack(to_safetensors(delta.differences(state, state), metadata), 1)
    return EncodedState(
        "delta" + _PACKED, packed, sha256, size_bytes(state), base_sha256=sha256, decoded=state
    )


def decode(
    data: bytes,
    format_name: str | None,
    bases: Bases | None = None,
    *,
    max_bytes: int = MAX_STATE_BYTES,
    expected_sha256: str | None = None,
) -> dict[str, Tensor]:
    """The state that `data` carries. Nothing in it is ever executed.

    Args:
        data: the bytes of an `EncodedState`, from anyone.
        format_name: its format; None: a state itself, packed or not, as its first bytes say.
        bases: the states held here, by identity; None for none.
        max_bytes: how long the data, and the state as canonical bytes, may be; memory stays within
            a small multiple of it.
        expected_sha256: what the state's identity must be; None takes any.

    Returns:
        Arrays by name, to be treated as read-only: they may share `data`'s or the base's memory.

    Raises:
        SpecError: there is no such format.
        ModelError: the data is damaged, or something else, or isn't the state it says it is.
        BaseMissing: the base of a delta isn't held; says what to send instead.
        TooLarge: it is longer than `max_bytes`.
    """
    return _decoded(data, format_name, bases, max_bytes, expected_sha256)[0]


def decode_identified(
    data: bytes,
    format_name: str | None,
    bases: Bases | None = None,
    *,
    max_bytes: int = MAX_STATE_BYTES,
) -> tuple[dict[str, Tensor], str]:
    """As `decode`, with the state's identity, which costs nothing more where it is checked."""
    state, sha256 = _decoded(data, format_name, bases, max_bytes, None)
    return state, sha256 or identity(state)


def _decoded(
    data: bytes,
    format_name: str | None,
    bases: Bases | None,
    max_bytes: int,
    expected_sha256: str | None,
) -> tuple[dict[str, Tensor], str | None]:
    """The state, and its identity where it was looked at."""
    if format_name is not None and format_name not in FORMATS:
        raise SpecError(
            f"There is no model_state_format {quoted(format_name)}. Use one of {', '.join(FORMATS)}"
        )
    check_size(len(data), max_bytes)
    # No safetensors file of a length that is taken begins like a Zstandard frame.
    given = format_name or (_WHOLE + _PACKED if is_packed(data) else _WHOLE)
    content = given.removesuffix(_PACKED)
    buffer: Buffer = data if content == given else unpack(data, max_bytes)
    header = parse_header(buffer)
    if format_name is None and _SHA256 in header.metadata:
        raise ModelError(
            "The model state came without its format, and isn't a plain one. Send the "
            "'model_state_format' that came with it too"
        )
    wire = read_tensors(buffer, header)
    if content == _WHOLE:
        state, expected = wire, [expected_sha256]
    else:
        named = _named_identities(header.metadata, content)
        base = find_base(named[_BASE], bases) if content in _WITH_BASE else {}
        state = _RESTORE[content](wire, header.metadata, base, max_bytes)
        expected = [named[_SHA256], expected_sha256]
    return state, _check_identity(state, expected)


def to_text(encoded: EncodedState) -> str:
    """The bytes as base64 (RFC 4648, section 4), for JSON."""
    return base64.b64encode(encoded.data).decode()


def from_text(text: str, max_bytes: int = INLINE_LIMIT_BYTES) -> bytes:
    """The bytes of `to_text`.

    Args:
        text: base64, without line breaks.
        max_bytes: how many bytes it may hold.

    Raises:
        ModelError: it isn't base64.
        TooLarge: it holds more than `max_bytes`; checked before it is decoded.
    """
    size = len(text) // 4 * 3 - text[-2:].count("=")
    if size > max_bytes:
        raise TooLarge(
            f"The model state holds {size:,} bytes inside the job, and {max_bytes:,} at most are "
            "taken there. Upload it as a blob and send 'sha256:…' in its place"
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ModelError(
            "The model state in the job isn't base64 (RFC 4648, without line breaks). Send the "
            "base64 of the encoded state, or 'sha256:…' of a blob that holds it"
        ) from error


def inline_or_blob(size_bytes: int, limit_bytes: int = INLINE_LIMIT_BYTES) -> Placement:
    """Whether an encoded state of this length travels inside the job or as a blob."""
    return Placement.INLINE if size_bytes <= limit_bytes else Placement.BLOB


def _check_options(
    base: State | None, lossy: str | None, feedback: ErrorFeedback | None, level: int
) -> None:
    if lossy not in (None, "bf16", "int8-delta"):
        raise SpecError(f"There is no lossy state {quoted(lossy)}. Use bf16 or int8-delta")
    if lossy == "int8-delta" and base is None:
        raise SpecError(
            "int8-delta needs a base state that the receiver holds. Send this state as bf16, or "
            "lossless, and the next one as a delta to it"
        )
    if lossy == "bf16" and base is not None:
        raise SpecError("bf16 is sent without a base. Leave the base out, or use int8-delta")
    if feedback is not None and lossy is None:
        raise SpecError("Error feedback is for lossy states only. Leave it out, or name one")
    if level not in LEVELS:
        raise SpecError(f"The level {level} of Zstandard isn't one of 1–{LEVELS[-1]}. Use 1")


def _encode_rounded(
    state: State, base: State | None, kind: Lossy, feedback: ErrorFeedback | None, level: int
) -> EncodedState:
    raw_bytes = size_bytes(state)
    metadata = {}
    base_sha256 = None
    if base is None:
        rounded = lossy.to_bf16(state, feedback)
    else:
        base_sha256 = metadata[_BASE] = identity(base)
        rounded = lossy.to_int8_delta(state, base, feedback)
    sha256 = metadata[_SHA256] = identity(rounded.decoded)
    wire = to_safetensors(rounded.wire, {**rounded.metadata, **metadata})
    return EncodedState(
        *_smaller(kind, wire, level),
        sha256,
        raw_bytes,
        base_sha256,
        rounded.max_abs_error,
        rounded.decoded,
    )


def _smaller(content: str, plain: bytes, level: int) -> tuple[str, bytes]:
    packed = pack(plain, level)
    return (content + _PACKED, packed) if len(packed) < len(plain) else (content, plain)


def _named_identities(metadata: Mapping[str, str], content: str) -> Mapping[str, str]:
    needed = (_BASE, _SHA256) if content in _WITH_BASE else (_SHA256,)
    for key in needed:
        if key not in metadata:
            raise unreadable(f"its metadata lacks '{key}', which the format {content} has")
    return metadata


def _check_identity(state: State, expected: list[str | None]) -> str | None:
    wanted = {sha256 for sha256 in expected if sha256 is not None}
    if not wanted:
        return None
    found = identity(state)
    for sha256 in wanted - {found}:
        raise ModelError(
            f"The model state isn't the one it is said to be: its SHA-256 is {found}, not "
            f"{quoted(sha256)}. It was damaged on the way, or its base is another; send it entire"
        )
    return found
