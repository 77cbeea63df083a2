"""Transports that come back older, writes that lag behind, listeners and starts that fail."""

import asyncio
import dataclasses
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from contracts.executor_contract import request
from faulty_executors import FaultyExecutor, running_service
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.errors import SpecError, TransportDown
from visiondyno.executors.queue import Claim, Outcome
from visiondyno.executors.queued import QueueExecutor
from visiondyno.executors.sqlite_queue import SqliteQueue
from visiondyno.job import JobRequest, JobState, Policy
from visiondyno.service import Service
from visiondyno.service import housekeeping as housekeeping_module
from visiondyno.service import jobs as jobs_module
from visiondyno.service.feeds import Feed
from visiondyno.service.follow import Follower
from visiondyno.service.webhooks import SECRET_FILE
from visiondyno.settings import Settings
from visiondyno.store.records import JobRecord, Observed, RecordedEvent
from visiondyno.store.sql import open_store


async def claimed(queue: SqliteQueue) -> Claim:
    while not (claims := queue.claim(["w"], 60.0)):
        await asyncio.sleep(0.005)
    return claims[0]


async def until_seen(service: Service, job_id: str, number: int) -> None:
    while (await service.jobs.get(job_id)).seen < number:
        await asyncio.sleep(0.005)


def done(claim: Claim) -> tuple[Claim, Outcome]:
    return claim, Outcome(JobState.COMPLETED, 1, "{}")


def set_back(path: Path, last_number: int) -> None:
    """The queue as it was after event `last_number`, as a snapshot would bring it back."""
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM events WHERE number > ?", (last_number,))
        connection.execute("UPDATE jobs SET last_number = ?", (last_number,))
    connection.close()


@pytest.mark.parametrize("when", ["watched", "between two services"])
def test_a_transport_that_came_back_older_holds_no_job_for_ever(tmp_path: Path, when: str) -> None:
    path = tmp_path / "older.sqlite"

    async def main() -> None:
        queue = SqliteQueue(path)
        service = running_service(tmp_path, QueueExecutor("local", lambda: SqliteQueue(path)))
        started = await service.__aenter__()
        job = await started.jobs.submit(JobRequest(input={}))
        claim = await claimed(queue)
        queue.report([(claim, "{}")] * 4)
        await until_seen(started, job.id, 6)
        set_back(path, 2)
        if when == "watched":
            queue.finish([done(claim)])  # event 3, and 6 were seen
        else:
            await service.__aexit__(None, None, None)
            queue.finish([done(claim)])
            service = running_service(tmp_path, QueueExecutor("local", lambda: SqliteQueue(path)))
            started = await service.__aenter__()
        again = await claimed(queue)
        assert again.job_id == f"{job.id}.2"
        queue.finish([done(again)])
        ended = await started.jobs.wait(job.id, 30)
        assert ended.state == JobState.COMPLETED
        numbers = [one.event.number async for one in started.jobs.watch(job.id)]
        assert numbers == list(range(1, len(numbers) + 1))
        await service.__aexit__(None, None, None)
        queue.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_what_is_still_being_written_counts_when_a_job_is_found_lost(tmp_path: Path) -> None:
    async def main() -> None:
        executor = FaultyExecutor()
        async with running_service(tmp_path, executor) as service:
            goes_on, real = threading.Event(), service.store.jobs.record
            waits = threading.Event()

            def record(observed: Sequence[Observed]) -> list[RecordedEvent]:
                waits.set()
                goes_on.wait(60)
                return real(observed)

            service.store.jobs.record = record  # type: ignore[method-assign]
            job = await service.jobs.submit(request("until stopped"))
            await asyncio.to_thread(waits.wait, 60)
            await executor.forget_all()
            await asyncio.sleep(0.1)
            goes_on.set()
            while len(executor.submitted) < 2:
                await asyncio.sleep(0.005)
            # Under the same id, the new events' numbers would be taken for those seen already.
            assert executor.submitted == [f"{job.id}.1", f"{job.id}.2"]
            await service.jobs.cancel(job.id)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_job_that_ran_is_not_expired_when_it_is_put_back(tmp_path: Path) -> None:
    now = [1_000_000.0]

    async def main() -> None:
        executor = FaultyExecutor()
        store = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}", clock=lambda: now[0])
        blobs = FolderBlobs(tmp_path / "blobs")
        settings = Settings(home=tmp_path)
        async with Service(settings, store, executor, blobs, lambda: now[0]) as service:
            job = await service.jobs.submit(request("until stopped", Policy(ttl_ms=60_000)))
            await until_seen(service, job.id, 3)
            now[0] += 300  # it runs for five minutes: that is no waiting
            await executor.forget_all()
            while len(executor.submitted) < 2:
                assert (await service.jobs.get(job.id)).state != JobState.TIMED_OUT
                await asyncio.sleep(0.005)
            assert executor.requests[f"{job.id}.2"].policy.ttl_ms == 60_000
            assert (await service.jobs.cancel(job.id)).state == JobState.CANCELLED

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_listener_whose_store_was_away_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "_TELL_AGAIN_S", 0.001)

    async def main() -> None:
        async with running_service(tmp_path) as service:
            told: list[str] = []
            heard = asyncio.Event()

            async def listener(record: JobRecord, _: RecordedEvent) -> None:
                told.append(record.id)
                if len(told) < 3:
                    raise TransportDown("The database can't be reached.")
                heard.set()

            service.jobs.on_recorded(listener)
            job = await service.jobs.submit(request("echo", say="x"))
            await heard.wait()
            assert told == [job.id] * 3

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_wish_to_cancel_does_not_outlive_a_retry(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_service(tmp_path) as service:
            job = await service.jobs.submit(request("refuse"))
            ended = await service.jobs.wait(job.id, 30)
            follower = Follower(
                dataclasses.replace(ended, cancel_requested=True), Feed(1, 4), is_sent=True
            )
            assert follower.cancel_wanted
            follower.take_fresh(ended)
            assert follower.cancel_wanted  # the same run
            retried = await service.jobs.retry(job.id)
            follower.take_fresh(retried)
            assert not follower.cancel_wanted

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_service_that_cannot_start_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / SECRET_FILE).mkdir()

    async def main() -> None:
        executor = FaultyExecutor()
        with pytest.raises(SpecError, match="VISIONDYNO_WEBHOOK_SECRET"):
            async with running_service(tmp_path, executor):
                pass
        with pytest.raises(SpecError, match="closed"):
            await executor.submit(request("echo", say="x"))

    asyncio.run(asyncio.wait_for(main(), 60))


def test_housekeeping_goes_on_after_a_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(housekeeping_module, "_EVERY_S", 0.001)

    async def main() -> None:
        async with running_service(tmp_path) as service:
            tries, twice = [0], asyncio.Event()

            async def collect() -> Any:
                tries[0] += 1
                if tries[0] == 1:
                    raise PermissionError("blobs")
                twice.set()

            service.housekeeping.collect = collect  # type: ignore[method-assign]
            await twice.wait()
            assert "PermissionError" in caplog.text

    asyncio.run(asyncio.wait_for(main(), 60))
