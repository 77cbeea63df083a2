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
from runpod_endpoint import CLOUD, DONE, QUEUED, RUNNING, Endpoint, at_once, on
from visiondyno.errors import (
    Cancelled,
    DatasetError,
    Forbidden,
    NotFound,
    OperationFailed,
    RateLimited,
    SpecError,
    TimeLimitExceeded,
    TooLarge,
    TransportDown,
    Unauthorized,
    Unavailable,
)
from visiondyno.executors.base import JobLost
from visiondyno.executors.runpod import MAX_REQUEST_BYTES, RunPodExecutor
from visiondyno.executors.runpod_looks import RETENTION_S
from visiondyno.job import JobEvent, JobRequest, JobState, Policy
from visiondyno.settings import Settings
from visiondyno.wiring import make_blobs_at, make_executor_at


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
        clock.offset_s = RETENTION_S + 60
        assert await events_of(executor, job_id) == every  # it is kept here for as long
        assert await executor.known([job_id]) == {job_id}
        now.offset_s = RETENTION_S
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
        async with make_executor_at(place, settings) as executor:
            assert isinstance(executor, RunPodExecutor)
            events = await events_of(executor, await executor.submit(request("echo", say="x")))
            assert events[-1].state == JobState.COMPLETED
        unset = make_blobs_at(place, settings)
        for use in (unset.has("0" * 64), unset.size("0" * 64), unset.put(unset.open("0" * 64))):
            with pytest.raises(SpecError, match="VISIONDYNO_BLOBS_URL"):
                await use
        with pytest.raises(SpecError, match="VISIONDYNO_BLOBS_URL"):
            await unset.local_path("0" * 64, tmp_path)
        with pytest.raises(SpecError, match="VISIONDYNO_BLOBS_URL"):
            await anext(unset.open("0" * 64))
        assert str(unset) == "no blob store"
        shared = settings.model_copy(update={"blobs_url": (tmp_path / "shared").as_uri()})
        assert not await make_blobs_at(place, shared).has("0" * 64)

    asyncio.run(main())


# ---- what RunPod answers


def seen(endpoint: Endpoint) -> list[JobEvent]:
    """The events that a job's watcher sees."""

    async def scenario(executor: RunPodExecutor) -> list[JobEvent]:
        return await events_of(executor, "j-u1")

    events: list[JobEvent] = on(CLOUD, scenario, transport=endpoint, sleep=at_once)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    return events


def states(events: list[JobEvent]) -> list[str]:
    return [str(event.state) for event in events]


def test_progress_comes_before_the_end_however_late_it_is_seen() -> None:
    steps = [{"output": {"done": n}} for n in range(4)]
    end = [{"output": {"said": "x"}}]
    events = seen(
        Endpoint(
            status=[
                {"id": "j-u1", "status": "IN_QUEUE"},
                RUNNING,
                {**DONE, "output": {"said": "x"}},
            ],
            stream=[
                {"status": "IN_PROGRESS", "stream": steps[:2]},
                {"status": "COMPLETED", "stream": steps[2:3]},
                {"status": "COMPLETED", "stream": steps[3:] + end},
                {"status": "COMPLETED", "stream": []},
            ],
        )
    )
    assert states(events) == ["IN_QUEUE"] + ["IN_PROGRESS"] * 5 + ["COMPLETED"]
    assert [event.progress["done"] for event in events if event.progress] == [0, 1, 2, 3]
    answer = events[-1].answer
    assert answer is not None
    assert answer.result() == {"said": "x"}
    assert (answer.delay_time_ms, answer.execution_time_ms, answer.worker_id) == (12, 34, "w1")


def test_what_the_stream_gave_is_not_lost_when_the_status_cannot_be_had() -> None:
    away = [httpx.Response(502, text="")] * 6
    events_before: list[JobEvent] = []

    async def scenario(executor: RunPodExecutor) -> list[JobEvent]:
        with pytest.raises(TransportDown, match="502"):
            events_before.extend(await events_of(executor, "j-u1"))
        return await events_of(executor, "j-u1")

    endpoint = Endpoint(
        status=[RUNNING, *away, RUNNING, {**DONE, "output": {"said": "x"}}],
        stream=[
            {"status": "COMPLETED", "stream": [{"output": {"done": 0}}]},
            {"status": "COMPLETED", "stream": []},
        ],
    )
    events = on(CLOUD, scenario, transport=endpoint, sleep=at_once)
    assert [event.progress for event in events if event.progress] == [{"done": 0}]
    assert events[-1].state == JobState.COMPLETED


