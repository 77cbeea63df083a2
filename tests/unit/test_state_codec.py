"""Model states go out and come back bit for bit, in every lossless format."""

import hashlib
import json
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visiondyno.errors import BaseMissing, ModelError, SpecError
from visiondyno.state import (
    FORMATS,
    INLINE_LIMIT_BYTES,
    ErrorFeedback,
    Placement,
    State,
    Tensor,
    decode,
    encode,
    from_safetensors,
    from_text,
    identity,
    inline_or_blob,
    to_safetensors,
    to_text,
)
from visiondyno.state.packing import pack, unpack
from visiondyno.state.tensors import DTYPES, raw_bytes

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
LIBRARY_DTYPES = {  # as the library's NumPy side spells them
    "BF16": "bfloat16",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...] | None = None, dtype: str = "") -> Tensor:
    """Any bits at all: NaN payloads, subnormals, infinities; strided and big-endian views too."""
    dtype = dtype or draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(SHAPES) if shape is None else shape
    kind = DTYPES[dtype]
    count = int(np.prod(shape)) * kind.itemsize
    bits = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8)
    if dtype == "BOOL":
        bits = bits & 1
    tensor = bits.view(kind).reshape(shape)
    form = draw(st.sampled_from(["plain", "transposed", "strided", "big-endian"]))
    if form == "transposed":
        return np.ascontiguousarray(tensor.T).T.reshape(shape)
    if form == "strided" and tensor.ndim:
        wide = np.zeros((*shape[:-1], 2 * shape[-1]), kind)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    if form == "big-endian" and kind.isbuiltin and kind.itemsize > 1:
        return tensor.astype(kind.newbyteorder(">"))
    return tensor


STATES = st.dictionaries(st.text(max_size=8), tensors(), max_size=6)


@st.composite
def pairs_of_states(draw: st.DrawFn) -> tuple[State, State]:
    """Two states of the same names, shapes and dtypes."""
    state = draw(STATES)
    other = {name: draw(tensors(tensor.shape, dtype_of(tensor))) for name, tensor in state.items()}
    return state, other


def dtype_of(tensor: Tensor) -> str:
    return next(n for n, d in DTYPES.items() if d == tensor.dtype.newbyteorder("<"))


def assert_same(found: Mapping[str, Tensor], expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape
        assert dtype_of(found[name]) == dtype_of(tensor)
        assert raw_bytes(found[name]).tobytes() == raw_bytes(tensor).tobytes()


def trained_pair() -> tuple[State, State]:
    """A state with the bytes of trained weights, and a small step away from it."""
    rng = np.random.default_rng(5)
    old = {
        "conv.weight": rng.normal(0, 0.02, (64, 32, 3, 3)).astype(np.float32),
        "half.weight": rng.normal(0, 0.02, (64, 64)).astype(ml_dtypes.bfloat16),
        "bn.num_batches_tracked": np.array(16),
    }
    new = {
        "conv.weight": old["conv.weight"] + rng.normal(0, 1e-6, (64, 32, 3, 3)).astype(np.float32),
        "half.weight": old["half.weight"],
        "bn.num_batches_tracked": np.array(32),
    }
    return old, new


@given(STATES)
@example({})
@example({"": np.array(1, np.float32), 'é\x01"\\\x7f': np.zeros((0, 3))})
def test_any_state_comes_back_bit_for_bit(state: State) -> None:
    sent = encode(state)
    assert_same(decode(sent.data, sent.format, expected_sha256=sent.sha256), state)
    assert_same(from_safetensors(to_safetensors(state)), state)
    assert_same(from_safetensors(unpack(pack(to_safetensors(state), 1), 10**6)), state)
    assert sent.sha256 == identity(state) == hashlib.sha256(to_safetensors(state)).hexdigest()
    assert sent.raw_bytes == len(to_safetensors(state))
    assert sent.size_bytes <= sent.raw_bytes
    assert sent.raw_bytes <= sum(t.nbytes for t in state.values()) + 16 + 150 * len(state)
    assert (sent.max_abs_error, sent.base_sha256) == (0.0, None)
    assert from_text(to_text(sent)) == sent.data


@given(pairs_of_states())
def test_a_delta_of_any_two_states_of_a_model_is_exact(pair: tuple[State, State]) -> None:
    state, base = pair
    sent = encode(state, base=base)
    held = {identity(base): decode(encode(base).data, encode(base).format)}
    assert_same(decode(sent.data, sent.format, held), state)
    assert sent.sha256 == identity(state)
    assert sent.size_bytes <= sent.raw_bytes


@given(STATES)
def test_the_identity_depends_on_values_alone(state: State) -> None:
    other = {name: tensor.astype(tensor.dtype.newbyteorder("<")) for name, tensor in state.items()}
    assert identity(dict(reversed(other.items()))) == identity(state)


@given(STATES)
def test_the_library_writes_and_reads_the_same_bytes(state: State) -> None:
    safetensors = pytest.importorskip("safetensors")
    dense = {
        name: np.frombuffer(raw_bytes(tensor).tobytes() or b"\0", np.uint8)
        for name, tensor in state.items()
    }
    written = safetensors.serialize(
        {
            name: safetensors.TensorSpec(
                dtype=LIBRARY_DTYPES.get(dtype_of(tensor), DTYPES[dtype_of(tensor)].name),
                shape=list(tensor.shape),
                data_ptr=dense[name].ctypes.data,
                data_len=tensor.nbytes,
            )
            for name, tensor in state.items()
        }
    )
    assert bytes(written) == to_safetensors(state)
    read = dict(safetensors.deserialize(to_safetensors(state)))
    assert {name: (entry["dtype"], entry["shape"]) for name, entry in read.items()} == {
        name: (dtype_of(tensor), list(tensor.shape)) for name, tensor in state.items()
    }


def test_the_identity_of_a_state_never_changes() -> None:
    state = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "n": np.array(3),
        "b": np.array(True),
    }
    assert to_safetensors(state)[8:].split(b" ")[0].startswith(b'{"n":{"dtype":"I64","shape":[],')
    assert identity(state) == "2efbc8b8bfa50a1991937720a5d5420f5366bb21be0d21b6acad7179b02a824c"


