"""What front and replica say to each other, over a pair of Unix sockets of one machine.

Both ends are this program in one version, so the form is fixed structs and raw bytes: an image is
written once and read once, and nothing is encoded on its way. A frame is its length (4 bytes,
little endian) and a body whose first byte is its kind:

    S   config as JSON                     front → replica, first
    B   a batch of items                   front → replica
    R   readiness as JSON                  replica → front, once
    A   the answers to a batch             replica → front
    F   why the replica can't start (JSON) replica → front, then it ends
"""

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

_LENGTH = struct.Struct("<I")
_BATCH = struct.Struct("<cQH")
_ITEM = struct.Struct("<BII")
_ANSWER = struct.Struct("<HBI4fHI")

LARGEST_FRAME_BYTES = 2**32 - 1


class Kind(IntEnum):
    """What an item's payload is; items of different kinds share no batch."""

    IMAGE = 0
    """An encoded image file."""
    PIXELS = 1
    """(height, width, 3) uint8 BGR; `height` and `width` are in the options."""
    TENSORS = 2
    """A request to the graph itself in the Open Inference Protocol's form, an HTTP body or a
    message of gRPC, as it came: see `tensor_batches`."""


class Media(IntEnum):
    """What an answer's body is."""

    JSON = 0
    JPEG = 1
    PNG = 2
    PROBLEM = 3
    """JSON of `code` and `message`: an error that is the item's own."""
    TENSORS = 4
    """A response in the same form as its request; of HTTP the length of its JSON (4 bytes, little
    endian; 0: no binary data follows it) stands before it."""


# Not frozen: several are made for each request, and freezing makes that take thrice as long.
@dataclass(slots=True)
class Item:
    """One thing to predict.

    Attributes:
        kind: of the payload.
        payload: as `kind` says.
        options: `conf`, `iou`, `classes` (ids), `format` (json, jpeg, png): those that were given.
    """

    kind: Kind
    payload: bytes | memoryview
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Stages:
    """Where the time of an item's batch went in the replica, ms."""

    decode_ms: float = 0.0
    preprocess_ms: float = 0.0
    inference_ms: float = 0.0
    postprocess_ms: float = 0.0


@dataclass(slots=True)
class Answer:
    """What came of an item.

    Attributes:
        status: HTTP's.
        media: of the body.
        body: the answer.
        stages: shared by all of a batch, or of a run where it took several.
        run: which run of the model it was in, of those that its batch took.
        rows: of that run that were this item's, an image being one; 0: none was run for it.
    """

    status: int
    media: Media
    body: bytes
    stages: Stages = field(default_factory=Stages)
    run: int = 0
    rows: int = 0


def frame(kind: bytes, content: Any) -> bytes:
    """A frame of kind S, R or F; `content` as JSON."""
    body = kind + json.dumps(content).encode()
    return _LENGTH.pack(len(body)) + body


def batch_parts(batch_id: int, items: Sequence[Item]) -> list[bytes | memoryview]:
    """A frame of kind B, as pieces to write one after the other: payloads aren't copied."""
    parts: list[bytes | memoryview] = [_BATCH.pack(b"B", batch_id, len(items))]
    length = _BATCH.size
    for item in items:
        options = json.dumps(item.options).encode() if item.options else b""
        size = len(item.payload)
        parts += (_ITEM.pack(item.kind, len(options), size), options, item.payload)
        length += _ITEM.size + len(options) + size
    return [_LENGTH.pack(length), *parts]


def read_batch(body: memoryview) -> tuple[int, list[Item]]:
    """The batch in a frame's body; payloads are views into it."""
    _, batch_id, count = _BATCH.unpack_from(body)
    at = _BATCH.size
    items = []
    for _ in range(count):
        kind, options_size, size = _ITEM.unpack_from(body, at)
        at += _ITEM.size
        options = json.loads(bytes(body[at : at + options_size])) if options_size else {}
        at += options_size
        items.append(Item(Kind(kind), body[at : at + size], options))
        at += size
    return batch_id, items


def answers_frame(batch_id: int, answers: Iterable[Answer]) -> bytes:
    """A frame of kind A."""
    answers = list(answers)
    parts = [_BATCH.pack(b"A", batch_id, len(answers))]
    for one in answers:
        stages = one.stages
        head = _ANSWER.pack(
            one.status,
            one.media,
            len(one.body),
            stages.decode_ms,
            stages.preprocess_ms,
            stages.inference_ms,
            stages.postprocess_ms,
            one.run,
            one.rows,
        )
        parts += (head, one.body)
    body = b"".join(parts)
    return _LENGTH.pack(len(body)) + body


def read_answers(body: memoryview) -> tuple[int, list[Answer]]:
    """The answers in a frame's body."""
    _, batch_id, count = _BATCH.unpack_from(body)
    at = _BATCH.size
    answers = []
    for _ in range(count):
        status, media, size, *stages, run, rows = _ANSWER.unpack_from(body, at)
        at += _ANSWER.size
        content = bytes(body[at : at + size])
        answers.append(Answer(status, Media(media), content, Stages(*stages), run, rows))
        at += size
    return batch_id, answers


class FrameReader:
    """Whole frames out of chunks as they come."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[memoryview]:
        """The bodies of the frames that are whole now."""
        buffer = self._buffer
        buffer += chunk
        found = []
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            end = at + _LENGTH.size + length
            if len(buffer) < end:
                break
            found.append(memoryview(bytes(buffer[at + _LENGTH.size : end])))
            at = end
        if at:
            del buffer[:at]
        return found
