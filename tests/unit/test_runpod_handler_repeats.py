"""A job that RunPod delivers again while it runs: it runs once, and is stopped whole."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from visiondyno.executors.worker_pipe import WorkerPipe
from visiondyno.runpod_handler.child import Children
from visiondyno.runpod_handler.concurrency import Concurrency
from visiondyno.runpod_handler.gate import Gate
from visiondyno.runpod_handler.handler import JobHandler
from visiondyno.runpod_handler.progress import Json, OpenStream, Post
from worker_entries import ENVIRON

ENDLESS: Json = {"id": "a-job", "input": {"operation": "until stopped"}}


class Told:
    """What the streams of a handler's jobs were given."""

    def __init__(self) -> None:
        self.items: list[Json] = []
        self.changed = asyncio.Event()

    def open(self, _: Json) -> OpenStream:
        @asynccontextmanager
        async def opened() -> AsyncGenerator[Post]:
            async def post(item: Json) -> None:
                self.items.append(item)
                self.changed.set()

            yield post

        return opened


def with_handler(scenario: Callable[[JobHandler, Told], Awaitable[Any]]) -> None:
    async def main() -> None:
        children, told = Children(2, lambda: WorkerPipe("runpod_operations:run", ENVIRON)), Told()
        children.start()
        try:
            async with asyncio.timeout(60):
                await scenario(JobHandler(children, Gate(2), Concurrency(2), told.open), told)
        finally:
            await children.stop()

    asyncio.run(main())


def test_both_deliveries_have_the_one_answer_and_the_next_one_runs_anew() -> None:
    async def scenario(handler: JobHandler, told: Told) -> None:
        job: Json = {"id": "a-job", "input": {"operation": "nap", "seconds": 0.2, "number": 1}}
        first, second = await asyncio.gather(handler.handle(job), handler.handle(dict(job)))
        assert first == second
        assert len(told.items) == 1
        again = await handler.handle(job)
        assert again["from_s"] > first["to_s"]
        nameless = [handler.handle({"input": job["input"]}) for _ in range(2)]
        ran = await asyncio.gather(*nameless)
        assert ran[0] != ran[1]

    with_handler(scenario)


def test_a_failure_is_the_answer_to_both() -> None:
    async def scenario(handler: JobHandler, _: Told) -> None:
        job: Json = {"id": "a-job", "input": {"operation": "crash"}}
        first, second = await asyncio.gather(handler.handle(job), handler.handle(job))
        assert "ZeroDivisionError" in first["error"]
        assert first == second

    with_handler(scenario)


@pytest.mark.parametrize("stopped", [0, 1], ids=["first", "second"])
def test_stopping_either_delivery_stops_the_job(stopped: int) -> None:
    async def scenario(handler: JobHandler, told: Told) -> None:
        calls = [asyncio.create_task(handler.handle(ENDLESS)) for _ in range(2)]
        await told.changed.wait()
        calls[stopped].cancel()
        await asyncio.wait(calls)
        assert all(call.cancelled() for call in calls)
        nap: Json = {"operation": "nap", "seconds": 0.0, "number": 2}
        answer = await handler.handle({"id": "a-job", "input": nap})
        assert answer["number"] == 2

    with_handler(scenario)
