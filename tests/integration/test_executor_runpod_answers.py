"""What RunPod's service answers about a job, and the events that its watchers see of it."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from contracts.executor_contract import (
    events_of,
)
from runpod_endpoint import CLOUD, DONE, QUEUED, RUNNING, Endpoint, at_once, on
from visiondyno.errors import (
    Cancelled,
    DatasetError,
    OperationFailed,
    TimeLimitExceeded,
    TransportDown,
    Unavailable,
)
from visiondyno.executors.base import JobLost
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.job import JobEvent, JobState


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
            {"status": "TIMED_OUT", "error": "executionTimeout exceeded"},
            ["IN_QUEUE", "TIMED_OUT"],
            TimeLimitExceeded,
        ),
        (
            {"status": "TIMED_OUT", "executionTime": 9},
            ["IN_QUEUE", "IN_PROGRESS", "TIMED_OUT"],
            TimeLimitExceeded,
        ),
        ({"status": "CANCELLED", "executionTime": 0}, ["IN_QUEUE", "CANCELLED"], Cancelled),
        ({"status": "FAILED", "error": "no worker"}, ["IN_QUEUE", "FAILED"], OperationFailed),
    ],
    ids=range(5),
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
        status=[*[RUNNING] * 30, {**DONE, "output": {}}], stream=[*[nothing] * 27, told, nothing]
    )
    on(CLOUD, scenario, transport=endpoint, sleep=pause, clock=lambda: 9e5 + sum(pauses))
    assert len(pauses) == 30  # for both watchers together, and none before the first look
    assert pauses[0] == 0.02
    assert pauses[1:27] == sorted(pauses[1:27])
    assert pauses[26] == 2.0
    assert pauses[27] == 0.1


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
