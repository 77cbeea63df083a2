"""The executor over RunPod's job API keeps the executor contract, against a live server's /v2.

What RunPod's own service answers and that server doesn't is scripted in its shapes.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.executor_contract import (
    ExecutorContract,
    events_of,
    request,
    started,
)
from live_api import Clock, LiveApi
from runpod_endpoint import CLOUD, Endpoint, at_once, on
from visiondyno.errors import (
    Forbidden,
    NotFound,
    RateLimited,
    SpecError,
    TooLarge,
    TransportDown,
    Unauthorized,
    Unavailable,
)
from visiondyno.executors.base import JobLost
from visiondyno.executors.runpod import MAX_REQUEST_BYTES, RunPodExecutor
from visiondyno.executors.runpod_looks import KEPT_S
from visiondyno.job import JobEvent, JobRequest, JobState, Policy
from visiondyno.places import Place, make_blobs_at, make_executor_at
from visiondyno.settings import Settings


class TestRunPodExecutor(ExecutorContract):
    place_is_by_arrival = "RunPod's job API has no time of submission"

    @pytest.fixture(autouse=True)
    def an_endpoint(self, tmp_path: Path) -> Iterator[None]:
        with LiveApi(tmp_path, rate_limit_per_minute=0) as live:

            def make() -> RunPodExecutor:
                return RunPodExecutor(f"{live.url}/v2/default")

            type(self).make_executor = staticmethod(make)
            yield


# ---- against a live server


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[LiveApi]:
    home = tmp_path_factory.mktemp("home")
    clocks = {"clock": clock.over(time.time)}
    with LiveApi(home, clocks=clocks, rate_limit_per_minute=0) as live:
        yield live


@pytest.fixture(autouse=True)
def today(clock: Clock) -> None:
    clock.offset_s = 0.0


def test_a_long_stream_comes_in_order_and_whole(api: LiveApi) -> None:
    async def scenario(executor: RunPodExecutor) -> list[JobEvent]:
        return await events_of(
            executor, await executor.submit(request("echo", say="x", steps=2500))
        )

    events = on(f"{api.url}/v2/default/", scenario)
    assert [event.progress["done"] for event in events if event.progress] == list(range(2500))
    assert [event.number for event in events] == list(range(1, 2504))


def test_a_watcher_that_leaves_takes_nothing_away(api: LiveApi) -> None:
    async def scenario(executor: RunPodExecutor) -> list[JobEvent]:
        job_id = await executor.submit(request("echo", say="x", steps=300))
        while True:
            watching = asyncio.create_task(events_of(executor, job_id))
            await asyncio.sleep(0.001)
            if watching.done():
                return watching.result()
            watching.cancel()
            await asyncio.wait([watching])

    events = on(f"{api.url}/v2/default", scenario, sleep=at_once)
    assert [event.progress["done"] for event in events if event.progress] == list(range(300))
    assert events[-1].state == JobState.COMPLETED


def test_what_the_endpoint_forgot_is_a_lost_job(api: LiveApi, clock: Clock) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        job_id = await executor.submit(request("echo", say="x", steps=2))
        every = await events_of(executor, job_id)
        clock.offset_s = KEPT_S + 60
        assert await events_of(executor, job_id) == every  # it is kept here for longer
        assert await executor.known([job_id]) == {job_id}
        now.offset_s = KEPT_S
        with pytest.raises(JobLost, match="forgot"):
            await events_of(executor, job_id)
        with pytest.raises(JobLost, match="forgot"):
            await executor.cancel(job_id)
        assert await executor.known([job_id]) == set()

    now = Clock()
    on(f"{api.url}/v2/default", scenario, clock=now.over(lambda: 0.0))


def test_another_executor_sees_how_a_job_ended(api: LiveApi) -> None:
    async def main() -> None:
        async with RunPodExecutor(f"{api.url}/v2/default") as first:
            job_id = await first.submit(request("echo", say="x", steps=2))
            seen = await events_of(first, job_id)
        async with RunPodExecutor(f"{api.url}/v2/default") as second:
            late = await events_of(second, job_id)
        assert [event.state for event in late] == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
        assert late[-1].answer == seen[-1].answer

    asyncio.run(main())


def test_policy_webhook_and_key_are_sent(api: LiveApi) -> None:
    transport = Endpoint(httpx.Response(200, json={"id": "j-u1", "status": "IN_QUEUE"}))
    sent = JobRequest(
        input={"operation": "echo", "nothing": None},
        policy=Policy(execution_timeout_ms=60_000, low_priority=True),
        webhook="https://example.org/done",
    )

    async def scenario(executor: RunPodExecutor) -> str:
        return await executor.submit(sent)

    assert on(CLOUD + "/run", scenario, api_key="rpa_1", transport=transport) == "j-u1"
    asked = transport.asked[0]
    assert str(asked.url) == CLOUD + "/run"
    assert asked.headers["Authorization"] == "Bearer rpa_1"
    assert json.loads(asked.content) == {
        "input": {"operation": "echo", "nothing": None},
        "policy": {"executionTimeout": 60_000, "lowPriority": True},
        "webhook": "https://example.org/done",
    }


def test_a_place_named_by_an_endpoints_url_has_its_jobs(api: LiveApi, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, _env_file=None)
    place = f"{api.url}/v2/default"

    async def main() -> None:
        async with make_executor_at(Place(place), settings) as executor:
            assert isinstance(executor, RunPodExecutor)
            events = await events_of(executor, await executor.submit(request("echo", say="x")))
            assert events[-1].state == JobState.COMPLETED
        unset = make_blobs_at(Place(CLOUD), settings)
        for use in (unset.has("0" * 64), unset.size("0" * 64), unset.put(unset.open("0" * 64))):
            with pytest.raises(SpecError, match="VISIONDYNO_BLOBS_URL"):
                await use
        with pytest.raises(SpecError, match="VISIONDYNO_BLOBS_URL"):
            await unset.local_path("0" * 64, tmp_path)
        with pytest.raises(SpecError, match="VISIONDYNO_BLOBS_URL"):
            await anext(unset.open("0" * 64))
        assert str(unset) == "no blob store"
        shared = settings.model_copy(update={"blobs_url": (tmp_path / "shared").as_uri()})
        assert not await make_blobs_at(Place(CLOUD), shared).has("0" * 64)

    asyncio.run(main())


def test_closing_ends_the_watches(api: LiveApi) -> None:
    async def main() -> None:
        executor = RunPodExecutor(f"{api.url}/v2/default")
        job_id = await executor.submit(request("until stopped"))
        await started(executor, job_id)
        watching = asyncio.create_task(events_of(executor, job_id))
        await asyncio.sleep(0.01)
        await executor.close()
        with pytest.raises(SpecError, match="closed"):
            await watching
        async with RunPodExecutor(f"{api.url}/v2/default") as another:
            await another.cancel(job_id)

    asyncio.run(main())


# ---- what RunPod takes and refuses


def test_a_payload_that_is_too_large_is_not_sent() -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        with pytest.raises(TooLarge, match="VISIONDYNO_BLOBS_URL"):
            await executor.submit(request("echo", say="x" * MAX_REQUEST_BYTES))

    endpoint = Endpoint()
    on(CLOUD, scenario, transport=endpoint)
    assert endpoint.asked == []


def test_a_submission_in_doubt_is_not_made_again() -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        with pytest.raises(TransportDown, match="isn't known"):
            await executor.submit(request("echo", say="x"), "mine.1")

    for doubt in (httpx.ReadTimeout("slow"), httpx.ReadError("reset"), httpx.Response(504)):
        endpoint = Endpoint(doubt)
        on(CLOUD, scenario, transport=endpoint, sleep=at_once)
        assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    "refusal",
    [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.Response(429)],
    ids=range(3),
)
def test_a_submission_that_was_refused_is_made_again(refusal: Any) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        with pytest.raises((TransportDown, RateLimited), match=r"api\.runpod\.ai"):
            await executor.submit(request("echo", say="x"))

    endpoint = Endpoint(refusal)
    on(CLOUD, scenario, transport=endpoint, sleep=at_once)
    assert len(endpoint.asked) == 6


def test_one_id_submitted_twice_at_once_is_one_job() -> None:
    async def scenario(executor: RunPodExecutor) -> list[str]:
        job = request("echo", say="x")
        return list(await asyncio.gather(*(executor.submit(job, "mine.1") for _ in range(3))))

    endpoint = Endpoint(httpx.Response(200, json={"id": "j-u1", "status": "IN_QUEUE"}))
    assert on(CLOUD, scenario, transport=endpoint) == ["mine.1"] * 3
    assert endpoint.paths() == ["run", "cancel"]  # once each; its owner went away


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (400, SpecError, "policy is wrong"),
        (401, Unauthorized, "RUNPOD_API_KEY"),
        (403, Forbidden, "API key"),
        (404, NotFound, "endpoint's URL"),
        (413, TooLarge, "blob store"),
        (418, Unavailable, "answered 418"),
        (302, Unavailable, "final address"),
    ],
)
def test_what_runpod_refuses_is_told_with_the_next_step(
    status: int, kind: type[Exception], says: str
) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        for asked in (executor.submit(request("echo", say="x")), executor.health()):
            with pytest.raises(kind, match=says) as caught:
                await asked
            assert "rpa_secret" not in str(caught.value)

    answer = httpx.Response(
        status, json={"error": "policy is\n wrong"}, headers={"Location": "https://elsewhere"}
    )
    endpoint = Endpoint(answer)
    on(CLOUD, scenario, transport=endpoint, api_key="rpa_secret")
    assert {asked.url.host for asked in endpoint.asked} == {"api.runpod.ai"}


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"jobs": 3, "status": "LOST"}),
        httpx.Response(200, json={}),
    ],
    ids=range(4),
)
def test_what_is_no_endpoint_is_told(answer: httpx.Response) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        for asked in (
            executor.submit(request("echo", say="x")),
            executor.health(),
            events_of(executor, "j-u1"),
        ):
            with pytest.raises(Unavailable, match="check"):
                await asked

    on(CLOUD, scenario, transport=Endpoint(answer, status=[answer]))


@pytest.mark.parametrize(
    "url", ["https://host", "https://host/v2", "ftp://host/v2/x", "http:///v2/x"]
)
def test_what_is_no_endpoints_url_is_refused(url: str) -> None:
    with pytest.raises(SpecError, match=r"isn't an? .*URL"):
        RunPodExecutor(url)
