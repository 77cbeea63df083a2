"""The client: jobs from scripts, threads and notebooks, over a real inline executor."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_cases import ENDLESS, echo, inline

from visiondyno.client.client import Client
from visiondyno.errors import (
    Cancelled,
    DatasetError,
    NotFound,
    SpecError,
    StorageFull,
    TimeLimitExceeded,
)
from visiondyno.executors.base import JobLost
from visiondyno.job import JobEvent


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    with Client(inline()) as opened:
        yield opened


def test_a_job_gives_its_output_and_tells_its_events_in_the_callers_thread(client: Client) -> None:
    seen: list[tuple[int, int]] = []
    output = client.run(
        echo(steps=2), on_event=lambda e: seen.append((e.number, threading.get_ident()))
    )
    assert output == {"said": "hi"}
    assert seen == [(number, threading.get_ident()) for number in range(1, 6)]


def test_the_jobs_own_error_is_raised(client: Client) -> None:
    with pytest.raises(DatasetError, match="is empty"):
        client.run({"operation": "refuse"})


def test_a_policy_is_kept(client: Client) -> None:
    with pytest.raises(TimeLimitExceeded):
        client.run(ENDLESS, policy={"executionTimeout": 20})


@pytest.mark.parametrize("policy", [{"executionTimeout": 0}, {"patience": 3}], ids=str)
def test_a_wrong_policy_is_named_before_anything_is_sent(
    client: Client, policy: dict[str, Any]
) -> None:
    with pytest.raises(SpecError, match="policy"):
        client.run(echo(), policy=policy)


def test_what_json_has_not_is_refused_on_every_executor(client: Client) -> None:
    with pytest.raises(SpecError, match="what JSON has"):
        client.run({"operation": "echo", "say": object()})
    assert client.run({"operation": "echo", "say": (1, 2)}) == {"said": [1, 2]}


def test_an_error_of_a_listener_cancels_the_job_and_is_raised(client: Client) -> None:
    def listen(event: JobEvent) -> None:
        if event.progress:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.run(ENDLESS, on_event=listen)
    assert client.health()["jobs"]["CANCELLED"] == 1


def test_several_threads_use_one_client(client: Client) -> None:
    said: dict[int, Any] = {}

    def work(number: int) -> None:
        said[number] = client.run(echo(str(number)))["said"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert said == {number: str(number) for number in range(8)}


def test_it_works_inside_a_running_loop(client: Client) -> None:
    async def notebook() -> dict[str, Any]:
        return client.run(echo("from a notebook"))

    assert asyncio.run(notebook()) == {"said": "from a notebook"}


def test_many_jobs_give_outputs_and_errors_in_order(client: Client) -> None:
    inputs = [echo("0"), {"operation": "refuse"}, echo("2")]
    first, second, third = client.run_many(inputs, at_once=2)
    assert (first, third) == ({"said": "0"}, {"said": "2"})
    assert isinstance(second, DatasetError)
    with pytest.raises(SpecError, match="at_once"):
        client.run_many(inputs, at_once=0)


def test_an_error_of_a_listener_stops_all_of_many_jobs(client: Client) -> None:
    def listen(event: JobEvent) -> None:
        if event.progress:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.run_many([ENDLESS, ENDLESS, ENDLESS], on_event=listen)
    assert client.health()["jobs"]["CANCELLED"] == 3


def test_a_submitted_job_is_watched_and_its_result_taken_later(client: Client) -> None:
    job_id = client.submit(echo(steps=1))
    assert [e.number for e in client.watch(job_id)] == [1, 2, 3, 4]
    assert [e.number for e in client.watch(job_id, after=2)] == [3, 4]
    assert client.result(job_id) == {"said": "hi"}


def test_a_watch_that_is_left_early_leaves_the_job_alone(client: Client) -> None:
    job_id = client.submit(ENDLESS)
    for event in client.watch(job_id):
        if event.progress:
            break
    assert client.health()["jobs"]["IN_PROGRESS"] == 1
    client.cancel(job_id)
    with pytest.raises(Cancelled):
        client.result(job_id)


def test_an_unknown_job_is_lost(client: Client) -> None:
    for ask in (client.result, client.cancel, lambda job_id: list(client.watch(job_id))):
        with pytest.raises(JobLost):
            ask("no-such-job")


def test_health_names_executor_jobs_and_workers(client: Client) -> None:
    client.run(echo())
    found = client.health()
    assert found["executor"] == "inline"
    assert found["jobs"]["COMPLETED"] == 1
    assert found["workers"] == {"ready": 1, "busy": 0}
    assert client.workers() == []


def test_blobs_come_back_as_they_were(client: Client) -> None:
    reference = client.put_blob(b"\x00weights")
    assert client.has_blob(reference)
    assert client.get_blob(reference) == b"\x00weights"
    absent = f"sha256:{'0' * 64}"
    assert not client.has_blob(absent)
    with pytest.raises(NotFound):
        client.get_blob(absent)
    with pytest.raises(SpecError, match="no blob's name"):
        client.get_blob("weights")


def test_a_blob_becomes_a_file_that_is_whole_or_not_there(client: Client, tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    path = tmp_path / "drawn.mp4"
    with pytest.raises(NotFound):
        client.get_file(f"sha256:{'0' * 64}", path, "The video")
    assert not list(tmp_path.rglob("*drawn*"))
    client.get_file(client.put_blob(data), path, "The video")
    assert path.read_bytes() == data
    with pytest.raises(StorageFull, match="The video can't be written to"):
        client.get_file(client.put_blob(data), tmp_path / "none" / "a", "The video")


def test_a_closed_client_says_so_and_closing_again_does_nothing() -> None:
    client = Client(inline())
    client.run(echo())
    client.close()
    client.close()
    with pytest.raises(SpecError, match="closed"):
        client.run(echo())
    never_used = Client(inline())
    never_used.close()
    with pytest.raises(SpecError, match="closed"):
        never_used.health()


def test_closing_ends_what_others_wait_for() -> None:
    client = Client(inline())
    started, raised = threading.Event(), []

    def wait() -> None:
        try:
            client.run(ENDLESS, on_event=lambda e: started.set() if e.progress else None)
        except Cancelled as error:
            raised.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    assert started.wait(timeout=60)
    client.close()
    thread.join(timeout=60)
    assert raised == ["The client was closed while this waited."]


def test_an_unknown_place_is_refused_at_the_first_job(caplog: pytest.LogCaptureFixture) -> None:
    with Client("the moon") as client, pytest.raises(SpecError, match="the moon"):
        client.run(echo())
    with Client("the moon") as client, pytest.raises(SpecError, match="the moon"):
        client.put_blob(b"")
    assert caplog.text == ""
