"""What the Open Inference Protocol says while no replica is ready, of defects, and of hang-ups."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect

from serving_stand_ins import MODEL, Launcher, new_metrics, new_pool, settle
from virtual_time import run_virtual
from visiondyno.errors import ChildDied, ModelError, NotReady, OperationFailed, VisionDynoError
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.grpc_service import _failure
from visiondyno.serving.inference import Inference
from visiondyno.serving.pool import Pool
from visiondyno.serving.protocol import InferenceProtocol, raise_of
from visiondyno.serving.protocol_http import ProtocolRoutes, _error_response
from visiondyno.serving.protocol_models import announce
from visiondyno.serving.wire import Answer, Media
from visiondyno.telemetry.traces import Tracing

GRAPH = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 8, 8]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 5]}],
    "has_free_rows": True,
}


def told(task: str = "detection", graph: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**MODEL, "graph": graph, "card": {"task": task, "classes": ["car"]}}


def config(**fields: Any) -> ServingConfig:
    return ServingConfig(model="m.onnx", **fields)


class Asked:
    """The protocol's routes over a pool of replicas that a test answers for."""

    def __init__(self) -> None:
        self.launcher = Launcher()
        self.pool: Pool = new_pool(self.launcher)
        self.starting = asyncio.create_task(self.pool.start())
        inference = Inference(self.pool, new_metrics(), Tracing(None))
        self.protocol = InferenceProtocol(inference, config())
        self._app = Starlette(routes=ProtocolRoutes(self.protocol, config()).routes())

    async def ready(self) -> None:
        self.launcher.all[0].ready(told(graph=GRAPH))
        await self.starting

    async def __call__(
        self, method: str, path: str, *messages: dict[str, Any]
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and content of an answer; `messages` are what the client sends."""
        sent: list[Any] = []
        waiting = [*(messages or ({"type": "http.request", "body": b""},))]

        async def receive() -> Any:
            while not waiting:
                await asyncio.sleep(3600)
            return waiting.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "root_path": "",
            "headers": [],
            "query_string": b"",
            "http_version": "1.1",
        }
        await self._app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, json.loads(sent[1]["body"])


def play(scenario: Callable[[Asked], Awaitable[None]]) -> None:
    async def whole() -> None:
        asked = Asked()
        await settle()
        await scenario(asked)
        asked.starting.cancel()
        await asked.pool.close()

    run_virtual(whole())


def test_before_a_replica_is_ready() -> None:
    async def scenario(asked: Asked) -> None:
        assert await asked("GET", "/v2/health/live") == (
            200, {"content-length": "13", "content-type": "application/json"}, {"live": True},
        )  # fmt: skip
        # "A 200 status code indicates true and a 4xx status code indicates false."
        status, _, content = await asked("GET", "/v2/health/ready")
        assert (status, content) == (400, {"live": False, "ready": False})
        for method, path in (
            ("GET", "/v2/models/m"),
            ("GET", "/v2/models/m/config"),
            ("GET", "/v2/models/stats"),
            ("POST", "/v2/models/m/infer"),
        ):
            status, headers, content = await asked(method, path)
            assert (status, headers["retry-after"]) == (503, "1")
            assert content == {"error": "The model isn't loaded yet; come again."}
        await asked.ready()
        assert (await asked("GET", "/v2/health/ready"))[0] == 200

    play(scenario)


def test_while_the_server_stops() -> None:
    async def scenario(asked: Asked) -> None:
        await asked.ready()
        assert (await asked("GET", "/v2/models/m/ready"))[0] == 200
        await asked.pool.drain(0.0)
        status, _, content = await asked("GET", "/v2/models/m/ready")
        assert (status, content) == (400, {"name": "m", "ready": False})
        assert asked.protocol.index(only_ready=True) == []
        assert [one["state"] for one in asked.protocol.index()] == ["UNAVAILABLE"] * 2
        status, headers, content = await asked("POST", "/v2/models/m/infer")
        assert (status, headers["retry-after"]) == (503, "1")

    play(scenario)


def test_a_client_that_hangs_up_frees_its_place() -> None:
    async def scenario(asked: Asked) -> None:
        await asked.ready()
        body = {"type": "http.request", "body": b"{}"}
        gone = {"type": "http.disconnect"}
        for messages in ((body, gone), (gone,)):
            with pytest.raises(ClientDisconnect):
                await asked("POST", "/v2/models/m/infer", *messages)
        assert asked.pool.depth == 0
        parts = ({**body, "body": b"{", "more_body": True}, {**body, "body": b"}"}, gone)
        with pytest.raises(ClientDisconnect):
            await asked("POST", "/v2/models/m/infer", *parts)
        assert asked.launcher.all[0].seen[0] == [b"{}"]
        assert asked.pool.depth == 0
        (stats,) = asked.protocol.statistics("m")["model_stats"]
        assert stats["inference_stats"]["fail"]["count"] == 2

    play(scenario)


# ---- what is announced


def test_a_graph_of_a_fixed_batch_on_a_gpu() -> None:
    graph = {**GRAPH, "has_free_rows": False}
    models = announce(config(device="cuda:1", replicas_most=3), told(graph=graph))
    assert list(models) == ["m", "m-images"]
    said = models["m"].configuration(config(device="cuda:1", replicas_most=3))
    assert said["max_batch_size"] == 0
    assert said["input"][0]["dims"] == [-1, 3, 8, 8]
    assert said["instance_group"] == [{"name": "m_0", "kind": "KIND_GPU", "count": 3, "gpus": [1]}]
    assert "dynamic_batching" not in said


def test_a_depth_model_has_its_graph_alone() -> None:
    assert list(announce(config(), told("depth", GRAPH))) == ["m"]
    assert announce(config(), told("depth")) == {}


# ---- errors


def test_a_defect_is_told_as_one(caplog: pytest.LogCaptureFixture) -> None:
    response = _error_response(ValueError("secret"), "/v2")
    assert response.status_code == 500
    assert "secret" not in bytes(response.body).decode()
    assert "secret" in caplog.text
    code, text, _ = _failure(ValueError("secret"), "/v2")
    assert (code.name, "secret" in text) == ("INTERNAL", False)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ChildDied("The process ended."), 500, "INTERNAL"),
        (NotReady("Not now.", 2.5), 503, "UNAVAILABLE"),
        (VisionDynoError("Something."), 500, "INTERNAL"),
    ],
)
def test_errors_of_the_server_keep_their_status(
    error: VisionDynoError, status: int, code: str
) -> None:
    response = _error_response(error, "/v2")
    assert response.status_code == status
    assert json.loads(response.body) == {"error": str(error)}
    found, text, extra = _failure(error, "/v2")
    assert (found.name, text) == (code, str(error))
    assert dict(extra) == ({"grpc-retry-pushback-ms": "2500"} if status == 503 else {})


def test_what_is_the_models_fault_is_not_the_requests() -> None:
    body = to_json({"code": ModelError.code, "message": "The output holds NaN."})
    with pytest.raises(OperationFailed, match=r"Image 2: The output holds NaN\."):
        raise_of(Answer(500, Media.PROBLEM, body), "Image 2: ")
    with pytest.raises(ModelError, match=r"^The output"):
        raise_of(Answer(400, Media.PROBLEM, body))
    raise_of(Answer(200, Media.JSON, b"[]"))
