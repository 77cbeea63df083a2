"""Inference requests and responses as HTTP bodies.

Quotations are of KServe's "Open Inference Protocol" (OIP) and of Triton's "Binary Tensor Data
Extension" (BTD).
"""

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import SpecError
from visiondyno.serving import protocol_messages
from visiondyno.serving.protocol_json import header_length, read_request, write_response
from visiondyno.serving.protocol_requests import InferRequest, WantedOutput
from visiondyno.serving.tensors import DTYPES, Tensor

# BTD, "Examples": "the total size of the binary data is 19 bytes".
EXAMPLE: dict[str, Any] = {
    "model_name": "mymodel",
    "inputs": [
        {
            "name": "input0",
            "shape": [2, 2],
            "datatype": "UINT32",
            "parameters": {"binary_data_size": 16},
        },
        {"name": "input1", "shape": [3], "datatype": "BOOL", "parameters": {"binary_data_size": 3}},
    ],
    "outputs": [{"name": "output0", "parameters": {"binary_data": True}}],
}
BINARY = np.array([1, 2, 3, 4], "<u4").tobytes() + b"\1\0\1"


def read(content: object, binary: bytes = b"") -> InferRequest:
    header = json.dumps(content).encode()
    return read_request(header + binary, len(header) if binary else None)


def one_input(**other: object) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1], **other}]}


def test_the_example_with_json_data() -> None:
    # OIP, "Inference Request Examples".
    request = read(
        {
            "id": "42",
            "inputs": [
                {"name": "input0", "shape": [2, 2], "datatype": "UINT32", "data": [1, 2, 3, 4]},
                {"name": "input1", "shape": [3], "datatype": "BOOL", "data": [True, False, True]},
            ],
            "outputs": [{"name": "output0"}],
        }
    )
    assert request.id == "42"
    assert [one.name for one in request.inputs] == ["input0", "input1"]
    assert request.inputs[0].array.tolist() == [[1, 2], [3, 4]]
    assert request.wanted(["output0", "output1"]) == ["output0"]
    assert not request.is_binary("output0")


def test_the_example_with_binary_data() -> None:
    request = read(EXAMPLE, BINARY)
    assert request.inputs[0].array.tolist() == [[1, 2], [3, 4]]
    assert request.inputs[1].array.tolist() == [True, False, True]
    assert request.is_binary("output0")


def test_json_and_binary_inputs_may_be_mixed() -> None:
    content = {"inputs": [one_input()["inputs"][0], EXAMPLE["inputs"][1]]}
    request = read(content, b"\0\1\0")
    assert request.inputs[0].array.tolist() == [1.0]
    assert request.inputs[1].array.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("all_binary", "own", "expected"),
    # BTD: "If "binary_data" is specified on an output it overrides this setting."
    [
        *((None, None, False), (None, True, True), (None, False, False)),
        *((True, None, True), (True, False, False), (False, True, True), (False, None, False)),
    ],
)
def test_an_output_is_binary_as_it_or_the_request_says(
    all_binary: bool | None, own: bool | None, expected: bool
) -> None:
    content = one_input()
    if all_binary is not None:
        content["parameters"] = {"binary_data_output": all_binary}
    content["outputs"] = [{"name": "y", "parameters": {} if own is None else {"binary_data": own}}]
    assert read(content).is_binary("y") is expected