def test_a_stream_that_ends_before_the_status_says_so_keeps_its_place() -> None:
    over: Any = {"status": "COMPLETED", "stream": []}
    endpoint = Endpoint(
        status=[RUNNING, RUNNING, RUNNING, {**DONE, "output": {"said": "x"}}],
        stream=[{**over, "stream": [{"output": {"done": 0}}, {"output": {"said": "x"}}]}, over],
    )
    events = seen(endpoint)
    assert [event.progress for event in events if event.progress] == [{"done": 0}]
    assert states(events) == ["IN_QUEUE", "IN_PROGRESS", "IN_PROGRESS", "COMPLETED"]


@pytest.mark.parametrize("job_id", ["", ".", "..", "\udc80"])
def test_an_id_that_would_be_another_path_is_a_lost_job(job_id: str) -> None:
    async def scenario(executor: RunPodExecutor) -> set[str]:
        with pytest.raises(JobLost, match="has no job"):
            await executor.cancel(job_id)
        return await executor.known([job_id])

    endpoint = Endpoint(httpx.Response(404), status=[httpx.Response(404)])
    assert on(CLOUD, scenario, transport=endpoint) == set()


def test_a_status_that_is_no_json_is_told() -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        with pytest.raises(Unavailable, match="check"):
            await events_of(executor, "j-u1")

    endpoint = Endpoint(status=[httpx.Response(200, text="<html>")])
    on(CLOUD, scenario, transport=endpoint)


def test_a_job_whose_worker_died_is_queued_again() -> None:
    events = seen(Endpoint(status=[RUNNING, QUEUED, RUNNING, {**DONE, "output": {}}]))
    assert states(events) == ["IN_QUEUE", "IN_PROGRESS", "IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    assert events[-1].answer is not None
    assert events[-1].answer.result() == {}


@pytest.mark.parametrize(
    ("output", "told", "is_given"),
    [
        ({"loss": 1}, [], {"loss": 1}),
        ([{"done": 0}, {"loss": 1}], [{"done": 0}, {"loss": 1}], {"loss": 1}),
        (None, [{"done": 0}, {"loss": 1}], {"loss": 1}),
        ([{"boxes": []}], [], {"output": [{"boxes": []}]}),
        ("text", ["text"], {"output": "text"}),
        (None, [], {"output": None}),
    ],
    ids=["object", "all that was yielded", "yielded", "list", "text", "nothing"],
)
def test_an_output_is_found_in_each_of_its_forms(output: Any, told: Any, is_given: Any) -> None:
    stream = [{"status": "COMPLETED", "stream": [{"output": one} for one in told]}]
    status = DONE if output is None else {**DONE, "output": output}
    empty = {"status": "COMPLETED", "stream": []}
    events = seen(Endpoint(status=[status], stream=[*stream, empty] if told else [empty]))
    answer = events[-1].answer
    assert answer is not None
    assert answer.result() == is_given
    assert [event.progress for event in events if event.progress] == [
        one for one in told if isinstance(one, dict) and one != is_given
    ]


TRACE = "Traceback (most recent call last): …"
RAISED = {
    "error_type": "<class 'ValueError'>",
    "error_message": "no such layer",
    "error_traceback": TRACE,
    "hostname": "h",
}
OURS = {"code": "bad_dataset", "message": "images/7.jpg is empty.", "traceback": TRACE, "new": 1}


@pytest.mark.parametrize(
    ("error", "kind", "says", "trace"),
    [
        (OURS, DatasetError, "images/7.jpg is empty", TRACE),
        (json.dumps(OURS), DatasetError, "images/7.jpg is empty", TRACE),
        (json.dumps(RAISED), OperationFailed, "ValueError: no such layer", TRACE),
        (
            {**RAISED, "error_message": json.dumps(OURS)},
            DatasetError,
            "images/7.jpg is empty",
            TRACE,
        ),
        ({**RAISED, "error_message": '{"x": 1}'}, OperationFailed, '{"x": 1}', TRACE),
        ("handler: out of memory", OperationFailed, "handler: out of memory", None),
        (f"handler: no \ntraceback: {TRACE}", OperationFailed, "handler: no", TRACE),
        ("[1]", OperationFailed, "[1]", None),
        ({"why": 7}, OperationFailed, '{"why": 7}', None),
        (None, OperationFailed, "doesn't say why", None),
    ],
    ids=range(10),
)
def test_an_error_keeps_its_text_in_each_of_its_forms(
    error: Any, kind: type[Exception], says: str, trace: str | None
) -> None:
    failed = {**RUNNING, "status": "FAILED", "executionTime": 0, "error": error}
    events = seen(Endpoint(status=[failed]))
    assert states(events) == ["IN_QUEUE", "IN_PROGRESS", "FAILED"]
    answer = events[-1].answer
    assert answer is not None
    assert answer.error is not None
    assert says in answer.error.message
    assert answer.error.traceback == trace
    with pytest.raises(kind):
        answer.result()


@pytest.mark.parametrize(
    ("found", "path", "kind"),
    [
        ({"status": "TIMED_OUT"}, ["IN_QUEUE", "TIMED_OUT"], TimeLimitExceeded),
        (
            {"status": "TIMED_OUT", "executionTime": 9},
            ["IN_QUEUE", "IN_PROGRESS", "TIMED_OUT"],
            TimeLimitExceeded,
        ),
        ({"status": "CANCELLED", "executionTime": 0}, ["IN_QUEUE", "CANCELLED"], Cancelled),
        ({"status": "FAILED", "error": "no worker"}, ["IN_QUEUE", "FAILED"], OperationFailed),
    ],
    ids=range(4),
)
def test_a_job_that_never_ran_is_not_said_to_have(
    found: Any, path: list[str], kind: type[Exception]
) -> None:
    events = seen(Endpoint(status=[{"id": "j-u1", **found}]))
    assert states(events) == path
    assert events[-1].answer is not None
    with pytest.raises(kind):
        events[-1].answer.result()


def test_an_endpoint_without_a_stream_has_states_and_answers() -> None:
    endpoint = Endpoint(
        status=[RUNNING, {**DONE, "output": {"said": "x"}}],
        stream=[httpx.Response(404, json={"error": "not found"})],
    )
    assert states(seen(endpoint)) == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]


