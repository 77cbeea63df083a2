"""States of 90 MB on a RunPod endpoint that takes 10 MB: they go by the store of blobs."""

import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_server import dyno_up, url_of

from emulated_endpoint import KEY
from training_endpoint import training_endpoint
from training_places import MLP, CountingClient, blobs_of_points
from visiondyno.client.client import Client
from visiondyno.client.model_state import ModelState
from visiondyno.client.trainer import Trainer
from visiondyno.emulator import serve
from visiondyno.errors import SpecError

pytest.importorskip("torchvision")
pytestmark = [pytest.mark.torch, pytest.mark.slow]

RESNET = {"type": "torchvision", "name": "resnet50", "arguments": {"num_classes": 3}}
NOISE = np.random.default_rng(0)
IMAGES = NOISE.normal(size=(4, 3, 32, 32)).astype(np.float32), np.array([0, 1, 2, 1])
HYPER = {"learning_rate": 0.01, "batch_size": 4, "optimizer": "sgd"}
RUNPODS_LIMIT_BYTES = 10_000_000
STATE_BYTES = 90_000_000
THREADS = 1

Json = dict[str, Any]
Receive = Callable[[], Awaitable[Json]]
Send = Callable[[Json], Awaitable[None]]
SetEnviron = Callable[[Mapping[str, str]], None]


@dataclass
class Traffic:
    """How long requests and answers of an endpoint were, by route, workers' and clients' alike."""

    sizes: list[tuple[str, int, int]] = field(default_factory=list)

    def around(self, app: Any) -> Any:
        async def counted(scope: Json, receive: Receive, send: Send) -> None:
            received = sent = 0

            async def receive_counted() -> Json:
                nonlocal received
                message = await receive()
                received += len(message.get("body", b""))
                return message

            async def send_counted(message: Json) -> None:
                nonlocal sent
                sent += len(message.get("body", b""))
                await send(message)

            try:
                await app(scope, receive_counted, send_counted)
            finally:
                self.sizes.append((scope["path"].split("/")[3], received, sent))

        return counted

    def longest(self, route: str) -> int:
        return max(max(sizes) for its_route, *sizes in self.sizes if its_route == route)

    def routes(self) -> set[str]:
        return {route for route, _, _ in self.sizes}


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Traffic:
    """Of the endpoints that are started after this."""
    found, make_app = Traffic(), serve.make_app
    monkeypatch.setattr(serve, "make_app", lambda emulator: found.around(make_app(emulator)))
    return found


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetEnviron:
    """Sets this process's environment to that of a client elsewhere."""
    monkeypatch.chdir(tmp_path)
    for name in (*os.environ,):
        if name.startswith(("RUNPOD_", "VISIONDYNO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "client"))

    def told(names: Mapping[str, str]) -> None:
        for name, value in names.items():
            monkeypatch.setenv(name, value)

    return told


def states_of(trainer: Trainer) -> list[ModelState]:
    _, first = trainer.train_epoch(RESNET, IMAGES, HYPER, threads=THREADS)
    _, second = trainer.train_epoch(RESNET, IMAGES, HYPER, model_state=first, threads=THREADS)
    # Of nobody that the worker is known to hold: sent whole.
    start = ModelState(first)
    both, _ = trainer.train_model(
        RESNET, IMAGES, None, HYPER, epochs=1, model_state=start, threads=THREADS
    )
    return [first, second, both]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[ModelState]:
    """The states without any wire."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONDYNO_HOME", str(tmp_path_factory.mktemp("inline")))
        with Client("inline") as client:
            return states_of(Trainer(client))


def test_a_state_of_90_mb_goes_there_and_back_by_blob(
    tmp_path: Path, traffic: Traffic, environ: SetEnviron, expected: list[ModelState]
) -> None:
    assert sum(tensor.nbytes for tensor in expected[0].values()) > STATE_BYTES
    with training_endpoint(tmp_path) as endpoint:
        environ(endpoint.environ)
        with CountingClient("runpod") as client:
            states = states_of(Trainer(client))
    assert states == expected  # to the last bit
    assert traffic.routes() >= {"run", "job-take-batch", "job-done", "status"}
    for route in traffic.routes():
        assert traffic.longest(route) < RUNPODS_LIMIT_BYTES, route
    assert traffic.longest("job-done") < 100_000

    fresh, by_name, whole = client.inputs
    assert "model_state" not in fresh
    assert by_name["model_state_format"].startswith("delta")
    assert len(by_name["model_state"]) < 50_000
    assert client.uploads == [fresh["training_data"], whole["model_state"]]


def test_a_server_keeps_the_blobs_of_an_endpoint(
    tmp_path: Path, traffic: Traffic, environ: SetEnviron, expected: list[ModelState]
) -> None:
    with dyno_up(tmp_path, "--workers", "0-1") as (process, said):
        with training_endpoint(tmp_path, f"{url_of(said)}/blobs") as endpoint:
            environ(endpoint.environ)
            with CountingClient("runpod") as client:
                start = ModelState(expected[0])
                state, _ = Trainer(client).train_model(
                    RESNET, IMAGES, None, HYPER, epochs=1, model_state=start, threads=THREADS
                )
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert state == expected[2]
    assert client.inputs[0]["model_state"] in client.uploads
    assert max(traffic.longest(route) for route in traffic.routes()) < RUNPODS_LIMIT_BYTES


def test_without_shared_blobs_nothing_large_is_sent_or_paid(
    tmp_path: Path, traffic: Traffic, environ: SetEnviron, expected: list[ModelState]
) -> None:
    advice = "set VISIONDYNO_BLOBS_URL, here and there, to a bucket or to a server's /blobs"
    points = blobs_of_points(20)
    with training_endpoint(tmp_path) as endpoint:
        environ({})
        # Another name of this machine, as which it isn't known to share a disk.
        url = endpoint.url.replace("127.0.0.1", "127.1")
        with Client("runpod", endpoint=url, api_key=KEY) as client:
            trainer = Trainer(client)
            for start in (None, expected[0]):
                with pytest.raises(SpecError, match=advice):
                    trainer.train_model(RESNET, IMAGES, None, HYPER, model_state=start)
                with pytest.raises(SpecError, match=advice):
                    trainer.train_epoch(RESNET, IMAGES, HYPER, model_state=start)
            with pytest.raises(SpecError, match=advice):
                trainer.evaluate(RESNET, expected[0], IMAGES, HYPER)
            with pytest.raises(SpecError, match=advice):
                trainer.export(MLP, None, tmp_path / "mlp.onnx", input_shape=(6,))
            assert "run" not in traffic.routes()
            _, state = trainer.train_epoch(MLP, points, HYPER, threads=THREADS)  # has room
            assert trainer.evaluate(MLP, state, points, HYPER)["samples_processed"] == 20
