"""The executor over a server keeps the executor contract, against a live one; and its troubles."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.executor_contract import ExecutorContract, events_of, request, started
from cut_connections import CutConnections
from live_api import Clock, LiveApi, StaffedApi
from visiondyno.errors import (
    Conflict,
    Forbidden,
    NotFound,
    RateLimited,
    SpecError,
    TooLarge,
    TransportDown,
    Unauthorized,
    Unavailable,
)
from visiondyno.executors.server import ServerExecutor
from visiondyno.executors.workers import WorkerCommand, WorkerState
from visiondyno.job import JobState
from visiondyno.settings import Settings
from visiondyno.store.records import KeyScope
from visiondyno.wiring import make_blobs_at, make_executor_at


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


def on(url: str, scenario: Callable[[ServerExecutor], Awaitable[Any]], **options: Any) -> Any:
    """What the scenario gives with an executor on the server at `url`."""

    async def main() -> Any:
        async with ServerExecutor(url, **options) as executor:
            return await asyncio.wait_for(scenario(executor), timeout=60)

    return asyncio.run(main())


async def at_once(_: float) -> None:
    """No pause."""


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


def test_a_place_named_by_url_has_the_servers_jobs_and_blobs(api: LiveApi, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, _env_file=None)

    async def main() -> bytes:
        async with make_executor_at(api.url, settings) as executor:
            assert isinstance(executor, ServerExecutor)
            events = await events_of(executor, await executor.submit(request("echo", say="x")))
            assert events[-1].state == JobState.COMPLETED
        blobs = make_blobs_at(api.url + "/", settings)
        sha256 = await blobs.put(_chunks(b"weights"))
        found = b"".join([chunk async for chunk in blobs.open(sha256)])
        await blobs.close()
        assert await api.service.blobs.has(sha256)
        return found

    assert asyncio.run(main()) == b"weights"


async def _chunks(data: bytes) -> Any:
    yield data


# ---- servers that misbehave


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
