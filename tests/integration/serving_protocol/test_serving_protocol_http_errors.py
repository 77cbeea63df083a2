"""Refusals of the Open Inference Protocol over HTTP, of a live server.

"The HTTP body must contain the $inference_error_response object" (KServe's "Open Inference
Protocol").
"""

import re
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from protocol_requests import HEADER, IMAGES, NAME, binary_request, images_request


def one_tensor(**other: Any) -> dict[str, Any]:
    content = {"name": "images", "shape": [1, 3, 192, 320], "datatype": "FP32", "data": [1.0]}
    return {"inputs": [{**content, **other}]}


@pytest.mark.parametrize(
    ("path", "content", "status", "said"),
    [
        (NAME, one_tensor(), 400, "neither the shape"),
        (NAME, one_tensor(name="x"), 400, "neither the shape"),
        (NAME, one_tensor(name="x", shape=[1]), 400, "no input 'x'; it has 'images'"),
        (NAME, one_tensor(shape=[1]), 400, "takes \\[-1, 3, 192, 320\\]"),
        (NAME, one_tensor(shape=[0, 3, 192, 320], data=[]), 400, "The batch is empty"),
        (NAME, one_tensor(shape=[1], datatype="INT8", data=[1]), 400, "is FP32, not INT8"),
        (NAME, {"inputs": one_tensor(shape=[1])["inputs"] * 2}, 400, "given twice"),
        (NAME, {**one_tensor(shape=[1]), "outputs": [{"name": "q"}]}, 400, "no output 'q'"),
        (NAME, [], 400, "must be a JSON object"),
        ("nobody", one_tensor(), 404, "There is no model 'nobody'"),
        (f"{NAME}/versions/2", one_tensor(), 404, "no version '2'"),
        (IMAGES, one_tensor(), 400, "neither the shape|no input"),
        (IMAGES, images_request(), 400, "is empty"),
        (IMAGES, images_request(b"no image"), 415, "Image 0 is a file of another kind"),
        (IMAGES, images_request(*[b"x"] * 5), 413, "5 images; at most 4"),
        (IMAGES, images_request(b"", confidence=1), 400, "no parameter|is empty"),
        (IMAGES, {**images_request(b"x"), "outputs": [{"name": "q"}]}, 400, "no output 'q'"),
    ],
)
def test_requests_that_are_wrong(
    client: httpx.Client, path: str, content: Any, status: int, said: str
) -> None:
    response = client.post(f"/v2/models/{path}/infer", json=content)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert re.search(said, response.json()["error"])


def test_unknown_parameters_of_images_are_refused(client: httpx.Client, picture: bytes) -> None:
    for parameters, said in (
        ({"confidence": 0.5}, "no parameter 'confidence'; there are conf, iou and classes"),
        ({"conf": 2}, "'conf' is '2'; give a number from 0 to 1"),
        ({"conf": True}, "'conf' is 'True'"),
        ({"iou": "many"}, "'iou' is 'many'"),
        ({"classes": "unicorn"}, "no class 'unicorn'"),
    ):
        content = images_request(picture, **parameters)
        response = client.post(f"/v2/models/{IMAGES}/infer", json=content)
        assert response.status_code == 400
        assert said in response.json()["error"]


def test_an_image_that_is_damaged_is_named(client: httpx.Client, picture: bytes) -> None:
    content = images_request(picture, picture[:3000])
    response = client.post(f"/v2/models/{IMAGES}/infer", json=content)
    assert response.status_code == 400
    assert response.json()["error"].startswith("Image 1: ")


def test_a_batch_has_its_limit(client: httpx.Client, tensor: NDArray[np.float32]) -> None:
    content, headers = binary_request(np.concatenate([tensor] * 3)[:5])
    response = client.post(f"/v2/models/{NAME}/infer", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"].startswith("The batch has 5 rows; at most 4")


def test_bodies_that_are_not_taken(client: httpx.Client) -> None:
    url = f"/v2/models/{NAME}/infer"
    for content, headers, status in (
        (b"\0" * 5_000_001, {}, 413),
        (b"{}", {"Content-Encoding": "gzip"}, 415),
        (b"{}", {HEADER: "3"}, 400),
        (b"{}", {HEADER: "x"}, 400),
        (b"{", {}, 400),
    ):
        response = client.post(url, content=content, headers=headers)
        assert response.status_code == status
        assert list(response.json()) == ["error"]


@pytest.mark.parametrize("kind", ["system", "cuda"])
def test_shared_memory_is_not_supported(client: httpx.Client, kind: str) -> None:
    # Triton, "Shared-Memory Extension": "A failed status request must be indicated by an HTTP error
    # status (typically 400). The HTTP body must contain the […]_error_response object."
    base = f"/v2/{kind}sharedmemory"
    for method, path in (
        ("GET", "/status"),
        ("GET", "/region/r/status"),
        ("POST", "/region/r/register"),
        ("POST", "/unregister"),
        ("POST", "/region/r/unregister"),
    ):
        response = client.request(method, base + path)
        assert response.status_code == 400
        assert "Shared memory isn't supported" in response.json()["error"]
    assert f"{kind}_shared_memory" not in client.get("/v2").json()["extensions"]


def test_what_is_not_there_has_the_form_of_the_protocol(client: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/nobody/ready", 404),
        ("GET", "/v2/models/nobody/stats", 404),
        ("GET", f"/v2/models/{NAME}/versions/7/config", 404),
        ("GET", f"/v2/models/{NAME}/infer", 405),
        ("POST", "/v2", 405),
        ("POST", f"/v2/repository/models/{NAME}/load", 400),
        ("POST", f"/v2/repository/models/{NAME}/unload", 400),
    ):
        response = client.request(method, path)
        assert response.status_code == status, path
        assert list(response.json()) == ["error"], path
    for body in (b"[]", b"{", b'{"ready": 1}'):
        assert client.post("/v2/repository/index", content=body).status_code == 400
