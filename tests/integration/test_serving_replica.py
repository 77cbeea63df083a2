"""Replicas as real processes: they load, answer, refuse what is bad, and end."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from visiondyno.job import JobError
from visiondyno.serving.replicas import Readiness, Replica
from visiondyno.serving.wire import Answer, Item, Kind, Media, frame

MODEL = "visiondyno:street-n"


def jpeg(seed: int = 0, size: tuple[int, int] = (120, 160)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


class Told:
    """What a replica told, and waiting for it."""

    def __init__(self) -> None:
        self.readiness: Readiness | None = None
        self.answers: dict[int, list[Answer]] = {}
        self.gone: tuple[str, JobError | None] | None = None
        self._news = asyncio.Event()

    def on_ready(self, replica: Replica, readiness: Readiness) -> None:
        self.readiness = readiness
        self._news.set()

    def on_answers(self, replica: Replica, batch_id: int, answers: list[Answer]) -> None:
        assert batch_id not in self.answers
        self.answers[batch_id] = answers
        self._news.set()

    def on_gone(self, replica: Replica, how: str, failure: JobError | None) -> None:
        assert self.gone is None
        self.gone = how, failure
        self._news.set()

    async def until(self, reached: Callable[[], Any]) -> None:
        async with asyncio.timeout(60):
            while not reached():
                self._news.clear()
                await self._news.wait()


async def launched(told: Told, model: str = MODEL, **config: Any) -> Replica:
    asked = {"model": model, "device": "cpu", "threads": 1, "card": None, "max_batch": 4}
    replica = Replica("1", {**asked, **config}, dict(os.environ), told)
    await replica.connect()
    return replica


async def ended(told: Told, replica: Replica) -> tuple[str, JobError | None]:
    await told.until(lambda: told.gone)
    assert told.gone is not None
    assert not psutil.pid_exists(replica.pid)
    return told.gone


def test_a_replica_tells_its_start_answers_batches_in_order_and_ends_when_asked() -> None:
    async def scenario() -> None:
        told = Told()
        replica = await launched(told)
        await told.until(lambda: told.readiness)
        ready = told.readiness
        assert ready is not None
        assert ready.model["card"]["task"] == "detection"
        parts = (ready.process_ms, ready.load_ms, ready.first_inference_ms)
        assert all(one > 0 for one in parts)
        assert sum(parts) <= ready.total_ms
        replica.send(1, [Item(Kind.IMAGE, jpeg(1), {"conf": 0.0}), Item(Kind.IMAGE, b"no image")])
        replica.send(2, [Item(Kind.IMAGE, jpeg(2), {"format": "png"})])
        pixels = np.zeros((20, 30, 3), np.uint8)
        sizes = {"height": 20, "width": 30}
        replica.send(3, [Item(Kind.PIXELS, pixels.tobytes(), sizes)])
        replica.send(4, [Item(Kind.PIXELS, b"short", sizes)])
        await told.until(lambda: len(told.answers) == 4)
        good, bad = told.answers[1]
        assert (good.status, good.media) == (200, Media.JSON)
        boxes = json.loads(good.body)
        assert (boxes["width"], boxes["height"]) == (160, 120)
        assert len(boxes["boxes_xyxy"]) == len(boxes["scores"]) == len(boxes["classes"])
        assert good.stages.inference_ms > 0
        assert (bad.status, bad.media) == (422, Media.PROBLEM)
        assert "JPEG" in json.loads(bad.body)["message"]
        (drawn,) = told.answers[2]
        assert drawn.media is Media.PNG
        image = cv2.imdecode(np.frombuffer(drawn.body, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape == (120, 160, 3)
        assert told.answers[3][0].status == 200
        assert told.answers[4][0].status == 422
        replica.end()
        assert await ended(told, replica) == ("ended with exit code 0", None)

    asyncio.run(scenario())


def test_frames_larger_than_every_buffer_arrive() -> None:
    async def scenario() -> None:
        told = Told()
        replica = await launched(told)
        await told.until(lambda: told.readiness)
        large = [jpeg(seed, (2000, 2000)) for seed in range(3)]
        assert sum(map(len, large)) > 5_000_000
        replica.send(1, [Item(Kind.IMAGE, one) for one in large])
        await told.until(lambda: told.answers)
        assert [json.loads(one.body)["width"] for one in told.answers[1]] == [2000] * 3
        replica.end()
        await ended(told, replica)

    asyncio.run(scenario())


@pytest.mark.parametrize("wrong", ["no-such-file.onnx", "visiondyno:nothing", "damaged.onnx"])
def test_a_model_that_cannot_be_loaded_is_told_with_its_reason(wrong: str, tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"not a model")
    model = str(tmp_path / wrong) if wrong.endswith(".onnx") else wrong

    async def scenario() -> None:
        told = Told()
        replica = await launched(told, model)
        how, failure = await ended(told, replica)
        assert how == "ended with exit code 1"
        assert failure is not None
        assert told.readiness is None
        assert failure.code == "bad_model"
        assert wrong.removeprefix("visiondyno:") in failure.message

    asyncio.run(scenario())


def test_a_killed_replica_is_told_of() -> None:
    async def scenario() -> None:
        told = Told()
        replica = await launched(told)
        await told.until(lambda: told.readiness)
        assert not replica.is_lost
        replica.kill()
        assert await ended(told, replica) == ("was killed by SIGKILL", None)
        assert replica.is_lost
        replica.kill()  # twice does no harm

    asyncio.run(scenario())


def test_a_stopped_replica_is_killed_when_it_is_to_end() -> None:
    async def scenario() -> None:
        told = Told()
        replica = await launched(told)
        await told.until(lambda: told.readiness)
        os.kill(replica.pid, signal.SIGSTOP)
        replica.end()
        assert await ended(told, replica) == ("was killed by SIGKILL", None)

    asyncio.run(scenario())


def test_ctrl_c_and_sigterm_leave_a_replica_to_the_front() -> None:
    async def scenario() -> None:
        told = Told()
        replica = await launched(told)
        await told.until(lambda: told.readiness)
        os.kill(replica.pid, signal.SIGINT)
        os.kill(replica.pid, signal.SIGTERM)
        replica.send(1, [Item(Kind.IMAGE, jpeg())])
        await told.until(lambda: told.answers)
        assert told.answers[1][0].status == 200
        replica.end()
        await ended(told, replica)

    asyncio.run(scenario())


def test_a_replica_that_hangs_ends_whatever_is_still_to_be_written_to_it() -> None:
    async def scenario() -> None:
        told = Told()
        replica = await launched(told)
        await told.until(lambda: told.readiness)
        os.kill(replica.pid, signal.SIGSTOP)
        replica.send(1, [Item(Kind.IMAGE, bytes(20_000_000), {})])  # more than a socket holds
        replica.end()
        how, failure = await ended(told, replica)
        assert (how, failure) == ("was killed by SIGKILL", None)

    asyncio.run(scenario())


@pytest.mark.parametrize("model", ["fake:detection", "no-such.onnx"], ids=["good", "bad"])
def test_a_replica_whose_front_is_stopped_while_it_loads_ends_quietly(model: str) -> None:
    ours, theirs = socket.socketpair()
    with subprocess.Popen(
        [sys.executable, "-m", "visiondyno.serving.replica", str(theirs.fileno())],
        pass_fds=(theirs.fileno(),),
        stderr=subprocess.PIPE,
    ) as process:
        theirs.close()
        config = {"model": model, "device": "cpu", "threads": 1, "card": None, "max_batch": 1}
        ours.sendall(frame(b"S", {**config, "started_ns": 0}))
        ours.close()
        _, printed = process.communicate(timeout=60)
    assert (process.returncode, printed) == (0, b"")
