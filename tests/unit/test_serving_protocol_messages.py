"""Inference requests as messages of gRPC, and the compiled descriptors.

Quotations are of KServe's "Open Inference Protocol", gRPC.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import SpecError
from visiondyno.serving.inference_pb import HEALTH, INFERENCE, message, methods
from visiondyno.serving.protocol_messages import parse_request, read_request, write_response
from visiondyno.serving.protocol_requests import InferRequest
from visiondyno.serving.tensors import DTYPES, Tensor, to_binary

ROOT = Path(__file__).resolve().parents[2]
REQUEST = message("inference.ModelInferRequest")
RESPONSE = message("inference.ModelInferResponse")


def request(datatype: str, shape: list[int], raw: bytes | None = None, **contents: Any) -> Any:
    one = REQUEST.InferInputTensor(name="x", datatype=datatype, shape=shape)
    for name, elements in contents.items():
        getattr(one.contents, name).extend(elements)
    found = REQUEST(model_name="m", inputs=[one])
    if raw is not None:
        found.raw_input_contents.append(raw)
    return found


@pytest.mark.parametrize(
    ("datatype", "field", "elements"),
    # "Representation for INT8, INT16, and INT32 data types" and so on.
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-(2**15), 2**15 - 1]),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT16", "uint_contents", [0, 2**16 - 1]),
        ("UINT32", "uint_contents", [0, 2**32 - 1]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("FP32", "fp32_contents", [1.5, -2.0]),
        ("FP64", "fp64_contents", [0.1, 1e300]),
        ("BYTES", "bytes_contents", [b"\xff\x00", b""]),
    ],
)
def test_each_datatype_comes_in_its_field(datatype: str, field: str, elements: list[Any]) -> None:
    sent = parse_request(request(datatype, [2, 1], **{field: elements}).SerializeToString())
    (tensor,) = read_request(sent).inputs
    assert tensor.array.dtype == DTYPES[datatype]
    assert tensor.array.tolist() == [[one] for one in elements]
    raw = request(datatype, [2, 1], raw=to_binary(tensor))
    assert to_binary(read_request(raw).inputs[0]) == to_binary(tensor)


@given(st.lists(st.floats(width=16), max_size=5))
def test_half_precision_comes_raw(numbers: list[float]) -> None:
    # "Note that the FP16 data type must be represented as raw content".
    data = np.array(numbers, np.float16).tobytes()
    (tensor,) = read_request(request("FP16", [len(numbers)], raw=data)).inputs
    assert tensor.array.tobytes() == data


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (REQUEST(), "no inputs"),
        (request("FP16", [1], fp32_contents=[1]), "only raw_input_contents can hold"),
        (request("FP32", [1], fp64_contents=[1]), "its contents are fp32_contents, not fp64"),
        (request("FP32", [2], fp32_contents=[1]), "has 1 elements; its shape \\[2\\] needs 2"),
        (request("FP32", [1]), "has 0 elements"),
        (request("INT8", [1], int_contents=[128]), "outside the range of INT8"),
        (request("UINT8", [1], uint_contents=[256]), "outside the range of UINT8"),
        (request("FP32", [-1], fp32_contents=[1]), "isn't a size"),
        (request("FLOAT", [1], fp32_contents=[1]), "isn't a datatype"),
        # "If this field is specified then InferInputTensor::contents must not be specified for
        # any input tensor."
        (request("FP32", [1], raw=b"\0" * 4, fp32_contents=[1]), "raw_input_contents too"),
        (request("FP32", [1], raw=b"\0" * 3), "has 3 bytes"),
        (REQUEST(inputs=[REQUEST.InferInputTensor(datatype="FP32")]), "no name"),
        (
            REQUEST(inputs=[REQUEST.InferInputTensor(name="x")] * 2, raw_input_contents=[b""]),
            "2 inputs and 1 raw_input_contents",
        ),
        (
            REQUEST(
                inputs=request("FP32", [1], fp32_contents=[1]).inputs,
                parameters={"sequence_id": {"int64_param": 3}},
            ),
            "no sequences",
        ),
    ],
)
def test_a_message_that_is_no_request_is_refused(sent: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        read_request(sent)


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(SpecError, match="isn't a ModelInferRequest"):
        parse_request(b"\xff\xff")


def test_parameters_and_outputs_are_read() -> None:
    sent = request("FP32", [1], fp32_contents=[1])
    sent.id = "7"
    sent.outputs.add(name="y")
    sent.parameters["a"].string_param = "b"
    sent.parameters["c"].double_param = 0.5
    sent.parameters["d"].bool_param = False
    sent.parameters["nothing"].SetInParent()
    found = read_request(sent)
    assert found.id == "7"
    assert found.wanted(["x", "y"]) == ["y"]
    assert found.parameters == {"a": "b", "c": 0.5, "d": False}


def test_a_response_has_raw_contents() -> None:
    outputs = [Tensor("y", "FP32", np.array([[1.5]], np.float32))]
    response = RESPONSE.FromString(write_response("m", InferRequest((), id="7"), outputs))
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "7")
    assert [(one.name, one.datatype, list(one.shape)) for one in response.outputs] == [
        ("y", "FP32", [1, 1])
    ]
    # "'raw_output_contents' must be initialized with data for each tensor in the same order".
    assert list(response.raw_output_contents) == [np.float32(1.5).tobytes()]


def test_the_addressee_is_the_first_fields_of_a_request() -> None:
    sent = request("FP32", [1], raw=b"\0" * 4)
    sent.model_version = "1"
    found = message("visiondyno.Addressee").FromString(sent.SerializeToString())
    assert (found.model_name, found.model_version) == ("m", "1")


@pytest.mark.parametrize(
    ("kind", "field", "number"),
    # The specification's numbers, and those of Triton's extensions.
    [
        *(("ModelInferRequest", "inputs", 5), ("ModelInferRequest", "outputs", 6)),
        *(("ModelInferRequest", "raw_input_contents", 7), ("ModelInferRequest", "id", 3)),
        *(("ModelInferResponse", "outputs", 5), ("ModelInferResponse", "raw_output_contents", 6)),
        *(
            ("InferTensorContents", "fp32_contents", 6),
            ("InferTensorContents", "bytes_contents", 8),
        ),
        *(("ModelMetadataResponse", "platform", 3), ("ModelMetadataResponse", "outputs", 5)),
        *(("ServerMetadataResponse", "extensions", 3), ("InferParameter", "string_param", 3)),
        *(("ModelConfig", "max_batch_size", 4), ("ModelConfig", "dynamic_batching", 11)),
        *(("ModelConfig", "backend", 17), ("ModelInput", "dims", 4), ("ModelOutput", "dims", 3)),
        *(("ModelStatistics", "inference_stats", 6), ("ModelStatistics", "batch_stats", 7)),
        *(("InferStatistics", "compute_output", 6), ("RepositoryIndexRequest", "ready", 2)),
    ],
)
def test_field_numbers_are_the_specifications(kind: str, field: str, number: int) -> None:
    assert message(f"inference.{kind}").DESCRIPTOR.fields_by_name[field].number == number


def test_services_have_the_methods_of_their_specifications() -> None:
    required = {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata"}
    tritons = {"ModelConfig", "ModelStatistics", "RepositoryIndex"}
    assert methods(INFERENCE).keys() == required | {"ModelInfer"} | tritons
    assert methods(HEALTH).keys() == {"Check", "Watch"}


def test_descriptors_are_those_of_the_proto_files() -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("grpc_tools")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "generate_grpc.py"), "--check"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