def test_small_steps_travel_as_a_small_delta() -> None:
    old, new = trained_pair()
    entire, delta = encode(new), encode(new, base=old)
    assert entire.format == "safetensors+shuffle+zstd"
    assert delta.format == "delta+shuffle+zstd"
    assert delta.base_sha256 == identity(old)
    assert delta.size_bytes < 0.7 * entire.size_bytes < 0.7 * entire.raw_bytes
    assert encode(new, base=new).size_bytes < 1000


def test_what_does_not_compress_travels_as_it_is() -> None:
    noise = {"w": np.random.default_rng(1).integers(0, 256, 4096, np.uint8)}
    assert encode(noise).format == "safetensors"
    assert encode(noise, base={"w": np.zeros(4096, np.uint8)}).format == "safetensors"


def test_bases_are_found_by_a_mapping_or_a_function() -> None:
    old, new = trained_pair()
    sent = encode(new, base=old)
    asked = []

    def find(sha256: str) -> State | None:
        asked.append(sha256)
        return old

    assert_same(decode(sent.data, sent.format, find), new)
    assert asked == [identity(old)]


@pytest.mark.parametrize("bases", [None, {}, lambda _sha256: None], ids=["none", "empty", "lost"])
def test_a_delta_without_its_base_says_what_to_send(bases: object) -> None:
    old, new = trained_pair()
    sent = encode(new, base=old)
    with pytest.raises(BaseMissing, match=identity(old)) as caught:
        decode(sent.data, sent.format, bases)  # type: ignore[arg-type]
    assert caught.value.sha256 == identity(old)
    assert "safetensors or safetensors+shuffle+zstd" in caught.value.message


def test_a_delta_on_another_base_is_found_out() -> None:
    old, new = trained_pair()
    sent = encode(new, base=old)
    with pytest.raises(ModelError, match="isn't the one it is said to be"):
        decode(sent.data, sent.format, {identity(old): new})
    for wrong in ({}, {**old, "half.weight": np.zeros((64, 64))}):
        with pytest.raises(ModelError, match="the base it names"):
            decode(sent.data, sent.format, {identity(old): wrong})


