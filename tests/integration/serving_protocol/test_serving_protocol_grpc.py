"""The Open Inference Protocol over gRPC, of a live server.

Quotations are of KServe's "Open Inference Protocol", gRPC, and of gRPC's health checking protocol.
"""

import builtins
import contextlib
import gc
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from live_serving import LiveServing, stopped_replica
from visiondyno.errors import MissingExtra, SpecError
from visiondyno.serving.inference_pb import HEALTH, INFERENCE, message, methods

grpc = pytest.importorskip("grpc")

NAME, IMAGES = "street-n", "street-n-images"
INPUT = message("inference.ModelInferRequest").InferInputTensor
KEY = "a-key-of-this-server"

PROGRAM = """
from visiondyno.api.listening import run
from visiondyno.serving.config import load_serving_config
from visiondyno.serving.run import serve
config = load_serving_config(
    model="visiondyno:street-n", port=0, grpc_port=0, threads=1, max_batch=8, batch_delay_ms=5000
)
told = lambda started: print(started.url, started.grpc_address, flush=True)
raise SystemExit(run(serve(config, told)))
"""


class Caller:
    """Calls methods of a channel by name."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.trailing: dict[str, str] = {}

    def __call__(
        self,
        name: str,
        /,
        of: str = INFERENCE,
        metadata: tuple[tuple[str, str], ...] = (),
        timeout_s: float = 60,
        **fields: Any,
    ) -> Any:
        request, response = methods(of)[name]
        method = self.channel.unary_unary(
            f"/{of}/{name}", request.SerializeToString, response.FromString
        )
        found, call = method.with_call(request(**fields), timeout=timeout_s, metadata=metadata)
        self.trailing = dict(call.trailing_metadata())
        return found

    def refused(self, name: str, /, **fields: Any) -> tuple[str, str]:
        """Status and text of a call that fails."""
        with pytest.raises(grpc.RpcError) as caught:
            self(name, **fields)
        self.trailing = dict(caught.value.trailing_metadata())
        return caught.value.code().name, caught.value.details()


@pytest.fixture(scope="module")
def served() -> Iterator[LiveServing]:
    with LiveServing(
        "visiondyno:street-n", threads=1, grpc_port=0, max_images=4, max_body_mb=5, queue=4
    ) as it:
        yield it


@pytest.fixture(scope="module")
def over_http(served: LiveServing) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


@pytest.fixture(scope="module")
def call(served: LiveServing) -> Iterator[Caller]:
    assert served.started.grpc_address is not None
    with grpc.insecure_channel(served.started.grpc_address) as channel:
        yield Caller(channel)


@pytest.fixture(scope="module")
def tensor() -> NDArray[np.float32]:
    return np.random.default_rng(5).random((2, 3, 192, 320), np.float32)


def raw(tensor: NDArray[Any]) -> dict[str, Any]:
    one = INPUT(name="images", datatype="FP32", shape=tensor.shape)
    return {"model_name": NAME, "inputs": [one], "raw_input_contents": [tensor.tobytes()]}


def test_health_and_metadata(call: Caller, over_http: httpx.Client) -> None:
    assert call("ServerLive").live
    assert call("ServerReady").ready
    assert call("ModelReady", name=NAME, version="1").ready
    told = call("ServerMetadata")
    assert (told.name, list(told.extensions)) == (
        "visiondyno",
        over_http.get("/v2").json()["extensions"],
    )
    metadata = call("ModelMetadata", name=NAME)
    assert metadata.platform == "onnx_onnxv1"
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
        ("images", "FP32", [-1, 3, 192, 320])
    ]


def test_tritons_extensions_tell_what_http_tells(call: Caller, over_http: httpx.Client) -> None:
    config = call("ModelConfig", name=NAME).config
    told = over_http.get(f"/v2/models/{NAME}/config").json()
    assert config.max_batch_size == told["max_batch_size"] == 4
    assert list(config.input[0].dims) == told["input"][0]["dims"]
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert [one.name for one in call("RepositoryIndex", ready=True).models] == [NAME, IMAGES]
    (stats,) = call("ModelStatistics", name=NAME).model_stats
    assert stats.version == "1"
    assert len(call("ModelStatistics").model_stats) == 2


def test_raw_and_typed_contents_are_the_same_to_the_graph(
    call: Caller, over_http: httpx.Client, tensor: NDArray[np.float32]
) -> None:
    # "Using a "raw" representation of tensors […] will typically allow higher performance"; "An
    # alternative to the "raw" representation is to use InferTensorContents".
    before = call("ModelStatistics", name=NAME).model_stats[0].inference_count
    found = call("ModelInfer", **raw(tensor), id="7", metadata=(("x-request-id", "mine"),))
    assert (found.model_name, found.model_version, found.id) == (NAME, "1", "7")
    assert call.trailing["x-request-id"] == "mine"
    assert "inference;dur=" in call.trailing["server-timing"]
    (output,) = found.outputs
    assert (output.name, list(output.shape)) == ("detections", [2, 8, 1260])
    typed = INPUT(name="images", datatype="FP32", shape=tensor.shape)
    typed.contents.fp32_contents.extend(tensor.ravel().tolist())
    again = call("ModelInfer", model_name=NAME, inputs=[typed])
    assert again.raw_output_contents == found.raw_output_contents
    after = call("ModelStatistics", name=NAME).model_stats[0]
    assert after.inference_count == before + 4
    assert after.inference_stats.compute_infer.ns > 0


def test_images_over_grpc_are_what_http_predicts(
    call: Caller, over_http: httpx.Client, shared_testdata: Path
) -> None:
    picture = next(iter(sorted(shared_testdata.glob("images/coco128/images/*.jpg")))).read_bytes()
    one = INPUT(name="image", datatype="BYTES", shape=[1])
    one.contents.bytes_contents.append(picture)
    outputs = [{"name": "scores"}, {"name": "boxes_xyxy"}]
    found = call(
        "ModelInfer",
        model_name=IMAGES,
        inputs=[one],
        outputs=outputs,
        parameters={"conf": {"double_param": 0.1}},
    )
    scores, boxes = (
        np.frombuffer(data, "<f4").reshape(said.shape)
        for said, data in zip(found.outputs, found.raw_output_contents, strict=True)
    )
    (alone,) = over_http.post("/predict?conf=0.1", content=picture).json()["predictions"]
    np.testing.assert_allclose(scores, alone["scores"], rtol=1e-5)
    np.testing.assert_allclose(boxes, alone["boxes_xyxy"], rtol=1e-5)


def test_each_refusal_has_its_status(call: Caller, tensor: NDArray[np.float32]) -> None:
    for name, fields, status, said in (
        ("ModelInfer", {}, "NOT_FOUND", "no model ''"),
        ("ModelInfer", {**raw(tensor), "model_version": "3"}, "NOT_FOUND", "no version '3'"),
        ("ModelInfer", {"model_name": NAME}, "INVALID_ARGUMENT", "no inputs"),
        ("ModelInfer", {"model_name": IMAGES}, "INVALID_ARGUMENT", "no inputs"),
        ("ModelInfer", raw(tensor[:, :1]), "INVALID_ARGUMENT", "the model takes"),
        (
            "ModelInfer",
            {**raw(tensor), "raw_input_contents": [b"123"]},
            "INVALID_ARGUMENT",
            "has 3 bytes",
        ),
        ("ModelMetadata", {"name": "nobody"}, "NOT_FOUND", "no model 'nobody'"),
        ("ModelConfig", {"name": "nobody"}, "NOT_FOUND", "no model 'nobody'"),
        ("ModelStatistics", {"name": "nobody"}, "NOT_FOUND", "no model 'nobody'"),
        ("ModelReady", {"name": "nobody"}, "NOT_FOUND", "no model 'nobody'"),
    ):
        code, text = call.refused(name, **fields)
        assert code == status, text
        assert said in text
        assert "x-request-id" in call.trailing


def test_what_is_no_message_is_an_invalid_argument(call: Caller) -> None:
    for name in ("ModelInfer", "ModelReady"):
        method = call.channel.unary_unary(f"/{INFERENCE}/{name}", bytes, bytes)
        with pytest.raises(grpc.RpcError) as caught:
            method(b"\xff\xff", timeout=60)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert name in caught.value.details()


def test_methods_and_messages_beyond_what_is_taken(call: Caller) -> None:
    for name, data, status in (
        ("SystemSharedMemoryStatus", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("ModelInfer", b"\0" * 6_000_001, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        method = call.channel.unary_unary(f"/{INFERENCE}/{name}", bytes, bytes)
        with pytest.raises(grpc.RpcError) as caught:
            method(data, timeout=60)
        assert caught.value.code() is status


def test_too_many_at_once_and_too_late(call: Caller, tensor: NDArray[np.float32]) -> None:
    def try_one(_: int) -> str:
        caller = Caller(call.channel)
        try:
            caller("ModelInfer", **raw(np.concatenate([tensor, tensor])))
        except grpc.RpcError as error:
            pushback = dict(error.trailing_metadata()).get("grpc-retry-pushback-ms", "0")
            assert int(pushback) >= 1000
            return str(error.code().name)
        return "OK"

    call("ModelInfer", **raw(tensor))
    with ThreadPoolExecutor(30) as pool:
        with stopped_replica():  # until one is refused, and surely while others wait
            asked = [pool.submit(try_one, number) for number in range(60)]
            wait(asked, timeout=60, return_when=FIRST_COMPLETED)
        found = {one.result() for one in asked}
    assert found == {"OK", "RESOURCE_EXHAUSTED"}
    code, _ = call.refused("ModelInfer", **raw(tensor), timeout_s=0.0001)
    assert code == "DEADLINE_EXCEEDED"
    assert call("ModelInfer", **raw(tensor)).outputs, "it serves on"


def test_the_health_protocol(call: Caller) -> None:
    # By its text, a service that isn't registered is NOT_FOUND.
    serving = 1
    assert call("Check", of=HEALTH).status == serving
    assert call("Check", of=HEALTH, service=INFERENCE).status == serving
    code, text = call.refused("Check", of=HEALTH, service="nobody")
    assert (code, text) == ("NOT_FOUND", "There is no service 'nobody'.")


def watch(channel: Any, service: str) -> Any:
    request, response = methods(HEALTH)["Watch"]
    method = channel.unary_stream(
        f"/{HEALTH}/Watch", request.SerializeToString, response.FromString
    )
    return method(request(service=service), timeout=60)


def test_health_is_watched(call: Caller) -> None:
    # "If the requested service is unknown […] the server SHOULD send SERVICE_UNKNOWN".
    for service, status in (("", 1), (INFERENCE, 1), ("nobody", 3)):
        watching = watch(call.channel, service)
        assert next(watching).status == status
        watching.cancel()


def test_keys_are_asked_for(tmp_path: Path, tensor: NDArray[np.float32]) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    with (
        LiveServing(
            "fake:detection", grpc_port=0, keys_file=keys, access_log=str(tmp_path / "log")
        ) as it,
        grpc.insecure_channel(it.started.grpc_address) as channel,
    ):
        call = Caller(channel)
        for metadata in ((), (("authorization", "Bearer another-key-of-it"),)):
            code, _ = call.refused("ModelInfer", metadata=metadata)
            assert code == "UNAUTHENTICATED"
        authorised = (("authorization", f"Bearer {KEY}"),)
        assert call("ServerReady", metadata=authorised).ready
        # A model without a graph is there for images alone.
        code, text = call.refused("ModelInfer", metadata=authorised, model_name="detection")
        assert (code, "there is 'detection-images'" in text) == ("NOT_FOUND", True)
        assert call("Check", of=HEALTH).status == 1, "probes have no key"
    lines = (tmp_path / "log").read_text()
    assert re.search(rf"/{INFERENCE}/ModelInfer.*401", lines)
    assert re.search(rf"/{INFERENCE}/ServerReady.*200", lines)


def test_a_server_that_is_told_to_stop_finishes_what_it_has(tensor: NDArray[np.float32]) -> None:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url, address = server.stdout.readline().split()
            with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(1) as pool:
                call = Caller(channel)
                watching = watch(channel, "")
                assert next(watching).status == 1
                answer = pool.submit(call, "ModelInfer", **raw(tensor[:1]))
                waiting = re.compile(r"^visiondyno_inference_queue_depth 1\.0$", re.MULTILINE)
                until = time.monotonic() + 60
                while not waiting.search(httpx.get(f"{url}/metrics").text):
                    assert time.monotonic() < until
                server.send_signal(signal.SIGTERM)
                assert list(answer.result(60).outputs[0].shape) == [1, 8, 1260]
                # It may see that no more is taken, before the end.
                assert [one.status for one in watching] in ([], [2])
            assert server.wait(60) == 0
        finally:
            server.kill()


def test_a_port_that_is_taken_and_an_extra_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SpecError, match=f"127.0.0.1:{port} for gRPC; give another"):
            LiveServing("fake:detection", grpc_port=port).__enter__()
    import_ = builtins.__import__

    def without_grpc(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "grpc":
            raise ImportError(name)
        return import_(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_grpc)
    with pytest.raises(MissingExtra, match=r"pip install 'visiondyno\[grpc\]'"):
        LiveServing("fake:detection", grpc_port=0).__enter__()


def test_refused_tensors_are_let_go_at_once(call: Caller) -> None:
    asked = raw(np.zeros((1, 3, 192, 640), np.float32))
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            with contextlib.suppress(grpc.RpcError):
                call("ModelInfer", **asked)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        of_garbage = [one for cycle in gc.garbage for one in gc.get_referents(cycle)]
        held = [len(one) for one in of_garbage if isinstance(one, bytes) and len(one) > 1_000_000]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not held  # what only a collection frees is there by the hundred under overload
