"""Inference requests and responses as HTTP bodies: JSON, with binary tensor data after it.

After KServe's Open Inference Protocol (version 2, HTTP/REST) and Triton's binary tensor data
extension.
"""

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json as parse_json
from pydantic_core import to_json as write_json

from visiondyno.errors import SpecError
from visiondyno.serving.protocol_requests import (
    VERSION,
    InferRequest,
    WantedOutput,
    check_parameters,
)
from visiondyno.serving.tensors import (
    Tensor,
    check_form,
    from_binary,
    from_json,
    to_binary,
    to_json,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The HTTP header with the length of the JSON where binary data follows it."""


def header_length(said: str | None, body_size: int) -> int | None:
    """The length of a body's JSON; None where it is all JSON.

    Raises:
        SpecError: `said`, the HTTP header, is no length within the body.
    """
    if said is None:
        return None
    text = said.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) > body_size:
        raise SpecError(f"{HEADER_LENGTH} is '{said[:40]}'; the body has {body_size} bytes.")
    return int(text)


def read_request(body: bytes | memoryview, json_size: int | None) -> InferRequest:
    """The request in a body.

    Args:
        body: all of it.
        json_size: how many of its bytes are JSON; None: all.

    Raises:
        SpecError: it isn't a request of the protocol; says what is wrong.
    """
    size = len(body) if json_size is None else json_size
    try:
        content = parse_json(bytes(body[:size]), allow_inf_nan=False)
    except ValueError as error:
        raise SpecError(f"The request isn't JSON: {error}.") from error
    if not isinstance(content, dict):
        raise SpecError("The request must be a JSON object with 'inputs'.")
    parameters = _parameters("The request", content)
    binary = _Binary(memoryview(body)[size:])
    inputs = tuple(_input(one, binary) for one in _objects(content, "inputs"))
    if not inputs:
        raise SpecError("The request has no 'inputs'.")
    binary.check_used()
    request_id = content.get("id", "")
    if not isinstance(request_id, str):
        raise SpecError("The request's 'id' must be a string.")
    outputs = tuple(_output(one) for one in _objects(content, "outputs"))
    return InferRequest(inputs, outputs, request_id, parameters)


def write_response(
    model: str, request: InferRequest, outputs: Sequence[Tensor]
) -> tuple[bytes, int | None]:
    """The body of a response, and the length of its JSON where binary data follows.

    Raises:
        SpecError: an output that isn't asked for as binary data has no form in JSON.
    """
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for one in outputs:
        about: dict[str, Any] = {
            "name": one.name, "datatype": one.datatype, "shape": one.shape,
        }  # fmt: skip
        if request.is_binary(one.name):
            data = to_binary(one)
            binary.append(data)
            about["parameters"] = {"binary_data_size": len(data)}
        else:
            about["data"] = to_json(one)
        described.append(about)
    content: dict[str, Any] = {"model_name": model, "model_version": VERSION}
    if request.id:
        content["id"] = request.id
    header = write_json({**content, "outputs": described})
    return b"".join((header, *binary)), len(header) if binary else None


class _Binary:
    """The binary data after the JSON, taken piece by piece."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def take(self, name: str, size: int) -> memoryview:
        end = self._at + size
        if end > len(self._data):
            raise SpecError(
                f"Tensor '{name}' has {size} bytes of binary data, but only "
                f"{len(self._data) - self._at} are left in the body. Is the header "
                f"{HEADER_LENGTH} right?"
            )
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def check_used(self) -> None:
        left = len(self._data) - self._at
        if left:
            raise SpecError(f"The body has {left} bytes after the binary data of its inputs.")


def _input(content: dict[str, Any], binary: _Binary) -> Tensor:
    name = _name(content, "input")
    parameters = _parameters(f"Tensor '{name}'", content)
    datatype, shape = check_form(name, content.get("datatype"), content.get("shape"))
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in content:
            raise SpecError(f"Tensor '{name}' has neither 'data' nor 'binary_data_size'.")
        return from_json(name, datatype, shape, content["data"])
    if type(size) is not int or size < 0:
        raise SpecError(f"Tensor '{name}': its 'binary_data_size' isn't a size.")
    if "data" in content:
        raise SpecError(f"Tensor '{name}' has both 'data' and 'binary_data_size'; give one.")
    return from_binary(name, datatype, shape, binary.take(name, size))


def _output(content: dict[str, Any]) -> WantedOutput:
    name = _name(content, "output")
    parameters = _parameters(f"Output '{name}'", content)
    return WantedOutput(name, _flag(parameters, "binary_data"))


def _objects(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = content.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise SpecError(f"The request's '{key}' must be a list of objects.")
    return found


def _name(content: dict[str, Any], kind: str) -> str:
    name = content.get("name")
    if not isinstance(name, str) or not name:
        raise SpecError(f"An {kind} has no 'name'.")
    return name


def _parameters(whose: str, content: dict[str, Any]) -> dict[str, Any]:
    found = content.get("parameters", {})
    if not isinstance(found, dict) or any(
        not isinstance(value, str | int | float | bool) for value in found.values()
    ):
        raise SpecError(f"{whose}: 'parameters' must be an object of strings, numbers, booleans.")
    check_parameters(found)
    _flag(found, "binary_data_output")
    return found


def _flag(parameters: dict[str, Any], name: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise SpecError(f"The parameter '{name}' must be true or false.")
    return value