def test_looks_grow_rare_while_nothing_happens_and_frequent_when_something_does() -> None:
    pauses: list[float] = []

    async def pause(pause_s: float) -> None:
        pauses.append(pause_s)

    async def scenario(executor: RunPodExecutor) -> None:
        first, second = await asyncio.gather(
            events_of(executor, "j-u1"), events_of(executor, "j-u1")
        )
        assert first == second

    nothing: Any = {"status": "IN_PROGRESS", "stream": []}
    told = {"status": "IN_PROGRESS", "stream": [{"output": {"done": 1}}]}
    endpoint = Endpoint(
        status=[*[RUNNING] * 15, {**DONE, "output": {}}], stream=[*[nothing] * 12, told, nothing]
    )
    on(CLOUD, scenario, transport=endpoint, sleep=pause)
    assert len(pauses) == 15  # for both watchers together, and none before the first look
    assert pauses[0] == 0.1
    assert pauses[:12] == sorted(pauses[:12])
    assert pauses[11] == 2.0
    assert pauses[12] == 0.1


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


def test_only_the_latest_large_answers_are_kept() -> None:
    large = {**DONE, "output": {"state": "x" * 30_000_000}}
    late = {**DONE, "output": {"said": "small"}}

    async def scenario(executor: RunPodExecutor) -> None:
        for job_id in ("one", "two", "three"):
            await events_of(executor, job_id)
        asked = len(endpoint.asked)
        await events_of(executor, "three")
        assert len(endpoint.asked) == asked
        endpoint.next["status"] = [late]
        again = (await events_of(executor, "one"))[-1].answer
        assert again is not None
        assert again.result() == {"said": "small"}

    endpoint = Endpoint(status=[large])
    on(CLOUD, scenario, transport=endpoint)


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


@pytest.mark.parametrize(
    "url", ["https://host", "https://host/v2", "ftp://host/v2/x", "http:///v2/x"]
)
def test_what_is_no_endpoints_url_is_refused(url: str) -> None:
    with pytest.raises(SpecError, match=r"isn't an? .*URL"):
        RunPodExecutor(url)
