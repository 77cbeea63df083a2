"""Zip files over a pool whose replicas a test answers for: what waits, and who isn't waited for."""

import asyncio
import gc
import json
import weakref
from typing import Any

import cv2
import numpy as np
import pytest
from coroutines import run
from prometheus_client import CollectorRegistry
from starlette.requests import ClientDisconnect

from archives import zipped
from serving_stand_ins import Launcher, ask, new_pool, settle, started_pool
from visiondyno.errors import ChildDied, NotReady, RateLimited, UnsupportedMedia
from visiondyno.serving.archive_answers import answer_in
from visiondyno.serving.archives import PREDICTED_AT_ONCE, Archives
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.inference import Inference
from visiondyno.serving.metrics import ServingMetrics
from visiondyno.serving.pool import Pool
from visiondyno.serving.spooled import SpoolRoom
from visiondyno.telemetry.traces import Tracing

PNG = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
ROOM = SpoolRoom("zip file", 10**6, "--max-zip-mb")


class Reader:
    """Who an answer is sent to; `reads` is cleared while it doesn't."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def __call__(self, message: Any) -> None:
        await self.reads.wait()
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(one.get("body", b"") for one in self.sent)


def archives_over(pool: Pool, **given: Any) -> Archives:
    config = ServingConfig(model="m", _env_file=None, **given)
    metrics = ServingMetrics(CollectorRegistry(), "m")
    return Archives(Inference(pool, metrics, Tracing(None)), config)


async def answer(archives: Archives, send: Any, count: int) -> None:
    with ROOM.take() as file:
        file.write(zipped({f"{n}.png": PNG + bytes([n]) for n in range(count)}))
        file.flush()
        await archives.answer(file, answer_in("ndjson", b'{"model":"m",'), {}, send)


async def until(ready: Any) -> None:
    async with asyncio.timeout(60):
        while not ready():
            await asyncio.sleep(0.001)


def test_few_images_are_with_the_replicas_and_the_answer_is_not_kept() -> None:
    async def scenario() -> None:
        launcher, send = Launcher(), Reader()
        pool = await started_pool(launcher, queue=8)
        (replica,) = launcher.all
        task = asyncio.create_task(answer(archives_over(pool, queue=8), send, 12))
        await until(lambda: pool.depth + pool.in_flight == 2)
        waited, seen = 0, []
        while not task.done():
            waited = max(waited, pool.depth + pool.in_flight)
            if replica.given:
                seen += [one[-1] for one in replica.answer()]
                if len(seen) == 6:
                    await until(lambda: len(send.sent) >= 2)  # before the rest is predicted
            await asyncio.sleep(0.001)
        await task
        assert waited == 2  # a quarter of the queue
        assert seen == list(range(12))
        assert [one["more_body"] for one in send.sent[1:]] == [True] * 13 + [False]
        for number, message in enumerate(send.sent[2:-1]):
            assert message["body"].startswith(b'{"name":"%d.png",' % number)
        await pool.close()

    run(scenario())


def test_a_full_queue_refuses_it_whole_at_first_and_one_image_later() -> None:
    async def scenario() -> None:
        launcher, send = Launcher(), Reader()
        pool = await started_pool(launcher, queue=4, time_limit_s=60)
        (replica,) = launcher.all
        archives = archives_over(pool, queue=4, time_limit_s=0.05)
        others = ask(pool, *"abcdef")
        await settle()
        with pytest.raises(RateLimited):
            await answer(archives, send, 2)
        assert send.sent == []
        while replica.given:
            replica.answer()
            await settle()
        await asyncio.gather(*others)
        task = asyncio.create_task(answer(archives, send, 2))
        await until(lambda: replica.given)
        others = ask(pool, *"abcdef")
        await settle()
        replica.answer()
        await until(task.done)
        last = json.loads(send.body.splitlines()[-1])
        assert (last["name"], last["error"]["code"]) == ("1.png", "rate_limited")
        while replica.given:
            replica.answer()
            await settle()
        await asyncio.gather(*others)
        await pool.close()

    run(scenario())


def test_an_image_of_which_replicas_die_has_an_error_and_the_next_one_its_answer() -> None:
    async def scenario() -> None:
        launcher, send = Launcher(), Reader()
        pool = await started_pool(launcher, least=2, queue=8)
        task = asyncio.create_task(answer(archives_over(pool, queue=4), send, 2))
        for _ in range(2):
            await until(lambda: any(one.given for one in launcher.alive))
            next(one for one in launcher.alive if one.given).die()
            await settle()
        await until(lambda: launcher.alive)
        for one in launcher.alive:
            one.ready()
        while not task.done():
            for one in launcher.alive:
                if one.given:
                    one.answer()
            await asyncio.sleep(0.001)
        first, second = send.body.splitlines()[1:3]
        assert json.loads(first)["error"]["code"] == ChildDied.code
        assert second.startswith(b'{"name":"1.png",')
        await pool.close()

    run(scenario())


def test_who_does_not_read_is_not_waited_for() -> None:
    async def scenario() -> None:
        launcher, send = Launcher(), Reader()
        pool = await started_pool(launcher)
        (replica,) = launcher.all
        send.reads.clear()
        task = asyncio.create_task(answer(archives_over(pool, time_limit_s=0.05), send, 1))
        await until(lambda: replica.given)
        replica.answer()
        await asyncio.wait([task])
        assert isinstance(task.exception(), ClientDisconnect)
        await pool.close()

    run(scenario())


def test_only_so_many_are_predicted_at_a_time() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher)
        archives = archives_over(pool, time_limit_s=0.2)
        begun = [
            asyncio.create_task(answer(archives, Reader(), 1)) for _ in range(PREDICTED_AT_ONCE)
        ]
        await until(lambda: pool.depth + pool.in_flight == PREDICTED_AT_ONCE)
        with pytest.raises(RateLimited, match=f"{PREDICTED_AT_ONCE} other zip files"):
            await answer(archives, Reader(), 1)
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
        await pool.close()

    run(scenario())


def test_a_stopping_server_says_so() -> None:
    async def scenario() -> None:
        pool = new_pool(Launcher())
        await pool.close()
        with pytest.raises(NotReady):
            await answer(archives_over(pool), Reader(), 2)

    run(scenario())


def test_what_is_no_image_is_let_go_of() -> None:
    class Archive:
        """In its reader's frame, where the image is too."""

        names = ("a.png",)

        def read(self, index: int) -> bytes:
            return b"no image"

    async def scenario() -> None:
        pool = new_pool(Launcher())
        archives = archives_over(pool)
        archive: Any = Archive()
        watched = weakref.ref(archive)
        gc.disable()  # it comes late where few objects are large
        try:
            found = await asyncio.to_thread(archives._read, archive, 0)
            assert isinstance(found, UnsupportedMedia)
            del found, archive
            assert watched() is None
        finally:
            gc.enable()
        await pool.close()

    run(scenario())
