"""What of RunPod's endpoint is asked again, waits for its quota, or isn't asked at all."""

import asyncio
import socket
from typing import Any

import httpx
import pytest

from contracts.executor_contract import (
    events_of,
    run_test_operation,
)
from live_api import Clock
from runpod_endpoint import (
    CLOUD,
    REFUSED,
    TAKEN,
    Endpoint,
    at_once,
    fails,
    job,
    on,
)
from visiondyno.errors import (
    Forbidden,
    NotFound,
    RateLimited,
    SpecError,
    TransportDown,
    Unauthorized,
)
from visiondyno.executors.breaker import Breaker, BreakerOpen, Unreachable
from visiondyno.executors.fallback import FallbackExecutor
from visiondyno.executors.http_api import Guards
from visiondyno.executors.inline import InlineExecutor
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.executors.throttle import Quota, Throttle
from visiondyno.job import JobState


@pytest.mark.parametrize(
    ("answers", "kind", "asked"),
    [
        ([REFUSED], Unreachable, 6),
        ([httpx.Response(502)], TransportDown, 1),
        ([REFUSED, httpx.ReadTimeout("slow")], TransportDown, 2),
        ([httpx.Response(503, headers={"Retry-After": "120"})], TransportDown, 1),
        ([httpx.Response(429, headers={"Retry-After": "120"})], RateLimited, 1),
    ],
    ids=range(5),
)
def test_only_what_certainly_did_not_arrive_is_unreachable(
    answers: list[Any], kind: type[Exception], asked: int
) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        await fails(executor.submit(job()), kind)

    endpoint = Endpoint(run=answers)
    on(CLOUD, scenario, transport=endpoint, sleep=at_once)
    assert endpoint.paths() == ["run"] * asked


def test_a_question_that_may_have_arrived_once_is_not_unreachable() -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        await fails(executor.health(), TransportDown)

    endpoint = Endpoint(health=[httpx.ReadTimeout("slow"), REFUSED])
    on(CLOUD, scenario, transport=endpoint, sleep=at_once)
    assert endpoint.paths() == ["health"] * 6


HEALTHY = {
    "jobs": {"inQueue": 0, "inProgress": 0, "completed": 0, "failed": 0},
    "workers": {"idle": 0, "running": 0},
}


def test_an_endpoint_that_fails_again_and_again_gets_no_new_jobs_until_it_is_well() -> None:
    now = Clock()
    running = {"id": "j-u1", "status": "IN_PROGRESS"}
    endpoint = Endpoint(
        run=[*[httpx.Response(502)] * 3, httpx.Response(502), TAKEN],
        health=[httpx.Response(502), HEALTHY],
        status=[running],
        cancel=[TAKEN],
    )

    async def scenario(executor: RunPodExecutor) -> None:
        for _ in range(3):
            await fails(executor.submit(job()), TransportDown)
        refused = await fails(executor.submit(job()), BreakerOpen)
        assert "502" in str(refused)
        assert executor.breaker.reading().state == "open"
        assert endpoint.paths() == ["run"] * 3
        now.offset_s += 100
        await fails(executor.submit(job()), Unreachable)  # its health is asked for, once
        now.offset_s += 100
        await fails(executor.submit(job()), TransportDown)  # healthy, and takes no job
        await fails(executor.submit(job()), BreakerOpen)
        assert endpoint.paths()[3:] == ["health", "health", "run"]
        now.offset_s += 100
        assert await executor.submit(job()) == "j-u1"
        assert executor.breaker.reading().state == "closed"

    on(CLOUD, scenario, transport=endpoint, sleep=at_once, clock=now.over(lambda: 0.0))
    assert endpoint.paths()[6:] == ["health", "run", "cancel"]


def test_a_key_that_was_withdrawn_meanwhile_is_said_by_the_request_that_tries() -> None:
    now = Clock()

    async def scenario(executor: RunPodExecutor) -> None:
        for _ in range(3):
            await fails(executor.submit(job()), TransportDown)
        for _ in range(2):
            now.offset_s += 100
            await fails(executor.submit(job()), Unauthorized)
            assert executor.breaker.reading().state == "open"

    endpoint = Endpoint(run=[httpx.Response(502)], health=[httpx.Response(401)])
    on(CLOUD, scenario, transport=endpoint, sleep=at_once, clock=now.over(lambda: 0.0))
    assert endpoint.paths() == ["run"] * 3 + ["health"] * 2


def test_jobs_that_are_there_are_asked_about_while_the_breaker_is_open() -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        for _ in range(3):
            await fails(executor.submit(job()), TransportDown)
        await fails(executor.submit(job()), BreakerOpen)
        assert await executor.known(["nope"]) == set()  # says nothing of the endpoint
        assert executor.breaker.reading().state == "open"
        assert await executor.known(["j-u1"]) == {"j-u1"}
        assert executor.breaker.reading().state == "closed"

    answers = [httpx.Response(404), {"id": "j-u1", "status": "IN_QUEUE"}]
    endpoint = Endpoint(run=[httpx.Response(502)], status=answers)
    on(CLOUD, scenario, transport=endpoint, sleep=at_once)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(401), Unauthorized),
        (httpx.Response(403), Forbidden),
        (httpx.Response(404), NotFound),
        (httpx.Response(400), SpecError),
        (httpx.Response(429), RateLimited),
    ],
    ids=["401", "403", "404", "400", "429"],
)
def test_who_asks_wrongly_is_told_so_each_time_and_opens_no_breaker(
    answer: httpx.Response, kind: type[Exception]
) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        for _ in range(5):
            await fails(executor.submit(job()), kind)
        assert executor.breaker.reading().state == "closed"

    on(CLOUD, scenario, transport=Endpoint(run=[answer]), sleep=at_once)


def test_requests_wait_for_their_quota() -> None:
    now = Clock()
    pauses: list[float] = []

    async def pause(pause_s: float) -> None:
        pauses.append(pause_s)
        now.offset_s += pause_s

    clock = now.over(lambda: 0.0)
    throttle = Throttle({"run": Quota(2)}, clock=clock, sleep=pause)
    guards = Guards(throttle, Breaker(CLOUD, clock=clock))

    async def scenario(executor: RunPodExecutor) -> None:
        for _ in range(5):
            await executor.submit(job())

    endpoint = Endpoint(run=[TAKEN], cancel=[TAKEN])
    on(CLOUD, scenario, transport=endpoint, guards=guards, sleep=at_once, clock=clock)
    assert pauses == pytest.approx([10.0, 10.0])


def test_what_cannot_be_reached_runs_here_instead() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def main() -> None:
        primary = RunPodExecutor(f"http://127.0.0.1:{port}/v2/default", sleep=at_once)
        make_inline = lambda: InlineExecutor(run_test_operation)  # noqa: E731 - once, by name
        async with FallbackExecutor(primary, make_inline) as executor:
            for number in range(4):
                job_id = await executor.submit(job(), f"job.{number}")
                events = await events_of(executor, job_id)
                assert events[-1].state == JobState.COMPLETED
                assert events[0].progress is not None
                assert str(port) in events[0].progress["fallback_reason"]
            assert primary.breaker.reading().state == "open"
            assert "failed 3 times" in (executor.fallback_reason("job.3") or "")

    asyncio.run(main())
