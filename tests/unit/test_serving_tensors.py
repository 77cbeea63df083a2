"""Tensor codecs of the Open Inference Protocol: every datatype, both forms, whatever is wrong.

Quotations are of KServe's "Open Inference Protocol" (OIP) and of Triton's "Binary Tensor Data
Extension" (BTD).
"""

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visiondyno.errors import SpecError
from visiondyno.serving.tensors import (
    DTYPES,
    Tensor,
    check_form,
    from_binary,
    from_json,
    to_binary,
    to_json,
)

NUMERIC = [name for name in DTYPES if name != "BYTES"]
FLOATS = ("FP16", "BF16", "FP32", "FP64")
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def numeric_tensors(draw: st.DrawFn) -> Tensor:
    """Any bits at all, NaN and infinities too."""
    datatype = draw(st.sampled_from(NUMERIC))
    shape = draw(SHAPES)
    dtype = DTYPES[datatype]
    size = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if datatype == "BOOL":
        data = bytes(byte & 1 for byte in data)
    return from_binary("t", datatype, shape, data)


@st.composite
def bytes_tensors(draw: st.DrawFn, element: st.SearchStrategy[bytes]) -> Tensor:
    shape = draw(SHAPES)
    array = np.empty(math.prod(shape), object)
    array[:] = [draw(element) for _ in range(array.size)]
    return Tensor("t", "BYTES", array.reshape(shape))


def same(left: Tensor, right: Tensor) -> bool:
    return (
        left.datatype == right.datatype
        and left.array.shape == right.array.shape
        and to_binary(left) == to_binary(right)
    )


# ---- binary


@given(numeric_tensors())
def test_numbers_survive_their_binary_form_bit_by_bit(tensor: Tensor) -> None:
    assert same(from_binary("t", tensor.datatype, tensor.shape, to_binary(tensor)), tensor)


@given(bytes_tensors(st.binary(max_size=9)))
def test_bytes_survive_their_binary_form(tensor: Tensor) -> None:
    assert same(from_binary("t", "BYTES", tensor.shape, to_binary(tensor)), tensor)


@pytest.mark.parametrize(
    ("datatype", "size"),
    # OIP, "Tensor Data Types": "along with the size of each type, in bytes".
    [
        *(("BOOL", 1), ("UINT8", 1), ("UINT16", 2), ("UINT32", 4), ("UINT64", 8)),
        *(("INT8", 1), ("INT16", 2), ("INT32", 4), ("INT64", 8)),
        *(("FP16", 2), ("BF16", 2), ("FP32", 4), ("FP64", 8)),
    ],
)
def test_each_datatype_has_the_size_of_the_table(datatype: str, size: int) -> None:
    assert DTYPES[datatype].itemsize == size
    for wrong in (b"\0" * (3 * size - 1), b"\0" * (3 * size + 1), b""):
        with pytest.raises(SpecError, match=f"Tensor 't' has {len(wrong)} bytes"):
            from_binary("t", datatype, (3,), wrong)


def test_binary_data_is_little_endian_and_row_major() -> None:
    # BTD: "organized in little-endian byte order, row major, without stride or padding".
    array = np.array([[1, 2], [3, 258]], np.int64).T
    data = to_binary(Tensor("t", "UINT16", array))
    assert data == b"\1\0\3\0\2\0\2\1"
    assert from_binary("t", "UINT16", (2, 2), data).array.tolist() == [[1, 3], [2, 258]]
    # 1.5 is 0x3FC0 as bfloat16 and 0x3E00 as half precision.
    assert from_binary("t", "BF16", (1,), b"\xc0\x3f").array.astype(float).tolist() == [1.5]
    assert from_binary("t", "FP16", (1,), b"\x00\x3e").array.tolist() == [1.5]


def test_a_bool_is_one_byte_of_one_or_zero() -> None:
    # BTD: "true is a single byte with value 1 and false is a single byte with value 0".
    assert from_binary("t", "BOOL", (2,), b"\1\0").array.tolist() == [True, False]
    assert to_binary(Tensor("t", "BOOL", np.array([False, True]))) == b"\0\1"
    with pytest.raises(SpecError, match="neither 0 nor 1"):
        from_binary("t", "BOOL", (2,), b"\1\2")


def test_bytes_have_their_length_before_them() -> None:
    # BTD: "a 4-byte unsigned integer giving the length followed by the actual bytes".
    data = b"\2\0\0\0ab\0\0\0\0\1\0\0\0c"
    assert from_binary("t", "BYTES", (3,), data).array.tolist() == [b"ab", b"", b"c"]


