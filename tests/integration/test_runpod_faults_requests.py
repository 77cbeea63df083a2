"""What goes wrong on the wire between client, endpoint and worker: each job ends right, once."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from emulated_endpoint import until
from faulty_endpoint import (
    FaultyEndpoint,
    ends_right_once,
    faulty_endpoint,
    holds,
    steps_of,
    work,
)
from training_places import MLP, blobs_of_points
from visiondyno.client.client import Client
from visiondyno.errors import TransportDown
from visiondyno.job import JobEvent

pytest.importorskip("runpod")
pytestmark = pytest.mark.slow

NAMES = itertools.count(1)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyEndpoint]:
    with faulty_endpoint(tmp_path_factory.mktemp("endpoint")) as found:
        yield found


@pytest.fixture(scope="module")
def client(endpoint: FaultyEndpoint) -> Iterator[Client]:
    with endpoint.client(max_cost_usd=1.0) as found:
        yield found
        total = found.total_cost()
    holds(total, endpoint.until_quiet())


def after_fault(
    endpoint: FaultyEndpoint, client: Client, *faults: dict[str, Any]
) -> list[JobEvent]:
    """The events of a job of five steps that meets the faults."""
    for fault in faults:
        endpoint.arm(**fault)
    job_input, events = work(str(next(NAMES)), steps=5), list[JobEvent]()
    output = client.run(job_input, on_event=events.append)
    assert output == {"name": job_input["name"], "steps": 5}
    ends_right_once(events)
    assert endpoint.armed() == []
    assert endpoint.runs_of(job_input) == 1
    assert endpoint.open_jobs() == 0
    cost = client.cost_of(events[-1].job_id)
    assert cost is not None
    assert cost.worker_s_at_least <= cost.worker_s_at_most
    return events


def answer(operation: str, status: int, count: int = 2, **rest: Any) -> dict[str, Any]:
    return {"kind": "status", "operation": operation, "status": status, "count": count, **rest}


def reset(operation: str, count: int = 1) -> dict[str, Any]:
    return {"kind": "reset", "operation": operation, "count": count}


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([answer("status", 429, retry_after_s=1)], id="429 for a status"),
        pytest.param([answer("status", 502)], id="502 for a status"),
        pytest.param([reset("status", 2)], id="status broken off"),
        pytest.param([answer("stream", 502)], id="502 for a stream"),
        pytest.param([answer("stream", 429, retry_after_s=1, count=1)], id="429 for a stream"),
        pytest.param([answer("job-stream", 502, count=1)], id="502 for progress"),
        pytest.param([reset("job-stream")], id="answer to progress broken off"),
        pytest.param([answer("job-done", 502, count=1)], id="502 for a result"),
        pytest.param([reset("job-done")], id="answer to a result broken off"),
    ],
)
def test_a_job_ends_right_once_whatever_questions_about_it_meet(
    endpoint: FaultyEndpoint, client: Client, faults: list[dict[str, Any]]
) -> None:
    events = after_fault(endpoint, client, *faults)
    assert steps_of(events) == [0, 1, 2, 3, 4]


def test_of_a_stream_that_broke_off_progress_may_be_missing_and_no_more(
    endpoint: FaultyEndpoint, client: Client
) -> None:
    steps = steps_of(after_fault(endpoint, client, reset("stream", 2)))
    assert steps == sorted(set(steps))


def test_progress_that_comes_after_the_result_is_not_told(
    endpoint: FaultyEndpoint, client: Client
) -> None:
    late = {"kind": "delay", "operation": "job-stream", "seconds": 10.0, "count": 2}
    events = after_fault(endpoint, client, late)
    assert steps_of(events) == [2, 3, 4]


def test_a_refused_submission_waits_as_long_as_it_was_asked_to(
    endpoint: FaultyEndpoint, client: Client
) -> None:
    after_fault(endpoint, client, answer("run", 429, count=1, retry_after_s=2))
    refused, taken = endpoint.running.emulator.requests.last("run")[-2:]
    assert (refused.status, taken.status) == (429, 200)
    assert taken.at_s - refused.at_s >= 2


@pytest.mark.torch
def test_an_epoch_of_training_comes_through_all_of_them_at_once(
    endpoint: FaultyEndpoint, client: Client
) -> None:
    features, labels = blobs_of_points(30)
    job_input = {
        "operation": "train_epoch",
        "model_config": MLP,
        "training_data": {"features": features.tolist(), "labels": labels.tolist()},
        "hyperparameters": {"learning_rate": 0.01, "batch_size": 8},
        "threads": 1,
    }
    with Client("inline") as here:
        expected = here.run(job_input)
    for operation in ("run", "status", "stream"):
        endpoint.arm(**answer(operation, 429, count=1, retry_after_s=0))
    for operation in ("status", "stream"):
        endpoint.arm(**answer(operation, 502, count=1))
    for operation in ("status", "job-done"):
        endpoint.arm(**reset(operation))
    events = list[JobEvent]()
    assert client.run(job_input, on_event=events.append) == expected
    ends_right_once(events)
    assert endpoint.runs_of(job_input) == 1
    assert endpoint.armed() == []


def test_a_submission_in_doubt_is_told_as_such_and_never_made_again(tmp_path: Path) -> None:
    with faulty_endpoint(tmp_path) as endpoint, endpoint.client(fallback="inline") as client:
        for number, (fault, runs) in enumerate([(answer("run", 502, 1), 0), (reset("run"), 1)]):
            job_input = work(str(number))
            endpoint.arm(**fault)
            with pytest.raises(TransportDown, match="isn't known"):
                client.run(job_input)
            until(lambda: endpoint.open_jobs() == 0)  # what did arrive ends by itself
            assert endpoint.asked("run") == number + 1
            assert endpoint.runs_of(job_input) == runs
        cost = client.total_cost()
        holds(cost, endpoint.until_quiet())
        assert cost is not None
        assert cost.worker_s_at_most >= 2 * 600  # each may run for as long as a job may


def test_answers_that_take_30_s_make_nothing_happen_twice(
    endpoint: FaultyEndpoint, client: Client
) -> None:
    before = endpoint.asked("run")
    stalled = {"kind": "stall", "seconds": 30, "count": 1}
    for operation in ("run", "status"):
        endpoint.arm(operation=operation, **stalled)
    jobs = [work(str(next(NAMES))) for _ in range(2)]
    events: dict[str, list[JobEvent]] = {job["name"]: [] for job in jobs}

    def run(job: dict[str, Any]) -> dict[str, Any]:
        return client.run(job, on_event=events[job["name"]].append)

    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(run, jobs))
    for job, output in zip(jobs, outputs, strict=True):
        assert output == {"name": job["name"], "steps": 3}
        ends_right_once(events[job["name"]])
        assert endpoint.runs_of(job) == 1
    assert endpoint.asked("run") == before + 2
    assert endpoint.armed() == []
