"""Workers that die, get a job twice, or lose its result: each job ends right, once."""

from pathlib import Path
from typing import Any

import pytest

from emulated_endpoint import until
from faulty_endpoint import (
    FaultyEndpoint,
    ends_right_once,
    faulty_endpoint,
    holds,
    work,
)
from training_places import MLP, blobs_of_points
from visiondyno.client.client import Client
from visiondyno.errors import OperationFailed
from visiondyno.job import JobEvent, JobState

pytest.importorskip("runpod")
pytestmark = pytest.mark.slow


def training(epochs: int) -> dict[str, Any]:
    """One of many steps."""
    features, labels = blobs_of_points(400)
    return {
        "operation": "train",
        "epochs": epochs,
        "model_config": MLP,
        "training_data": {"features": features.round(3).tolist(), "labels": labels.tolist()},
        "hyperparameters": {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 8},
        "threads": 1,
    }


def undisturbed(job_input: dict[str, Any]) -> dict[str, Any]:
    with Client("inline") as here:
        return here.run(job_input)


def same_training(output: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same weights to the bit, and the same history."""
    assert output["model_state_sha256"] == expected["model_state_sha256"]
    assert output["history"] == expected["history"]


@pytest.mark.torch
def test_a_training_whose_worker_is_killed_in_mid_epoch_ends_with_the_same_bits(
    tmp_path: Path,
) -> None:
    job_input = training(epochs=400)  # not over before its first epoch is heard of
    with faulty_endpoint(tmp_path) as endpoint, endpoint.client(max_cost_usd=1.0) as client:
        events = list[JobEvent]()
        killed = list[int]()

        def kill_after_an_epoch(event: JobEvent) -> None:
            events.append(event)
            if not killed and (event.progress or {}).get("stage") == "epoch":
                killed.append(endpoint.arm("kill_worker"))

        output = client.run(job_input, on_event=kill_after_an_epoch)
        ends_right_once(events)
        assert killed == [1]
        assert endpoint.runs_of(job_input) == 2
        assert output["resumed_from_epoch"] >= 1
        same_training(output, undisturbed(job_input))
        cost = client.cost_of(events[-1].job_id)
        bill = endpoint.until_quiet()
        assert len(bill["workers"]) == 2
        holds(cost, bill)
        holds(client.total_cost(), bill)


def test_a_job_whose_workers_die_again_and_again_fails_once(tmp_path: Path) -> None:
    job_input = {"operation": "hang"}
    with faulty_endpoint(tmp_path) as endpoint, endpoint.client() as client:
        events: list[JobEvent] = []

        def kill(event: JobEvent) -> None:
            events.append(event)
            if event.progress is not None:
                endpoint.arm("kill_worker")

        with pytest.raises(OperationFailed, match="retries"):
            client.run(job_input, on_event=kill)
        ends_right_once(events, JobState.FAILED)
        assert endpoint.runs_of(job_input) == 2
        holds(client.total_cost(), endpoint.until_quiet())


@pytest.mark.torch
@pytest.mark.parametrize("workers", [1, 2])
def test_a_training_that_is_delivered_twice_gives_one_result(tmp_path: Path, workers: int) -> None:
    job_input = training(epochs=8)
    # One worker with two places takes both; of two with one place each, the other one takes it.
    environ = {"VISIONDYNO_PREFETCH": "0", "VISIONDYNO_CONCURRENCY": "2" if workers == 1 else "1"}
    with (
        faulty_endpoint(
            tmp_path, workers_min=workers, workers_max=workers, environ=environ
        ) as endpoint,
        endpoint.client() as client,
    ):
        until(lambda: workers_idle(endpoint) == workers)
        endpoint.arm("deliver_twice")
        events: list[JobEvent] = []
        output = client.run(job_input, on_event=events.append)
        ends_right_once(events)
        same_training(output, undisturbed(job_input))
        until(lambda: workers_idle(endpoint) == workers)  # whoever has it ends it too
        assert endpoint.runs_of(job_input) == workers
        until(lambda: endpoint.asked("job-done") == 2)
        if workers == 1:  # told once, for it ran once
            told = [event.progress for event in events if event.progress is not None]
            epochs = [one["epoch"] for one in told if one["stage"] == "epoch"]
            assert epochs == list(range(1, 9))
        assert endpoint.open_jobs() == 0
    assert endpoint.processes() == []


def test_a_job_that_is_delivered_twice_is_stopped_whole(tmp_path: Path) -> None:
    job_input = work("twice", steps=2000)
    environ = {"VISIONDYNO_CONCURRENCY": "2"}
    with faulty_endpoint(tmp_path, environ=environ) as endpoint, endpoint.client() as client:
        endpoint.arm("deliver_twice")
        job_id = client.submit(job_input)
        for event in client.watch(job_id):
            if event.progress is not None:
                break
        client.cancel(job_id)
        events = list(client.watch(job_id))
        ends_right_once(events, JobState.CANCELLED)
        assert endpoint.runs_of(job_input) == 1
        assert client.run(work("after")) == {"name": "after", "steps": 3}
        holds(client.total_cost(), endpoint.until_quiet())


def test_a_job_whose_result_was_lost_runs_again_once_its_worker_is_gone(tmp_path: Path) -> None:
    job_input = work("lost")
    with faulty_endpoint(tmp_path) as endpoint, endpoint.client() as client:
        endpoint.arm("drop_result")
        events: list[JobEvent] = []
        assert client.run(job_input, on_event=events.append) == {"name": "lost", "steps": 3}
        ends_right_once(events)
        assert endpoint.runs_of(job_input) == 2
        holds(client.total_cost(), endpoint.until_quiet())


def workers_idle(endpoint: FaultyEndpoint) -> int:
    """Workers that have no job."""
    with endpoint.client() as client:
        return int(client.health()["workers"]["ready"])