def test_without_outputs_all_are_given() -> None:
    # OIP: "Optional, if not specified all outputs produced by the model will be returned".
    request = read(one_input())
    assert request.wanted(["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "must be a JSON object"),
        ({}, "no 'inputs'"),
        ({"inputs": []}, "no 'inputs'"),
        ({"inputs": {}}, "'inputs' must be a list"),
        ({"inputs": [1]}, "'inputs' must be a list"),
        ({"inputs": [{}]}, "no 'name'"),
        (one_input(name=1), "no 'name'"),
        (one_input(datatype="FP"), "isn't a datatype"),
        (one_input(shape=[2]), "neither the shape"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}, "neither 'data' nor"),
        (one_input(parameters=[]), "'parameters' must be an object"),
        (one_input(parameters={"a": {}}), "'parameters' must be an object"),
        (one_input(parameters={"binary_data_size": 4}), "both 'data' and"),
        (one_input(parameters={"binary_data_size": "4"}), "isn't a size"),
        (one_input(parameters={"binary_data_size": -1}), "isn't a size"),
        (one_input(parameters={"binary_data_size": True}), "isn't a size"),
        (one_input(parameters={"shared_memory_region": "r"}), "no shared memory"),
        ({**one_input(), "id": 7}, "'id' must be a string"),
        ({**one_input(), "parameters": {"sequence_id": 5}}, "no sequences"),
        ({**one_input(), "parameters": {"binary_data_output": 1}}, "true or false"),
        ({**one_input(), "outputs": 1}, "'outputs' must be a list"),
        ({**one_input(), "outputs": [{"name": ""}]}, "An output has no 'name'"),
        (
            {**one_input(), "outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]},
            "true or false",
        ),
        (
            {**one_input(), "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
            "no classification extension",
        ),
    ],
)
def test_a_request_that_is_none_is_refused(content: object, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        read(content)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"inputs": [NaN]}', b"[" * 5000, b"{}x"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(SpecError, match="isn't JSON"):
        read_request(body, None)


def test_binary_data_is_all_used_and_enough() -> None:
    with pytest.raises(SpecError, match="1 bytes after the binary data"):
        read(EXAMPLE, BINARY + b"\0")
    with pytest.raises(SpecError, match="only 2 are left"):
        read(EXAMPLE, BINARY[:-1])


@pytest.mark.parametrize("said", ["", "-1", "1.5", "abc", "11", "9" * 30, "٣"])
def test_the_length_of_the_json_lies_within_the_body(said: str) -> None:
    with pytest.raises(SpecError, match="Inference-Header-Content-Length"):
        header_length(said, 10)


def test_the_length_of_the_json_is_read() -> None:
    assert header_length(None, 10) is None
    assert header_length(" 10 ", 10) == 10
    assert header_length("0", 10) == 0


def test_outputs_are_asked_for_once_and_by_name() -> None:
    with pytest.raises(SpecError, match="no output 'z'; it has 'y'"):
        InferRequest((), (WantedOutput("z"),)).wanted(["y"])
    with pytest.raises(SpecError, match="asked for twice"):
        InferRequest((), (WantedOutput("y"), WantedOutput("y"))).wanted(["y"])


# ---- responses


def test_a_response_in_json() -> None:
    # OIP, "Inference Response JSON Object": "The "id" identifier given in the request, if any."
    outputs = [Tensor("output0", "FP32", np.array([[1.0, 1.5], [2.0, 2.5]], np.float32))]
    body, json_size = write_response("m", InferRequest((), id="42"), outputs)
    assert json_size is None
    assert json.loads(body) == {
        "model_name": "m",
        "model_version": "1",
        "id": "42",
        "outputs": [
            {"name": "output0", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 1.5, 2.0, 2.5]}
        ],
    }
    assert "id" not in json.loads(write_response("m", InferRequest(()), outputs)[0])


def test_a_response_with_binary_data_has_it_in_the_order_of_its_outputs() -> None:
    # BTD: "followed by the binary tensor data in the same order as the order of the input or
    # output tensors are specified in the JSON".
    wanted = (WantedOutput("a", True), WantedOutput("b"), WantedOutput("c", True))
    outputs = [
        Tensor("a", "UINT8", np.array([1, 2], np.uint8)),
        Tensor("b", "UINT8", np.array([3], np.uint8)),
        Tensor("c", "UINT16", np.array([4], np.uint16)),
    ]
    body, json_size = write_response("m", InferRequest((), wanted), outputs)
    assert json_size is not None
    described = json.loads(body[:json_size])["outputs"]
    assert described[0]["parameters"] == {"binary_data_size": 2}
    assert described[1]["data"] == [3]
    assert "parameters" not in described[1]
    assert described[2]["parameters"] == {"binary_data_size": 2}
    assert body[json_size:] == b"\1\2\4\0"


# ---- whatever comes

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
MEMBERS = {
    "name": st.just("x") | ANYTHING,
    "shape": st.lists(st.integers(-1, 3), max_size=3) | ANYTHING,
    "datatype": st.sampled_from(sorted(DTYPES)) | ANYTHING,
    "data": st.lists(st.integers(0, 1) | st.booleans() | st.text(max_size=1)) | ANYTHING,
    "parameters": st.dictionaries(
        st.sampled_from(["binary_data_size", "binary_data"]), st.integers(-1, 9) | ANYTHING
    ),
}
INPUTS = st.lists(st.fixed_dictionaries({}, optional=MEMBERS), max_size=2)
REQUESTS = st.fixed_dictionaries({"inputs": INPUTS}, optional={"outputs": INPUTS, "id": ANYTHING})


@given(REQUESTS | ANYTHING, st.binary(max_size=9), st.booleans())
def test_whatever_comes_is_a_request_or_refused(content: Any, data: bytes, split: bool) -> None:
    header = json.dumps(content).encode("utf-8", "replace")
    with contextlib.suppress(SpecError):
        request = read_request(header + data, len(header) if split else None)
        assert all(one.array.dtype == DTYPES[one.datatype] for one in request.inputs)


@given(st.binary(max_size=60))
def test_whatever_comes_as_a_message_is_a_request_or_refused(data: bytes) -> None:
    with contextlib.suppress(SpecError):
        request = protocol_messages.read_request(protocol_messages.parse_request(data))
        assert all(one.array.dtype == DTYPES[one.datatype] for one in request.inputs)
