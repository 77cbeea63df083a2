"""A stand-in for RunPod's own service: answers in its shapes, scripted request by request."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from contracts.executor_contract import request
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.job import JobRequest

CLOUD = "https://api.runpod.ai/v2/abc123"
QUEUED = {"id": "j-u1", "status": "IN_QUEUE"}
RUNNING = {"id": "j-u1", "status": "IN_PROGRESS", "delayTime": 12, "workerId": "w1"}
DONE = {**RUNNING, "status": "COMPLETED", "executionTime": 34}
TAKEN = QUEUED
REFUSED = httpx.ConnectError("refused")


def on(url: str, scenario: Callable[[RunPodExecutor], Awaitable[Any]], **options: Any) -> Any:
    """What the scenario gives with an executor on the endpoint at `url`."""

    async def main() -> Any:
        async with RunPodExecutor(url, **options) as executor:
            return await asyncio.wait_for(scenario(executor), timeout=60)

    return asyncio.run(main())


async def at_once(pause_s: float) -> None:
    """No pause but for others' turns; minutes don't pass."""
    await asyncio.sleep(0 if pause_s < 60 else pause_s)


def job() -> JobRequest:
    """One that says "x"."""
    return request("echo", say="x")


async def fails(question: Awaitable[Any], kind: type[Exception]) -> Exception:
    """The error, of exactly this kind, that the question ends with."""
    with pytest.raises(kind) as caught:
        await question
    assert type(caught.value) is kind
    return caught.value


class Endpoint(httpx.AsyncBaseTransport):
    """Answers `/status`, `/stream` and others with what comes next for each; the last for ever.

    An event as an answer is waited for, and the next one follows.
    """

    def __init__(
        self,
        other: httpx.Response | Exception | None = None,
        *,
        status: list[Any] | None = None,
        stream: list[Any] | None = None,
        **others: list[Any],
    ) -> None:
        self.other = other
        self.next = {
            **others,
            "status": status or [],
            "stream": stream or [{"status": "", "stream": []}],
        }
        self.asked: list[httpx.Request] = []

    def paths(self) -> list[str]:
        return [asked.url.path.split("/")[3] for asked in self.asked]

    async def handle_async_request(self, asked: httpx.Request) -> httpx.Response:
        self.asked.append(asked)
        await asyncio.sleep(0)
        answers = self.next.get(self.paths()[-1])
        if answers is None:
            answer: Any = self.other
        else:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, asyncio.Event):
                await answer.wait()
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return httpx.Response(
                answer.status_code, headers=answer.headers, content=answer.content
            )
        return httpx.Response(200, json=answer)
