"""What front and replica say to each other comes out as it went in, however it is cut."""

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from visiondyno.serving.wire import (
    Answer,
    FrameReader,
    Item,
    Kind,
    Media,
    Stages,
    answers_frame,
    batch_parts,
    frame,
    read_answers,
    read_batch,
)

_OPTIONS = st.dictionaries(
    st.sampled_from(["conf", "iou", "classes", "format"]),
    st.one_of(st.floats(0, 1), st.lists(st.integers(0, 80)), st.text(max_size=10)),
)
_ITEMS = st.builds(Item, st.sampled_from(Kind), st.binary(max_size=300), _OPTIONS)
_MS = st.floats(0, 1e6, width=32)
_ANSWERS = st.builds(
    Answer,
    st.integers(100, 599),
    st.sampled_from(Media),
    st.binary(max_size=300),
    st.builds(Stages, _MS, _MS, _MS, _MS),
    st.integers(0, 100),
    st.integers(0, 100),
)
_IDS = st.integers(0, 2**64 - 1)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in chunks that end at these places."""
    ends = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(ends)]


@given(_IDS, st.lists(_ITEMS, max_size=5), st.lists(st.integers(0, 5000), max_size=6))
def test_batches_come_out_as_they_went_in(
    batch_id: int, items: list[Item], places: list[int]
) -> None:
    stream = b"".join(bytes(part) for part in batch_parts(batch_id, items))
    reader = FrameReader()
    (body,) = [one for chunk in cut(stream, places) for one in reader.feed(chunk)]
    assert body[0] == ord("B")
    found_id, found = read_batch(body)
    assert found_id == batch_id
    assert [(one.kind, bytes(one.payload), one.options) for one in found] == [
        (one.kind, one.payload, one.options) for one in items
    ]


@given(
    st.lists(st.tuples(_IDS, st.lists(_ANSWERS, max_size=4)), max_size=4),
    st.lists(st.integers(0, 9000), max_size=9),
)
def test_answers_come_out_as_they_went_in_several_in_a_stream(
    batches: list[tuple[int, list[Answer]]], places: list[int]
) -> None:
    stream = b"".join(answers_frame(batch_id, answers) for batch_id, answers in batches)
    reader = FrameReader()
    bodies = [one for chunk in cut(stream, places) for one in reader.feed(chunk)]
    assert [read_answers(body) for body in bodies] == batches


def test_told_things_are_json_after_their_kind() -> None:
    (body,) = FrameReader().feed(frame(b"R", {"pid": 7, "name": "Straße"}))
    assert chr(body[0]) == "R"
    assert json.loads(bytes(body[1:])) == {"pid": 7, "name": "Straße"}


def test_nothing_is_whole_before_its_last_byte() -> None:
    stream = frame(b"S", {})
    reader = FrameReader()
    assert not any(reader.feed(stream[i : i + 1]) for i in range(len(stream) - 1))
    assert len(reader.feed(stream[-1:])) == 1
