"""The OpenAPI document of a live inference server is true."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from live_serving import LiveServing

PNG = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServing]:
    with LiveServing(max_images=3) as live:
        yield live


@pytest.fixture(scope="module")
def schema(server: LiveServing) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_what_is_generated_is_answered_as_described(schema: Any, mode: GenerationMode) -> None:
    seen: Counter[int] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.query or operation.body):
            continue  # nothing can be wrong

        @EXAMPLES
        @given(case=operation.as_strategy(generation_mode=mode))
        def one(case: Any) -> None:
            seen[case.call_and_validate(checks=CHECKS, timeout=60).status_code] += 1

        one()
    assert max(seen) < 500
    assert any(status < 400 for status in seen) is (mode is GenerationMode.POSITIVE)
    assert any(status >= 400 for status in seen)


@pytest.mark.parametrize(
    "request_",
    [
        {"content": PNG, "headers": {"Content-Type": "image/png"}},
        {"content": PNG, "params": {"format": "png"}},
        {"content": PNG, "params": {"format": "jpeg", "conf": "0.5"}},
        {"files": [("file", PNG), ("file", PNG)]},
        {"json": {"image": "AAAA"}},
        {"json": {"url": "http://127.0.0.1/x.png"}},
        {"content": b""},
        {"content": PNG[:40]},
        {"content": PNG, "params": {"conf": "7"}},
    ],
    ids=range(9),
)
def test_an_answer_is_as_described(server: LiveServing, schema: Any, request_: Any) -> None:
    with server.client() as client:
        response = client.post("/predict", **request_)
    response.request.read()
    schema["/predict"]["POST"].validate_response(response)


def test_every_operation_and_parameter_is_described(server: LiveServing) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    assert {"/predict", "/health", "/ready", "/metrics"} <= set(document["paths"])
    operation = document["paths"]["/predict"]["post"]
    named = {one["name"] for one in operation["parameters"]}
    refusal = httpx.post(f"{server.url}/predict?no=1", content=PNG).json()["detail"]
    assert refusal == f"There is no parameter 'no'; there are {', '.join(sorted(named))}."
    assert all(one["description"] for one in operation["parameters"])
