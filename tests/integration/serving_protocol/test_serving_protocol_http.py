"""The Open Inference Protocol over HTTP, of a live server.

Quotations are of KServe's "Open Inference Protocol" (OIP; its first text, "Predict Protocol -
Version 2", is PPV2) and of Triton's extensions.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from protocol_requests import HEADER, IMAGES, NAME, binary_request, images_request

from live_serving import LiveServing
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.registry import load_model


def outputs_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {one["name"]: one["data"] for one in response.json()["outputs"]}


# ---- health and metadata


@pytest.mark.parametrize("path", ["live", "ready"])
def test_health_is_the_status(client: httpx.Client, path: str) -> None:
    # PPV2, "Health": "A 200 status code indicates true".
    response = client.get(f"/v2/health/{path}")
    assert response.status_code == 200
    # OIP, "Server Ready Response JSON Object": {"live": $bool}.
    assert response.json()["live"] is True
    assert client.head(f"/v2/health/{path}").status_code == 200


def test_server_metadata(client: httpx.Client) -> None:
    # OIP, "Server Metadata Response JSON Object"; the extensions that Triton "reports".
    told = client.get("/v2").json()
    assert told["name"] == "visiondyno"
    assert isinstance(told["version"], str)
    assert set(told["extensions"]) == {"binary_tensor_data", "model_configuration", "statistics"}


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_model_metadata_and_readiness(client: httpx.Client, version: str) -> None:
    # OIP, "Model Metadata Response JSON Object": "Variable-size dimensions are specified as -1."
    assert client.get(f"/v2/models/{NAME}{version}").json() == {
        "name": NAME,
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 192, 320]}],
        "outputs": [{"name": "detections", "datatype": "FP32", "shape": [-1, 8, 1260]}],
    }
    # OIP, "Model Ready Response JSON Object".
    ready = client.get(f"/v2/models/{NAME}{version}/ready")
    assert (ready.status_code, ready.json()) == (200, {"name": NAME, "ready": True})


def test_the_model_of_images_keeps_rows_of_images_apart(client: httpx.Client) -> None:
    told = client.get(f"/v2/models/{IMAGES}").json()
    assert told["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert {one["name"]: (one["datatype"], one["shape"]) for one in told["outputs"]} == {
        "image_index": ("INT32", [-1]),
        "boxes_xyxy": ("FP32", [-1, 4]),
        "scores": ("FP32", [-1]),
        "classes": ("INT64", [-1]),
        "names": ("BYTES", [-1]),
    }


def test_model_configuration(client: httpx.Client) -> None:
    # model_config.proto: "A max_batch_size value > 0 indicates that batching is allowed and so the
    # model expects the input tensors to have an additional initial dimension".
    told = client.get(f"/v2/models/{NAME}/config").json()
    assert told["name"] == NAME
    assert told["max_batch_size"] == 4
    assert told["input"] == [{"name": "images", "data_type": "TYPE_FP32", "dims": [3, 192, 320]}]
    assert told["dynamic_batching"] == {"max_queue_delay_microseconds": 1000}
    images = client.get(f"/v2/models/{IMAGES}/versions/1/config").json()
    assert images["max_batch_size"] == 0
    assert images["input"] == [{"name": "image", "data_type": "TYPE_STRING", "dims": [-1]}]


def test_the_index_of_the_repository(client: httpx.Client) -> None:
    # Triton, "Model Repository Extension", $repository_index_response.
    for body in (b"", b"{}", b'{"ready": true}'):
        told = client.post("/v2/repository/index", content=body).json()
        assert told == [
            {"name": name, "version": "1", "state": "READY", "reason": ""}
            for name in (NAME, IMAGES)
        ]


# ---- inference


def test_tensors_in_json_flat_and_nested(
    client: httpx.Client, tensor: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    one = tensor[:1]
    for data in (one.tolist(), one.ravel().tolist()):
        content = {"name": "images", "shape": list(one.shape), "datatype": "FP32", "data": data}
        response = client.post(f"/v2/models/{NAME}/infer", json={"id": "a", "inputs": [content]})
        told = response.json()
        # OIP: "if specified this identifier must be returned in the response".
        assert (told["id"], told["model_name"], told["model_version"]) == ("a", NAME, "1")
        (output,) = told["outputs"]
        assert (output["name"], output["datatype"]) == ("detections", "FP32")
        found = np.array(output["data"], np.float32).reshape(output["shape"])
        np.testing.assert_allclose(found, expected[:1], rtol=1e-5, atol=1e-5)
        assert "inference;dur=" in response.headers["server-timing"]


def test_tensors_as_binary_data(
    client: httpx.Client, tensor: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    # Triton, "Binary Tensor Data Extension": "the Inference-Header-Content-Length header must be
    # provided to give the length of the JSON object".
    content, headers = binary_request(
        tensor, outputs=[{"name": "detections", "parameters": {"binary_data": True}}]
    )
    response = client.post(f"/v2/models/{NAME}/versions/1/infer", content=content, headers=headers)
    assert response.headers["content-type"] == "application/octet-stream"
    size = int(response.headers[HEADER])
    (output,) = json.loads(response.content[:size])["outputs"]
    assert output["parameters"] == {"binary_data_size": len(response.content) - size}
    found = np.frombuffer(response.content[size:], "<f4").reshape(output["shape"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_images_as_the_other_face_predicts_them(client: httpx.Client, picture: bytes) -> None:
    mirrored = cv2.flip(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR), 1)
    other = cv2.imencode(".png", mirrored)[1].tobytes()
    found = outputs_of(
        client.post(f"/v2/models/{IMAGES}/infer", json=images_request(picture, other, conf=0.1))
    )
    row = 0
    for index, image in enumerate((picture, other)):
        (alone,) = client.post("/predict?conf=0.1", content=image).json()["predictions"]
        count = len(alone["scores"])
        rows = slice(row, row + count)
        assert found["image_index"][rows] == [index] * count
        assert found["classes"][rows] == alone["classes"]
        assert found["names"][rows] == alone["names"]
        np.testing.assert_allclose(found["scores"][rows], alone["scores"], rtol=1e-5)
        boxes = np.array(found["boxes_xyxy"]).reshape(-1, 4)[rows]
        np.testing.assert_allclose(boxes, np.array(alone["boxes_xyxy"]).reshape(-1, 4), rtol=1e-5)
        row += count
    assert row == len(found["scores"]) > 0


def test_images_as_binary_data_and_outputs_by_name(client: httpx.Client, picture: bytes) -> None:
    element = len(picture).to_bytes(4, "little") + picture
    about = {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(element)},
    }
    wanted = [{"name": "names"}, {"name": "scores"}]
    header = json.dumps({"inputs": [about], "outputs": wanted}).encode()
    response = client.post(
        f"/v2/models/{IMAGES}/infer",
        content=header + element,
        headers={HEADER: str(len(header))},
    )
    found = outputs_of(response)
    assert list(found) == ["names", "scores"]
    assert found["scores"] == sorted(found["scores"], reverse=True)


def test_parameters_of_images(client: httpx.Client, picture: bytes) -> None:
    everything = outputs_of(
        client.post(f"/v2/models/{IMAGES}/infer", json=images_request(picture, conf=0.05))
    )
    some = everything["names"][0]
    found = outputs_of(
        client.post(
            f"/v2/models/{IMAGES}/infer",
            json=images_request(picture, conf="0.05", iou=0.5, classes=some, priority=0),
        )
    )
    assert set(found["names"]) == {some}
    none = outputs_of(
        client.post(f"/v2/models/{IMAGES}/infer", json=images_request(picture, conf=1.0))
    )
    assert none == {name: [] for name in everything}


# ---- statistics


def test_statistics_are_of_what_was_done(
    client: httpx.Client, tensor: NDArray[np.float32], picture: bytes
) -> None:
    # Triton, "Statistics Extension": "if a client sends a single inference request with batch size
    # 64, "inference_count" will be incremented by 64".
    def stats(path: str) -> dict[str, Any]:
        (found,) = client.get(f"/v2/models/{path}/stats").json()["model_stats"]
        return dict(found)

    before = stats(NAME)
    content, headers = binary_request(tensor)
    assert client.post(f"/v2/models/{NAME}/infer", content=content, headers=headers).is_success
    assert client.post(f"/v2/models/{NAME}/infer", content=b"{").status_code == 400
    after = stats(f"{NAME}/versions/1")
    assert after["name"] == NAME
    assert after["version"] == "1"
    assert after["inference_count"] - before["inference_count"] == len(tensor)
    assert after["execution_count"] - before["execution_count"] == 1

    def growth(name: str, what: str) -> int:
        old, new = (one["inference_stats"][name][what] for one in (before, after))
        return int(new - old)

    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert growth(name, "count") == 1
    assert growth("fail", "count") == 1
    spent_ns = sum(
        growth(name, "ns") for name in ("compute_input", "compute_infer", "compute_output")
    )
    assert 0 < growth("compute_infer", "ns") < spent_ns
    twos = {one["batch_size"]: one for one in after["batch_stats"]}[len(tensor)]
    assert twos["compute_infer"]["ns"] > 0
    # `/predict` is the same model of images.
    count = stats(IMAGES)["inference_count"]
    assert client.post("/predict", content=picture).is_success
    assert stats(IMAGES)["inference_count"] == count + 1
    names = [one["name"] for one in client.get("/v2/models/stats").json()["model_stats"]]
    assert names == [NAME, IMAGES]


def test_clients_that_share_a_run_get_their_own_answers(tensor: NDArray[np.float32]) -> None:
    # "When dynamic batching is enabled, a single model execution can perform inferencing for more
    # than one inference request."
    rows = [np.clip(tensor[:1] * scale, 0, 1) for scale in (0.2, 0.5, 1.0, 2.0)]

    def infer(client: httpx.Client, row: NDArray[np.float32]) -> NDArray[np.float32]:
        content, headers = binary_request(row, parameters={"binary_data_output": True})
        response = client.post(f"/v2/models/{NAME}/infer", content=content, headers=headers)
        return np.frombuffer(response.content[int(response.headers[HEADER]) :], "<f4")

    # So long that all four are there before the first is due.
    settings = {"threads": 1, "max_batch": 4, "batch_delay_ms": 20_000}
    with LiveServing("visiondyno:street-n", **settings) as served, served.client() as client:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda row: infer(client, row), rows))
        (stats,) = client.get(f"/v2/models/{NAME}/stats").json()["model_stats"]
    assert (stats["inference_count"], stats["execution_count"]) == (4, 1)
    assert [one["batch_size"] for one in stats["batch_stats"]] == [4]
    with load_model("visiondyno:street-n", LoadOptions(intra_op_threads=1)) as model:
        assert model.graph is not None
        for row, answer in zip(rows, together, strict=True):
            (alone,) = model.graph.run_graph({"images": row}, ["detections"])
            np.testing.assert_allclose(answer, alone.ravel(), rtol=1e-3, atol=1e-3)


def test_a_model_without_a_graph_is_announced_for_images_only() -> None:
    with LiveServing("fake:classification", name="digits") as served, served.client() as client:
        assert client.get("/v2/models/digits").json() == {
            "error": "There is no model 'digits'; there is 'digits-images'."
        }
        image = cv2.imencode(".png", np.full((8, 8, 3), 9, np.uint8))[1].tobytes()
        content = images_request(image, image)
        found = outputs_of(client.post("/v2/models/digits-images/infer", json=content))
        (alone,) = client.post("/predict", content=image).json()["predictions"]
        count = len(alone["scores"])
        assert found["image_index"] == [0] * count + [1] * count
        assert found["names"] == alone["names"] * 2
        assert found["scores"] == pytest.approx(alone["scores"] * 2)
