"""Bytes from anyone: refused in a sentence, never executed, in bounded memory."""

import io
import json
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import InputError, ModelError, SpecError, TooLarge
from visiondyno.state import FORMATS, decode, encode, from_text, to_safetensors
from visiondyno.state.packing import pack
from visiondyno.state.reading import parse_header
from visiondyno.state.tensors import MAX_HEADER_BYTES

GOOD = {"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 2)), "c": np.array([True])}
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (_touch, (str(self.path),))


def _touch(path: str) -> None:
    Path(path).touch()


def file(fields: object, body: bytes = b"\0" * 8) -> bytes:
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_pickle_is_refused_and_never_runs(
    protocol: int, format_name: str, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    hostile = pickle.dumps({"w": Payload(touched)}, protocol)
    packed = zstandard.compress(hostile)
    for data in (hostile, packed):
        with pytest.raises(ModelError, match="never opened"):
            decode(data, format_name)
    assert not touched.exists()
    pickle.loads(hostile)
    assert touched.exists(), "the payload must be one that would have run"


def test_a_zip_of_torch_save_is_refused(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload(touched)))
    with pytest.raises(ModelError, match="zip file"):
        decode(stream.getvalue(), "safetensors")
    assert not touched.exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "doesn't begin with"),
        (b"1234567", "doesn't begin with"),
        ((2**63).to_bytes(8, "little") + b"{}", "name a header of"),
        ((100).to_bytes(8, "little") + b"{}", "name a header of"),
        (file(b"{" + b" " * MAX_HEADER_BYTES + b"}", b""), "at most are read"),
        (file(b"", b""), "doesn't begin with"),
        (file(b"{", b""), "isn't one JSON object"),
        (file(b"{\xff\xfe", b""), "isn't one JSON object"),
        (file(b'{"a":' + b"[" * 100_000, b""), "isn't one JSON object"),
        (file(b'{"a":' * 100_000, b""), "isn't one JSON object"),
        (file(b'{"a":' + b"9" * 5000 + b"}", b""), "isn't one JSON object"),
        (file(b'{"a":1,"a":2}', b""), "with every name once"),
        (file([1], b""), "doesn't begin with"),
        (file({"__metadata__": 3}, b""), "metadata"),
        (file({"__metadata__": {"a": 3}}, b""), "metadata"),
        (file({"w": 3}), "isn't described"),
        (file({"w": {"dtype": "F32", "shape": [2]}}), "isn't described"),
        (file({"w": {**ENTRY, "more": 1}}), "isn't described"),
        (file({"w": {**ENTRY, "dtype": "F33"}}), "unknown dtype 'F33'"),
        (file({"w": {**ENTRY, "dtype": "object"}}), "unknown dtype 'object'"),
        (file({"w": {**ENTRY, "dtype": ["F32"]}}), "unknown dtype"),
        (file({"w": {**ENTRY, "shape": 2}}), "impossible shape"),
        (file({"w": {**ENTRY, "shape": [-2]}}), "impossible shape"),
        (file({"w": {**ENTRY, "shape": [2.0]}}), "impossible shape"),
        (file({"w": {**ENTRY, "shape": [True]}}), "impossible shape"),
        (file({"w": {**ENTRY, "shape": [1] * 33}}), "impossible shape"),
        (file({"w": {**ENTRY, "shape": [2**63]}}), "impossible shape"),
        (file({"w": {**ENTRY, "shape": [2**61, 0], "data_offsets": [0, 0]}}), "impossible shape"),
        (file({"w": {**ENTRY, "data_offsets": [0]}}), "two counts"),
        (file({"w": {**ENTRY, "data_offsets": [8, 0]}}), "takes 8 bytes"),
        (file({"w": {**ENTRY, "data_offsets": [-8, 0]}}), "two counts"),
        (file({"w": {**ENTRY, "shape": [3]}}), "takes 12 bytes"),
        (file({"w": ENTRY}, b"\0" * 7), "describes 8 bytes of tensors, but 7 came"),
        (file({"w": ENTRY}, b"\0" * 9), "describes 8 bytes of tensors, but 9 came"),
        (file({}, b"\0"), "describes 0 bytes"),
        (file({"w": {**ENTRY, "data_offsets": [4, 12]}}, b"\0" * 12), "before 'w'"),
        (file({"v": ENTRY, "w": ENTRY}), "'v' and 'w' overlap"),
        (
            file({"v": ENTRY, "w": {**ENTRY, "data_offsets": [4, 12]}}, b"\0" * 12),
            "'v' and 'w' overlap",
        ),
        (
            file({"v": ENTRY, "w": {**ENTRY, "data_offsets": [9, 17]}}, b"\0" * 17),
            "leave a gap",
        ),
        (file(b'{"\\ud800":' + json.dumps(ENTRY).encode() + b"}"), "isn't Unicode"),
        (
            file({"w": {"dtype": "BOOL", "shape": [8], "data_offsets": [0, 8]}}, b"\2" * 8),
            "other than 0 and 1",
        ),
    ],
)
def test_malformed_files_are_refused_in_a_sentence(data: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        decode(data, "safetensors")
    assert caught.value.message.startswith("The model state can't be read: ")
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("beginning", [b"\x80\x02", b"\x80\x05", b"PK"], ids=["2", "5", "zip"])
def test_a_header_whose_length_looks_like_another_file_is_read(beginning: bytes) -> None:
    length = int.from_bytes(beginning, "little")
    empty = {"": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    name = "n" * (length - len(json.dumps(empty)))
    data = file({name: empty[""]}, b"")
    assert data.startswith(beginning + bytes(6))
    assert decode(data, "safetensors").keys() == {name}


def test_a_packed_state_under_a_plain_name_is_told_so() -> None:
    sent = encode({"w": np.zeros(100)})
    with pytest.raises(ModelError, match="Zstandard frame, but its format"):
        decode(sent.data, "safetensors")


def test_names_in_messages_are_short_and_printable() -> None:
    with pytest.raises(ModelError) as caught:
        decode(file({"\x1b[31m" + "é" * 10_000: 3}), "safetensors")
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 700


@pytest.mark.parametrize("cut", [1, 9, 50, 200])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_cut_and_lengthened_states_are_refused(cut: int, packed: bool) -> None:
    plain = to_safetensors({"w": np.arange(500, dtype=np.float32)})
    data = pack(plain, 1) if packed else plain
    format_name = "safetensors" + "+shuffle+zstd" * packed
    for damaged in (data[:-cut], data[:cut], data + b"\0" * cut, data + data):
        with pytest.raises(ModelError):
            decode(damaged, format_name)


@given(st.data())
def test_no_flipped_bit_gets_past_the_checksum(data: st.DataObject) -> None:
    sent = encode({"w": np.arange(100, dtype=np.float32)})
    assert sent.format == "safetensors+shuffle+zstd"
    place = data.draw(st.integers(0, 8 * len(sent.data) - 1))
    damaged = bytearray(sent.data)
    damaged[place // 8] ^= 1 << place % 8
    try:
        found = decode(bytes(damaged), sent.format)
    except InputError:
        return
    assert found["w"].tobytes() == np.arange(100, dtype=np.float32).tobytes()


@given(st.binary(max_size=200), st.sampled_from(FORMATS))
def test_any_bytes_are_a_state_or_an_input_error(noise: bytes, format_name: str) -> None:
    header = parse_header(to_safetensors(GOOD))
    for data in (
        noise,
        zstandard.compress(noise),
        to_safetensors(GOOD)[: header.data_begin] + noise,
    ):
        try:
            decode(data, format_name, lambda _sha256: GOOD)
        except InputError:
            continue


@given(st.data())
def test_what_the_library_refuses_is_refused(data: st.DataObject) -> None:
    safetensors = pytest.importorskip("safetensors")
    mutated = bytearray(to_safetensors(GOOD))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        mutated[place] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(mutated), "safetensors")
    except ModelError:
        return
    judged = dict(safetensors.deserialize(bytes(mutated)))
    assert judged.keys() == found.keys()
    for name, entry in judged.items():
        assert bytes(entry["data"]) == found[name].tobytes()
        assert entry["shape"] == list(found[name].shape)


def peak_bytes(data: bytes, format_name: str, max_bytes: int) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            decode(data, format_name, max_bytes=max_bytes)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_million_tensors_are_refused_before_they_are_parsed() -> None:
    entry = b'"%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    text = b"{" + b",".join(entry % number for number in range(1_000_000)) + b"}"
    assert peak_bytes(file(text, b""), "safetensors", 10**9) < 2**20
    packed = zstandard.compress(file(text, b""))
    assert peak_bytes(packed, "safetensors+shuffle+zstd", 10**8) < 10**8


def test_the_largest_header_takes_bounded_memory() -> None:
    text = b'{"a":[' + b"[]," * (MAX_HEADER_BYTES // 3 - 10) + b"[]]}"
    assert len(text) <= MAX_HEADER_BYTES
    assert peak_bytes(file(text, b""), "safetensors", 10**9) < 150 * 2**20


def test_a_zstandard_bomb_is_refused_before_it_unfolds() -> None:
    bomb = zstandard.compress(bytes(10**8))
    assert len(bomb) < 10**5
    assert peak_bytes(bomb, "safetensors+shuffle+zstd", 10**7) < 10**6
    with pytest.raises(TooLarge, match="100,000,000 bytes, more than the 10,000,000"):
        decode(bomb, "safetensors+shuffle+zstd", max_bytes=10**7)


def test_a_frame_that_lies_about_its_length_is_refused() -> None:
    honest = zstandard.compress(bytes(5000))
    assert honest[:5] == b"\x28\xb5\x2f\xfd\x60"  # two bytes of length follow, less 256
    for length in (4999, 5001, 65_000):
        lying = honest[:5] + (length - 256).to_bytes(2, "little") + honest[7:]
        with pytest.raises(ModelError, match="Zstandard frame"):
            decode(lying, "safetensors+shuffle+zstd")
    huge = b"\x28\xb5\x2f\xfd\xe0" + (2**30).to_bytes(8, "little") + honest[7:]
    assert peak_bytes(huge, "safetensors+shuffle+zstd", 2**31) < 10**6
    with pytest.raises(ModelError, match="can't make up"):
        decode(huge, "safetensors+shuffle+zstd")


def test_frames_that_need_a_huge_window_or_no_length_are_refused() -> None:
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    with pytest.raises(ModelError, match="doesn't name the length"):
        decode(streamed, "safetensors+shuffle+zstd")
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    wide = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=300)
    frame = wide.compress(bytes(100)) + wide.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    frame += wide.compress(bytes(200)) + wide.flush()
    assert zstandard.get_frame_parameters(frame).content_size == 300
    with pytest.raises(ModelError):
        decode(frame, "safetensors+shuffle+zstd")


def test_a_plain_file_over_the_limit_is_refused() -> None:
    data = to_safetensors(GOOD)
    assert decode(data, "safetensors", max_bytes=len(data)).keys() == GOOD.keys()
    with pytest.raises(TooLarge, match="raise the limit"):
        decode(data, "safetensors", max_bytes=len(data) - 1)


@pytest.mark.parametrize("name", ["pickle", "", "torch", "SAFETENSORS", "delta", "x" * 10_000])
def test_unknown_formats_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(SpecError, match="safetensors, safetensors") as caught:
        decode(b"", name)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "text", ["a", "abc", "ab=c", "????", "YWJj\n", "YW Jj", "YWJjé", "=", "====", "abcde"]
)
def test_text_that_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="isn't base64"):
        from_text(text)


def test_text_over_the_limit_is_refused_before_it_is_decoded() -> None:
    assert from_text("YWJj", max_bytes=3) == b"abc"
    assert from_text("YWI=", max_bytes=2) == b"ab"
    with pytest.raises(TooLarge, match="12,000,000 bytes inside the job, and 7,000,000"):
        from_text("A" * 16_000_000)


def test_a_delta_that_names_no_base_is_refused() -> None:
    for metadata in ({}, {"base": "b"}, {"sha256": "s"}):
        data = pack(to_safetensors(GOOD, metadata), 1)
        with pytest.raises(ModelError, match="metadata lacks"):
            decode(data, "delta+shuffle+zstd", {"b": GOOD})