def test_another_state_than_expected_is_refused() -> None:
    old, new = trained_pair()
    sent = encode(new)
    with pytest.raises(ModelError, match=identity(new)):
        decode(sent.data, sent.format, expected_sha256=identity(old))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("conv.weight"), "only the base has 'conv.weight'"),
        (lambda s: s.update(more=np.zeros(1)), "only the state has 'more'"),
        (lambda s: s.update({"half.weight": np.zeros((64, 1))}), "F64 .64, 1. in the state"),
    ],
    ids=["missing", "extra", "changed"],
)
def test_a_delta_between_different_models_is_refused(change, words: str) -> None:
    old, new = trained_pair()
    change(new)
    with pytest.raises(ModelError, match=words):
        encode(new, base=old)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lossy": "int4"}, "no lossy state 'int4'"),
        ({"lossy": "int8-delta"}, "needs a base"),
        ({"lossy": "bf16", "base": {}}, "without a base"),
        ({"feedback": ErrorFeedback()}, "lossy states only"),
        ({"level": 0}, "level 0"),
        ({"level": 23}, "level 23"),
    ],
    ids=["kind", "no-base", "needless-base", "feedback", "level-0", "level-23"],
)
def test_options_that_do_not_go_together_are_refused(options: dict, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        encode({}, **options)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"w": np.zeros(2, np.complex128)}, "'w' .* dtype complex128"),
        ({"w": np.array(["a"])}, "'w' .* dtype <U1"),
        ({"w": np.array([None])}, "'w' .* dtype object"),
        ({"w": [1.0, 2.0]}, "'w' .* list, not a NumPy array"),
        ({"__metadata__": np.zeros(2)}, "__metadata__"),
        ({"\ud800": np.zeros(2)}, "Unicode"),
        ({3: np.zeros(2)}, "named '3'"),
        ({"w": np.array([2], np.uint8).view(bool)}, "other than 0 and 1"),
        ({"n" * 5_000_000: np.zeros(1)}, "shorter names"),
    ],
    ids=["complex128", "text", "object", "list", "metadata", "surrogate", "int", "bool", "long"],
)
def test_states_that_safetensors_cannot_hold_are_refused(state: State, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        encode(state)


@pytest.mark.parametrize("level", [1, 19, 22])
def test_every_level_is_read(level: int) -> None:
    _, new = trained_pair()
    sent = encode(new, level=level)
    assert_same(decode(sent.data, sent.format), new)


def test_decoded_states_are_read_only() -> None:
    old, new = trained_pair()
    for sent in (encode(new), encode(new, base=old)):
        for tensor in decode(sent.data, sent.format, {identity(old): old}).values():
            assert not tensor.flags.writeable


def test_a_foreign_file_with_metadata_and_odd_offsets_is_read() -> None:
    fields = {
        "__metadata__": {"format": "pt"},
        "flag": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]},
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    text = json.dumps(fields).encode()
    data = len(text).to_bytes(8, "little") + text + b"\1" + np.float32([1, 2]).tobytes()
    state = decode(data, "safetensors")
    assert state["w"].tolist() == [1, 2]
    assert state["w"].flags.aligned
    assert unpack(pack(data, 1), 1000).tobytes() == data


def test_seven_megabytes_decide_between_inline_and_blob() -> None:
    assert inline_or_blob(INLINE_LIMIT_BYTES) is Placement.INLINE
    assert inline_or_blob(INLINE_LIMIT_BYTES + 1) is Placement.BLOB
    assert inline_or_blob(11, limit_bytes=10) is Placement.BLOB
    assert encode({"w": np.zeros(4)}).placement is Placement.INLINE
    assert INLINE_LIMIT_BYTES * 4 / 3 < 10_000_000


def test_every_format_is_read() -> None:
    old, new = trained_pair()
    packed = [
        encode(new),
        encode(new, base=old),
        encode(new, lossy="bf16"),
        encode(new, base=old, lossy="int8-delta"),
    ]
    held = {identity(old): old}
    read = set()
    for sent in packed:
        assert_same(decode(sent.data, sent.format, held), sent.decoded)
        read.add(sent.format)
        plain = sent.format.removesuffix("+shuffle+zstd")
        if plain in FORMATS:
            data = unpack(sent.data, 10**7).tobytes()
            assert_same(decode(data, plain, held), sent.decoded)
            read.add(plain)
    assert read == set(FORMATS)
