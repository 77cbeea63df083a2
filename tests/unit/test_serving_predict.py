"""The application over replicas that a test answers for."""

import asyncio
from typing import Any

import cv2
import httpx
import numpy as np
from coroutines import run
from pydantic_core import to_json

from serving_stand_ins import MODEL, Launcher, new_metrics, new_pool, settle
from visiondyno.serving.app import make_app
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.inference import Inference
from visiondyno.serving.pool import Pool
from visiondyno.serving.protocol import InferenceProtocol
from visiondyno.serving.wire import Answer, Media
from visiondyno.telemetry.traces import Tracing

PNG = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
DESCRIBED = {**MODEL, "card": {"task": "detection", "classes": ["car", "bus"]}}


class NothingToFetch:
    async def all(self, urls: Any) -> list[bytes]:
        raise AssertionError("no URL is sent here")


def client_of(pool: Pool, **given: Any) -> httpx.AsyncClient:
    """A client of the application over this pool."""
    config = ServingConfig(model="m", _env_file=None, **given)
    metrics = new_metrics()
    inference = Inference(pool, metrics, Tracing(None))
    protocol = InferenceProtocol(inference, config)
    app = make_app(config, inference, protocol, NothingToFetch(), metrics.registry)
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


def test_it_is_ready_from_the_first_replica_to_the_end() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = new_pool(launcher)
        async with client_of(pool) as client:
            starting = asyncio.create_task(pool.start())
            await settle()
            answer = await client.get("/ready")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "No replica of the model is ready" in answer.json()["detail"]
            launcher.all[0].ready()
            await starting
            ready = await client.get("/ready")
            states = {"starting": 0, "ready": 1, "stopping": 0}
            assert ready.json() == {"status": "ready", "replicas": states}
            pool.announce_end()
            answer = await client.get("/ready")
            assert answer.status_code == 503
            assert answer.json()["detail"] == "The server is stopping."
            assert (await client.get("/health")).json()["status"] == "alive"
        await pool.close()

    run(scenario())


def test_what_only_the_model_can_judge_waits_for_it() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = new_pool(launcher)
        async with client_of(pool) as client:
            starting = asyncio.create_task(pool.start())
            asking = asyncio.create_task(client.post("/predict?classes=horse", content=PNG))
            await settle()
            assert not asking.done()
            launcher.all[0].ready(DESCRIBED)
            await starting
            assert "there are car, bus" in (await asking).json()["detail"]
        await pool.close()

    run(scenario())


def test_a_model_that_never_loads_is_not_waited_for_longer_than_may_be() -> None:
    async def scenario() -> None:
        pool = new_pool(Launcher(), time_limit_s=0.05)
        async with client_of(pool) as client:
            answer = await client.post("/predict?conf=0.5", content=PNG)
            assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")

    run(scenario())


def test_images_without_a_prediction_are_named_the_gravest_first() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = new_pool(launcher, max_batch=3)
        starting = asyncio.create_task(pool.start())
        await settle()
        launcher.all[0].ready(DESCRIBED)
        await starting

        def problem(status: int, code: str, message: str) -> Answer:
            return Answer(status, Media.PROBLEM, to_json({"code": code, "message": message}))

        async with client_of(pool) as client:
            asking = asyncio.create_task(client.post("/predict", files=[("a", PNG)] * 3))
            replica: Any = launcher.all[0]
            while not replica.given:
                await asyncio.sleep(0.001)
            answers = [
                Answer(200, Media.JSON, b"{}", rows=1),
                problem(422, "bad_dataset", "This one is damaged."),
                problem(500, "bad_model", "This one is not a number."),
            ]
            batch_id = next(iter(replica.given))
            del replica.given[batch_id]
            replica._to.on_answers(replica, batch_id, answers)
            answer = await asking
            told = answer.json()
            assert (answer.status_code, told["code"]) == (500, "bad_model")
            assert told["detail"] == "Image 3 of 3: This one is not a number."
            assert told["errors"] == [
                {"field": "images.1", "message": "This one is damaged."},
                {"field": "images.2", "message": "This one is not a number."},
            ]
        await pool.close()

    run(scenario())


def test_a_frame_without_a_prediction_refuses_the_video(tmp_path: Any) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for _ in range(3):
        writer.write(np.zeros((24, 32, 3), np.uint8))
    writer.release()

    async def scenario() -> None:
        launcher = Launcher()
        pool = new_pool(launcher)
        starting = asyncio.create_task(pool.start())
        await settle()
        launcher.all[0].ready(DESCRIBED)
        await starting
        body = to_json({"code": "bad_model", "message": "It isn't a number."})
        async with client_of(pool) as client:
            asking = asyncio.create_task(client.post("/predict", content=path.read_bytes()))
            replica: Any = launcher.all[0]
            done = 0
            while not asking.done():
                if replica.given:
                    batch_id = next(iter(replica.given))
                    del replica.given[batch_id]
                    bad = Answer(500, Media.PROBLEM, body)
                    good = Answer(200, Media.JSON, b'{"scores":[]}', rows=1)
                    replica._to.on_answers(replica, batch_id, [bad if done == 1 else good])
                    done += 1
                await asyncio.sleep(0.001)
            answer = asking.result()
            assert answer.status_code == 500
            assert answer.json()["detail"] == "Frame 1 of the video: It isn't a number."
        await pool.close()

    run(scenario())


def test_wishes_are_kept_for_others_but_not_without_end() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = new_pool(launcher)
        starting = asyncio.create_task(pool.start())
        await settle()
        launcher.all[0].ready(DESCRIBED)
        await starting
        async with client_of(pool) as client:
            for number in range(600):
                query = f"classes=car&conf=0.{number}&conf=1" if number % 2 else f"conf=0.{number}"
                answer = await client.post(f"/predict?{query}", content=b"")
                assert answer.status_code == (422 if number % 2 else 400)
            for _ in range(2):
                long = "&".join(["classes=car"] * 40)
                assert (await client.post(f"/predict?{long}", content=b"")).status_code == 400
        await pool.close()

    run(scenario())