@pytest.mark.parametrize(
    ("data", "shape", "said"),
    [
        (b"\2\0\0\0a", (1,), "ends within its element 0"),
        (b"\0\0\0\0\0", (1,), "1 bytes after its last element"),
        (b"\0\0\0\0", (2,), "too few for 2 elements"),
        (b"\4\0\0\0abcd", (2,), "ends within its element 1"),
        (b"\xff\xff\xff\xff", (1,), "ends within its element 0"),
        (b"", (2**40, 2**40), "too few"),
    ],
)
def test_bytes_that_do_not_add_up_are_refused(
    data: bytes, shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        from_binary("t", "BYTES", shape, data)


# ---- JSON


def nested(flat: list[object], shape: list[int]) -> object:
    if not shape:
        return flat[0]
    step = math.prod(shape[1:])
    return [nested(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


@given(numeric_tensors())
def test_numbers_survive_json_flat_and_nested(tensor: Tensor) -> None:
    # OIP, "Tensor Data": "Tensor elements may be presented in their nature multi-dimensional
    # representation, or as a flattened one-dimensional representation."
    if tensor.datatype in FLOATS:
        with np.errstate(invalid="ignore"):
            assume(np.isfinite(tensor.array.astype(np.float64)).all())
    flat = json.loads(json.dumps(to_json(tensor)))
    assert same(from_json("t", tensor.datatype, tensor.shape, flat), tensor)
    if tensor.shape:
        deep = nested(flat, tensor.shape)
        assert same(from_json("t", tensor.datatype, tensor.shape, deep), tensor)


@given(bytes_tensors(st.text(max_size=5).map(lambda text: text.encode("utf-8", "replace"))))
def test_texts_survive_json(tensor: Tensor) -> None:
    assert same(from_json("t", "BYTES", tensor.shape, to_json(tensor)), tensor)


def test_the_examples_of_the_specification() -> None:
    # OIP, "Tensor Data": the matrix [1 2; 4 5].
    natural = from_json("m", "INT32", (2, 2), [[1, 2], [4, 5]])
    flattened = from_json("m", "INT32", (2, 2), [1, 2, 4, 5])
    assert natural.array.tolist() == flattened.array.tolist() == [[1, 2], [4, 5]]
    # OIP, "Inference Request Examples".
    assert from_json("input1", "BOOL", (1,), [True]).array.tolist() == [True]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP32", (2,), 5, "'data' must be an array"),
        ("FP32", (2,), [1], "neither the shape"),
        ("FP32", (2, 2), [[1, 2], [3]], "neither the shape"),
        ("FP32", (2, 2), [[1, 2], 3], "neither the shape"),
        ("FP32", (2, 2), [[[1], 2], [3, 4]], "neither the shape"),
        ("FP32", (), [[1]], "neither the shape"),
        ("FP32", (), [], "neither the shape"),
        ("INT8", (1,), [128], "outside the range of INT8"),
        ("INT8", (1,), [-129], "outside the range of INT8"),
        ("UINT64", (1,), [-1], "outside the range of UINT64"),
        ("INT64", (1,), [2**63], "outside the range of INT64"),
        ("INT32", (1,), [1.0], "takes integers, not '1.0'"),
        ("INT32", (1,), [True], "takes integers, not 'True'"),
        ("FP32", (1,), ["1"], "takes numbers"),
        ("FP32", (1,), [None], "takes numbers"),
        ("FP32", (1,), [True], "takes numbers"),
        ("FP32", (1,), [1e39], "outside the range of FP32"),
        ("FP32", (1,), [10**400], "outside the range of FP32"),
        ("FP16", (1,), [70000], "outside the range of FP16"),
        ("BOOL", (1,), [1], "takes true and false"),
        ("BYTES", (1,), [1], "takes strings"),
        ("FP32", (0, 2**63 - 1, 2**63 - 1), [], "can't have the shape"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    datatype: str, shape: tuple[int, ...], data: object, said: str
) -> None:
    with pytest.raises(SpecError, match=f"Tensor 'x'.*{said}"):
        from_json("x", datatype, shape, data)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_said(bad: float) -> None:
    with pytest.raises(SpecError, match="ask for it as binary data"):
        to_json(Tensor("y", "FP32", np.array([1, bad], np.float32)))


def test_bytes_that_are_no_text_are_not_json() -> None:
    array = np.empty(1, object)
    array[0] = b"\xff"
    with pytest.raises(SpecError, match="aren't text"):
        to_json(Tensor("y", "BYTES", array))


# ---- type and shape


@pytest.mark.parametrize("shape", [None, "12", 3, [1.0], [True], [-1], [2**63], ["1"], [1] * 33])
def test_a_shape_is_a_list_of_sizes(shape: object) -> None:
    # OIP, "Request Input": "Each dimension must be an integer representable as an unsigned 64-bit
    # integer value" (no array can have one above 2**63 - 1).
    with pytest.raises(SpecError, match="'t'"):
        check_form("t", "FP32", shape)


@pytest.mark.parametrize("datatype", ["fp32", "FLOAT", "", None, 1, ["FP32"]])
def test_a_datatype_is_one_of_the_protocols(datatype: object) -> None:
    # OIP says that "all strings in all contexts are case-sensitive".
    with pytest.raises(SpecError, match="isn't a datatype"):
        check_form("t", datatype, [1])
