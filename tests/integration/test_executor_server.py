"""The executor over a server keeps the executor contract, against a live one."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.executor_contract import ExecutorContract, events_of, request, started
from cut_connections import CutConnections
from live_api import Clock, LiveApi, StaffedApi
from scripted_server import at_once, on
from visiondyno.errors import (
    Conflict,
    Forbidden,
    NotFound,
    RateLimited,
    SpecError,
    TooLarge,
    Unauthorized,
)
from visiondyno.executors.server import ServerExecutor
from visiondyno.executors.workers import WorkerCommand, WorkerState
from visiondyno.job import JobState
from visiondyno.places import Place, make_blobs_at, make_executor_at
from visiondyno.settings import Settings
from visiondyno.store.records import KeyScope


class TestServerExecutor(ExecutorContract):
    place_is_by_arrival = "its API has no time of submission: a server puts back its jobs itself"

    @pytest.fixture(autouse=True)
    def a_server(self, tmp_path: Path) -> Iterator[None]:
        with LiveApi(tmp_path, rate_limit_per_minute=0) as live:

            def make() -> ServerExecutor:
                return ServerExecutor(live.url)

            type(self).make_executor = staticmethod(make)
            yield


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    home = tmp_path_factory.mktemp("home")
    with LiveApi(home, rate_limit_per_minute=0, max_run_bytes=20_000) as live:
        yield live


def port_of(live: LiveApi) -> int:
    return httpx.URL(live.url).port or 0


def test_a_submission_after_a_doubt_makes_no_second_job(api: LiveApi) -> None:
    async def scenario(executor: ServerExecutor) -> list[str | None]:
        job_id = await executor.submit(request("echo", say="once"), "doubted.1")
        events = await events_of(executor, job_id)
        assert events[-1].answer is not None
        return [event.model_dump_json() for event in events]

    first = on(api.url, scenario)
    assert on(api.url, scenario) == first  # another client, which knows nothing of the first

    async def other(executor: ServerExecutor) -> None:
        with pytest.raises(Conflict, match=r"doubted\.1"):
            await executor.submit(request("echo", say="twice"), "doubted.1")

    on(api.url, other)


def test_any_text_may_be_a_jobs_id(api: LiveApi) -> None:
    async def scenario(executor: ServerExecutor) -> set[str]:
        ids = ["", "\u00e9t\u00e9 \udc80", "x" * 300, "a/b?c#d"]
        for job_id in ids:
            await executor.submit(request("echo", say=job_id[:1]), job_id)
            assert (await events_of(executor, job_id))[-1].job_id == job_id
        return set(ids) - await executor.known(ids)

    assert on(api.url, scenario) == set()


def test_a_cut_watch_goes_on_after_its_last_event(api: LiveApi) -> None:
    async def main() -> None:
        with CutConnections(port_of(api)) as way:
            async with (
                ServerExecutor(way.url, sleep=at_once) as executor,
                ServerExecutor(api.url) as direct,
            ):
                job_id = await executor.submit(request("echo", say="x" * 5000, steps=200))
                every = await events_of(direct, job_id)
                way.after_bytes = [3000, 10, 7000, 300, 9000]
                assert await events_of(executor, job_id) == every
                assert way.cuts == 5
        assert [event.number for event in every] == list(range(1, 204))

    asyncio.run(main())


def test_a_watch_outlives_the_servers_restart(tmp_path: Path) -> None:
    async def pause(_: float) -> None:
        await asyncio.sleep(0.02)

    async def main() -> list[JobState]:
        with CutConnections(0) as way:
            async with ServerExecutor(way.url, sleep=pause) as executor:
                with LiveApi(tmp_path, rate_limit_per_minute=0) as first:
                    way.to_port = port_of(first)
                    job_id = await executor.submit(request("until stopped"))
                    watching = asyncio.create_task(events_of(executor, job_id))
                    await started(executor, job_id)
                    second = LiveApi(tmp_path, rate_limit_per_minute=0)
                    way.to_port = port_of(second)  # which listens, and answers once it is up
                    way.cut()
                    await asyncio.to_thread(first.__exit__, None, None, None)
                    # Leaving the block stops it once more, which does nothing.
                with second:
                    starts = 0
                    async for event in executor.watch(job_id):
                        starts += event.progress == {"stage": "started"}
                        if starts == 2:
                            break
                    await executor.cancel(job_id)
                    return [event.state for event in await asyncio.wait_for(watching, 60)]

    states = asyncio.run(main())
    assert states.count(JobState.IN_QUEUE) == 2
    assert states[-1] == JobState.CANCELLED
    assert states.count(JobState.CANCELLED) == 1


def test_a_large_output_comes_whole(tmp_path: Path) -> None:
    text = "\u2028 line\r\n" * 300_000

    async def scenario(executor: ServerExecutor) -> Any:
        return (await events_of(executor, await executor.submit(request("echo", say=text))))[-1]

    with LiveApi(tmp_path, rate_limit_per_minute=0) as live:
        answer = on(live.url, scenario).answer
    assert answer.result() == {"said": text}


def test_what_the_server_refuses_is_the_same_error_on_this_side(api: LiveApi) -> None:
    async def scenario(executor: ServerExecutor) -> None:
        with pytest.raises(TooLarge, match="blob store"):
            await executor.submit(request("echo", say="x" * 30_000))
        with pytest.raises(TooLarge, match="blob store"):
            await executor.submit(request("echo", say="x" * 3_000_000))
        with pytest.raises(SpecError, match="webhook"):
            await executor.submit(request("echo").model_copy(update={"webhook": "file:///x"}))
        with pytest.raises(SpecError, match="can't be sent as JSON"):
            await executor.submit(request("echo", say=float("nan")))
        with pytest.raises(SpecError, match="can't be sent as JSON"):
            await executor.submit(request("echo", say=b"bytes"))
        with pytest.raises(SpecError, match="takes no 'drain' command"):
            await executor.command_worker("host-1", WorkerCommand.DRAIN)

    on(api.url, scenario)


def test_another_endpoint_is_not_found(api: LiveApi) -> None:
    async def scenario(executor: ServerExecutor) -> None:
        with pytest.raises(NotFound, match="No endpoint is named 'other'"):
            await executor.submit(request("echo", say="x"))

    on(api.url, scenario, endpoint="other")


@pytest.mark.parametrize("job_id", ["", ".", "..", "a/../b", "no such", "\udc80", "x" * 200])
def test_what_no_server_takes_for_an_id_is_a_lost_job_too(api: LiveApi, job_id: str) -> None:
    async def scenario(executor: ServerExecutor) -> set[str]:
        with pytest.raises(NotFound, match="has no job"):
            await executor.cancel(job_id)
        return await executor.known([job_id])

    assert on(api.url, scenario) == set()


def test_keys_are_asked_for_and_never_told(tmp_path: Path) -> None:
    async def scenario(executor: ServerExecutor) -> None:
        await events_of(executor, await executor.submit(request("echo", say="x")))

    async def refused(executor: ServerExecutor) -> str:
        with pytest.raises((Unauthorized, Forbidden)) as caught:
            await executor.submit(request("echo", say="x"))
        with pytest.raises((Unauthorized, Forbidden)):
            await executor.known(["some-job"])
        with pytest.raises((Unauthorized, Forbidden)):
            await events_of(executor, "some-job")
        return caught.value.message

    with LiveApi(tmp_path, require_keys=True, rate_limit_per_minute=0) as live:
        on(live.url, scenario, api_key=f"  {live.make_key()}\n")
        assert "API key" in on(live.url, refused)
        wrong = "vd_" + "0" * 40
        assert wrong not in on(live.url, refused, api_key=wrong)
        submitter = live.make_key("submitter", KeyScope.SUBMIT)
        assert submitter not in on(live.url, refused, api_key=submitter)


def test_too_many_requests_are_waited_for_as_long_as_the_server_asks(tmp_path: Path) -> None:
    clock = Clock()
    pauses: list[float] = []

    async def pass_time(pause_s: float) -> None:
        pauses.append(pause_s)
        clock.offset_s += pause_s

    async def scenario(executor: ServerExecutor) -> int:
        for _ in range(4):
            await executor.workers()
        return len(pauses)

    async def impatient(executor: ServerExecutor) -> float | None:
        await executor.workers()
        await executor.workers()
        with pytest.raises(RateLimited) as caught:
            await executor.workers()
        return caught.value.retry_after_s

    stopped = {"monotonic": clock.over(lambda: 0.0)}
    with LiveApi(tmp_path, clocks=stopped, rate_limit_per_minute=2) as live:
        assert on(live.url, scenario, sleep=pass_time) >= 2
        assert min(pauses) >= 1
        clock.offset_s += 60
        assert on(live.url, impatient, sleep=at_once) > 0


def test_workers_are_listed_and_told(tmp_path: Path) -> None:
    async def scenario(executor: ServerExecutor) -> list[Any]:
        await executor.command_worker("host-1-0", WorkerCommand.RESTART)
        with pytest.raises(NotFound, match="nobody"):
            await executor.command_worker("nobody", WorkerCommand.DRAIN)
        return list(await executor.workers())

    with StaffedApi(tmp_path, rate_limit_per_minute=0) as live:
        workers = on(live.url, scenario)
        assert live.service.executor.told == [  # type: ignore[attr-defined]
            ("host-1-0", WorkerCommand.RESTART)
        ]
    assert [worker.state for worker in workers] == list(WorkerState)
    assert {worker.job_id for worker in workers} == {"a-job", None}


def test_a_place_named_by_url_has_the_servers_jobs_and_blobs(api: LiveApi, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, _env_file=None)

    async def main() -> bytes:
        async with make_executor_at(Place(api.url), settings) as executor:
            assert isinstance(executor, ServerExecutor)
            events = await events_of(executor, await executor.submit(request("echo", say="x")))
            assert events[-1].state == JobState.COMPLETED
        blobs = make_blobs_at(Place(api.url + "/"), settings)
        sha256 = await blobs.put(_chunks(b"weights"))
        found = b"".join([chunk async for chunk in blobs.open(sha256)])
        await blobs.close()
        assert await api.service.blobs.has(sha256)
        return found

    assert asyncio.run(main()) == b"weights"


async def _chunks(data: bytes) -> Any:
    yield data
