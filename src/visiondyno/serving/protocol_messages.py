"""Inference requests and responses as messages of gRPC.

After KServe's Open Inference Protocol (version 2, gRPC): inputs as raw contents or as the repeated
field of their datatype, outputs as raw contents.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no types in it
from numpy.typing import NDArray

from visiondyno.errors import SpecError
from visiondyno.serving.inference_pb import message
from visiondyno.serving.protocol_requests import (
    VERSION,
    InferRequest,
    WantedOutput,
    check_parameters,
)
from visiondyno.serving.tensors import DTYPES, Tensor, check_form, from_binary, reshaped, to_binary

_REQUEST = message("inference.ModelInferRequest")
_RESPONSE = message("inference.ModelInferResponse")

# The field of each datatype, and the type that it holds; raw contents alone hold FP16 and BF16.
_FIELDS: dict[str, tuple[str, type]] = {
    "BOOL": ("bool_contents", np.bool_),
    "INT8": ("int_contents", np.int32),
    "INT16": ("int_contents", np.int32),
    "INT32": ("int_contents", np.int32),
    "INT64": ("int64_contents", np.int64),
    "UINT8": ("uint_contents", np.uint32),
    "UINT16": ("uint_contents", np.uint32),
    "UINT32": ("uint_contents", np.uint32),
    "UINT64": ("uint64_contents", np.uint64),
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
    "BYTES": ("bytes_contents", object),
}


def parse_request(data: bytes | memoryview) -> Any:
    """The `ModelInferRequest` in `data`.

    Raises:
        SpecError: it is none.
    """
    try:
        return _REQUEST.FromString(bytes(data))
    except DecodeError as error:
        raise SpecError("The message isn't a ModelInferRequest.") from error


def read_request(content: Any) -> InferRequest:
    """What a `ModelInferRequest` asks.

    Raises:
        SpecError: it isn't well-formed; says what is wrong.
    """
    raw = content.raw_input_contents
    if raw and len(raw) != len(content.inputs):
        raise SpecError(
            f"The request has {len(content.inputs)} inputs and {len(raw)} raw_input_contents; "
            "there must be one for each."
        )
    if not content.inputs:
        raise SpecError("The request has no inputs.")
    inputs = tuple(
        _input(one, raw[place] if raw else None) for place, one in enumerate(content.inputs)
    )
    for one in content.outputs:
        check_parameters(read_parameters(one.parameters))
    outputs = tuple(WantedOutput(one.name) for one in content.outputs)
    parameters = read_parameters(content.parameters)
    check_parameters(parameters)
    return InferRequest(inputs, outputs, content.id, parameters)


def read_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A map of `InferParameter` as plain values; those without a value are left out."""
    found = {}
    for name, value in parameters.items():
        chosen = value.WhichOneof("parameter_choice")
        if chosen is not None:
            found[name] = getattr(value, chosen)
    return found


def write_response(model: str, request: InferRequest, outputs: Sequence[Tensor]) -> bytes:
    """A serialised `ModelInferResponse`."""
    response = _RESPONSE(model_name=model, model_version=VERSION, id=request.id)
    for one in outputs:
        response.outputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
        response.raw_output_contents.append(to_binary(one))
    data: bytes = response.SerializeToString()
    return data


def _input(content: Any, raw: bytes | None) -> Tensor:
    name = content.name
    if not name:
        raise SpecError("An input has no name.")
    check_parameters(read_parameters(content.parameters))
    datatype, shape = check_form(name, content.datatype, list(content.shape))
    if raw is None:
        return _of_contents(name, datatype, shape, content.contents)
    if content.HasField("contents"):
        raise SpecError(f"Tensor '{name}' has contents, and raw_input_contents too; give one.")
    return from_binary(name, datatype, shape, raw)


def _of_contents(name: str, datatype: str, shape: tuple[int, ...], contents: Any) -> Tensor:
    if datatype not in _FIELDS:
        raise SpecError(f"Tensor '{name}' is {datatype}, which only raw_input_contents can hold.")
    field, held = _FIELDS[datatype]
    other = next((one.name for one, _ in contents.ListFields() if one.name != field), None)
    if other is not None:
        raise SpecError(f"Tensor '{name}' is {datatype}: its contents are {field}, not {other}.")
    elements = getattr(contents, field)
    if len(elements) != math.prod(shape):
        raise SpecError(
            f"Tensor '{name}' has {len(elements)} elements; its shape {list(shape)} needs "
            f"{math.prod(shape)}."
        )
    array: NDArray[Any] = np.fromiter(elements, held, len(elements))
    dtype = DTYPES[datatype]
    if dtype != array.dtype and len(array):
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise SpecError(f"Tensor '{name}' holds a number outside the range of {datatype}.")
    return Tensor(name, datatype, reshaped(name, array.astype(dtype, copy=False), shape))
