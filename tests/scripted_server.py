"""A stand-in for a server, scripted answer by answer, and an executor on it or on a real one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from visiondyno.executors.server import ServerExecutor


def on(url: str, scenario: Callable[[ServerExecutor], Awaitable[Any]], **options: Any) -> Any:
    """What the scenario gives with an executor on the server at `url`."""

    async def main() -> Any:
        async with ServerExecutor(url, **options) as executor:
            return await asyncio.wait_for(scenario(executor), timeout=60)

    return asyncio.run(main())


async def at_once(_: float) -> None:
    """No pause."""


class Scripted(httpx.AsyncBaseTransport):
    """Gives its answers one after another; the last one for ever."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    async def handle_async_request(self, asked: httpx.Request) -> httpx.Response:
        self.asked.append(asked)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
