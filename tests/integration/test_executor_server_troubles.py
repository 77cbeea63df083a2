"""The executor over a server that is away, misbehaves, or isn't one."""

import asyncio
from typing import Any

import httpx
import pytest

from contracts.executor_contract import events_of, request
from scripted_server import Scripted, at_once, on
from visiondyno.errors import (
    RateLimited,
    SpecError,
    TransportDown,
    Unavailable,
)
from visiondyno.executors.server import ServerExecutor
from visiondyno.executors.workers import WorkerCommand


def test_no_server_is_asked_six_times_and_then_told() -> None:
    pauses: list[float] = []

    async def pause(pause_s: float) -> None:
        pauses.append(pause_s)

    async def scenario(executor: ServerExecutor) -> None:
        for asked in (executor.health(), events_of(executor, "job"), executor.cancel("job")):
            with pytest.raises(TransportDown, match="start one with 'dyno up'"):
                await asked

    on("http://127.0.0.1:1", scenario, sleep=pause)
    assert len(pauses) == 15
    assert all(0 <= pause_s <= 0.25 * 2**6 for pause_s in pauses)


def accepted() -> httpx.Response:
    return httpx.Response(200, json={"id": "theirs", "status": "IN_QUEUE"})


DOWN = {"code": "transport_down", "title": "Down", "detail": "The store is away."}
PASSING = [
    httpx.Response(503, headers={"Retry-After": "3"}, json=DOWN),
    httpx.Response(429, json={}),
    httpx.Response(502, text="<html>"),
    httpx.Response(500, json={"code": "internal", "title": "x", "detail": "A defect."}),
    httpx.ReadError("reset"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("cut"),
    httpx.ConnectError("refused"),
]


@pytest.mark.parametrize("trouble", PASSING, ids=range(len(PASSING)))
def test_what_may_pass_is_asked_again_with_the_same_key(trouble: Any) -> None:
    transport = Scripted(trouble, trouble, accepted())

    async def scenario(executor: ServerExecutor) -> str:
        return await executor.submit(request("echo", say="x"))

    assert on("http://server", scenario, transport=transport, sleep=at_once) == "theirs"
    keys = {asked.headers["Idempotency-Key"] for asked in transport.asked}
    assert (len(transport.asked), len(keys)) == (3, 1)


@pytest.mark.parametrize(
    ("trouble", "error", "says"),
    [
        (PASSING[0], TransportDown, "The store is away"),
        (PASSING[1], RateLimited, "fewer requests"),
        (PASSING[2], TransportDown, "answers 502; look at its log"),
        (PASSING[3], TransportDown, "answers 500: A defect"),
        (PASSING[4], TransportDown, "broke the connection off"),
        (PASSING[5], TransportDown, "didn't answer in time"),
    ],
    ids=range(6),
)
def test_what_does_not_pass_is_told(trouble: Any, error: type[Exception], says: str) -> None:
    transport = Scripted(trouble)

    async def scenario(executor: ServerExecutor) -> None:
        with pytest.raises(error, match=says):
            await executor.cancel("job")
        with pytest.raises(error, match=says):
            await events_of(executor, "job")

    on("http://server", scenario, transport=transport, sleep=at_once)
    assert len(transport.asked) == 12


def test_a_server_that_asks_for_a_long_wait_is_not_waited_for() -> None:
    transport = Scripted(httpx.Response(429, headers={"Retry-After": "3600"}, json={}))

    async def scenario(executor: ServerExecutor) -> float | None:
        with pytest.raises(RateLimited) as caught:
            await executor.health()
        return caught.value.retry_after_s

    assert on("http://server", scenario, transport=transport) == 3600
    assert len(transport.asked) == 1


def test_a_restart_in_doubt_is_not_told_twice() -> None:
    transport = Scripted(httpx.ReadTimeout("slow"))

    async def scenario(executor: ServerExecutor) -> None:
        with pytest.raises(TransportDown, match="isn't known"):
            await executor.command_worker("host-1", WorkerCommand.RESTART)

    on("http://server", scenario, transport=transport, sleep=at_once)
    assert len(transport.asked) == 1


def test_a_redirect_is_not_followed_with_the_key() -> None:
    elsewhere = httpx.Response(307, headers={"Location": "http://elsewhere/v2/default/run"})
    transport = Scripted(elsewhere)

    async def scenario(executor: ServerExecutor) -> None:
        with pytest.raises(Unavailable, match="final address"):
            await executor.submit(request("echo", say="x"))
        with pytest.raises(Unavailable, match="final address"):
            await executor.known(["job"])

    on("http://server", scenario, transport=transport, api_key="secret-1")
    assert {asked.url.host for asked in transport.asked} == {"server"}


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={}),
        httpx.Response(404, text="<html>"),
        httpx.Response(200, json={"jobs": {}, "workers": [3], "id": 7}),
    ],
    ids=range(5),
)
def test_something_else_than_a_server_is_told(answer: httpx.Response) -> None:
    async def scenario(executor: ServerExecutor) -> None:
        for asked in (
            executor.submit(request("echo", say="x")),
            executor.health(),
            executor.workers(),
        ):
            with pytest.raises(Unavailable, match="check"):
                await asked

    on("http://server", scenario, transport=Scripted(answer), sleep=at_once)


def test_events_that_end_before_the_job_are_told() -> None:
    quiet = Scripted(httpx.Response(200, text=": ping\n\n"))
    foreign = Scripted(httpx.Response(200, text='data: {"number": "x"}\n\n'))

    async def scenario(executor: ServerExecutor) -> None:
        with pytest.raises(TransportDown, match="again and again"):
            await events_of(executor, "job")

    async def other(executor: ServerExecutor) -> None:
        with pytest.raises(Unavailable, match="isn't one"):
            await events_of(executor, "job")

    on("http://server", scenario, transport=quiet, sleep=at_once)
    on("http://server", other, transport=foreign, sleep=at_once)


def test_nothing_is_asked_after_close() -> None:
    async def main() -> None:
        executor = ServerExecutor("http://127.0.0.1:1")
        await executor.close()
        for asked in (executor.health(), executor.known(["x"]), events_of(executor, "x")):
            with pytest.raises(SpecError, match="closed"):
                await asked

    asyncio.run(main())
