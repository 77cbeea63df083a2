"""The executor over a queue when the queue fails, forgets, and leaves events out."""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from visiondyno.errors import MissingExtra, SpecError, StorageFull, TransportDown
from visiondyno.executors import queued
from visiondyno.executors.base import JobLost
from visiondyno.executors.open_queue import open_queue
from visiondyno.executors.queue import Outcome, QueuedJob
from visiondyno.executors.queued import QueueExecutor
from visiondyno.executors.sqlite_queue import SqliteQueue
from visiondyno.job import JobEvent, JobRequest, JobState

REQUEST = JobRequest(input={"operation": "any"})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LOOK_S", "_CHECK_S", "_SWEEP_S"):
        monkeypatch.setattr(queued, name, 0.01)


class FaultyQueue(SqliteQueue):
    """A real queue whose reads and writes can be made to fail."""

    put_error: Exception | None = None
    feed_error: Exception | None = None
    feed_is_silent = False
    feeds = 0
    """How often it was asked for events, whatever it answered."""

    def put(self, jobs: Sequence[QueuedJob]) -> None:
        if self.put_error is not None:
            raise self.put_error
        super().put(jobs)

    def feed(self, cursor: str | None) -> tuple[list[JobEvent], str]:
        self.feeds += 1
        if self.feed_error is not None:
            raise self.feed_error
        events, cursor = super().feed(cursor)
        return ([] if self.feed_is_silent else events), cursor

    async def fed_twice(self) -> None:
        """The second of two feeds began after this was called, and the first is over."""
        enough = self.feeds + 2
        while self.feeds < enough:
            await asyncio.sleep(0.001)


def run(scenario: Callable[[QueueExecutor, FaultyQueue, SqliteQueue], Awaitable[Any]]) -> Any:
    """With an executor, its queue, and the same transport as a worker opens it."""

    async def main(path: Path) -> Any:
        queue, workers = FaultyQueue(path), SqliteQueue(path)
        try:
            async with asyncio.timeout(60), QueueExecutor("local", lambda: queue) as executor:
                await executor.start()
                return await scenario(executor, queue, workers)
        finally:
            workers.close()

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(main(Path(folder) / "queue.sqlite"))


def work_off(queue: SqliteQueue, steps: int = 0) -> None:
    """Claim one job and complete it."""
    (claim,) = queue.claim(["w"], 10)
    for step in range(steps):
        queue.report([(claim, f'{{"step": {step}}}')])
    assert queue.finish([(claim, Outcome(JobState.COMPLETED, 1, "{}"))]) == [True]


async def watched(executor: QueueExecutor, job_id: str) -> "asyncio.Task[list[JobState]]":
    """The states that a watcher in a task of its own is given, once it was given the first."""
    began = asyncio.Event()

    async def watch() -> list[JobState]:
        given = []
        async for event in executor.watch(job_id):
            given.append(event.state)
            began.set()
        return given

    task = asyncio.create_task(watch())
    await began.wait()
    return task


async def states(executor: QueueExecutor, job_id: str, after: int = 0) -> list[JobState]:
    return [event.state async for event in executor.watch(job_id, after)]


def test_a_job_that_its_transport_forgets_is_lost_to_its_watcher() -> None:
    async def scenario(executor: QueueExecutor, _: FaultyQueue, workers: SqliteQueue) -> None:
        job_id = await executor.submit(REQUEST)
        watching = await watched(executor, job_id)
        with workers.together():
            workers._db.execute("DELETE FROM events")
            workers._db.execute("DELETE FROM jobs")
        with pytest.raises(JobLost, match="submit it again"):
            await watching

    run(scenario)


def test_events_that_the_feed_leaves_out_are_found_again() -> None:
    async def scenario(executor: QueueExecutor, queue: FaultyQueue, workers: SqliteQueue) -> None:
        job_id = await executor.submit(REQUEST)
        watching = await watched(executor, job_id)
        queue.feed_is_silent = True
        (claim,) = workers.claim(["w"], 10)
        await queue.fed_twice()
        queue.feed_is_silent = False
        workers.finish([(claim, Outcome(JobState.COMPLETED, 1, "{}"))])
        assert await watching == [JobState.IN_QUEUE, JobState.IN_PROGRESS, JobState.COMPLETED]

    run(scenario)


def test_a_feed_that_is_silent_altogether_only_costs_time() -> None:
    async def scenario(executor: QueueExecutor, queue: FaultyQueue, workers: SqliteQueue) -> None:
        queue.feed_is_silent = True
        job_id = await executor.submit(REQUEST)
        watching = asyncio.create_task(states(executor, job_id))
        work_off(workers, steps=3)
        assert len(await watching) == 6

    run(scenario)


@pytest.mark.parametrize("error", [TransportDown("away"), SpecError("its password changed")])
def test_a_transport_that_is_down_for_a_while_is_asked_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(executor: QueueExecutor, queue: FaultyQueue, workers: SqliteQueue) -> None:
        job_id = await executor.submit(REQUEST)
        watching = await watched(executor, job_id)
        queue.feed_error = error
        await queue.fed_twice()
        work_off(workers)
        await queue.fed_twice()
        assert not watching.done()
        queue.feed_error = None
        assert (await watching)[-1] == JobState.COMPLETED

    run(scenario)
    assert str(error) in caplog.text
    assert "Traceback" not in caplog.text


def test_a_defect_of_the_reader_reaches_the_watchers_and_the_next_ones_read_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(executor: QueueExecutor, queue: FaultyQueue, workers: SqliteQueue) -> None:
        job_id = await executor.submit(REQUEST)
        watching = await watched(executor, job_id)
        queue.feed_error = ZeroDivisionError("a defect")
        with pytest.raises(TransportDown, match="a defect"):
            await watching
        queue.feed_error = None
        work_off(workers)
        assert (await states(executor, job_id))[-1] == JobState.COMPLETED

    run(scenario)
    assert "stopped" in caplog.text


def test_a_refused_put_reaches_everybody_who_waited_for_it() -> None:
    async def scenario(executor: QueueExecutor, queue: FaultyQueue, _: SqliteQueue) -> None:
        queue.put_error = StorageFull("full")
        asked = [executor.submit(REQUEST) for _ in range(5)]
        refused = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(error) for error in refused] == [StorageFull] * 5
        queue.put_error = None
        assert await executor.known([await executor.submit(REQUEST)])

    run(scenario)


def test_closing_ends_watchers_and_submitters_with_a_reason() -> None:
    async def scenario(executor: QueueExecutor, _: FaultyQueue, __: SqliteQueue) -> None:
        job_id = await executor.submit(REQUEST)
        watching = await watched(executor, job_id)
        asking = [asyncio.create_task(executor.submit(REQUEST)) for _ in range(3)]
        await asyncio.sleep(0)
        await executor.close()
        with pytest.raises(SpecError, match="go on without this watcher"):
            await watching
        for outcome in await asyncio.gather(*asking, return_exceptions=True):
            assert isinstance(outcome, SpecError | str)
        with pytest.raises(SpecError, match="closed"):
            await executor.health()

    run(scenario)


def test_a_submitter_that_goes_away_does_not_disturb_the_others() -> None:
    async def scenario(executor: QueueExecutor, _: FaultyQueue, __: SqliteQueue) -> None:
        gone = asyncio.create_task(executor.submit(REQUEST))
        stays = asyncio.create_task(executor.submit(REQUEST))
        await asyncio.sleep(0)
        gone.cancel()
        assert await executor.known([await stays]) == {await stays}

    run(scenario)


def test_the_watch_of_a_job_beyond_those_kept_fresh_reads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queued, "_MOST_FRESH", 1)

    async def scenario(executor: QueueExecutor, queue: FaultyQueue, workers: SqliteQueue) -> None:
        await queue.fed_twice()
        first, second = [await executor.submit(REQUEST) for _ in range(2)]
        work_off(workers)
        work_off(workers)
        for job_id in (first, second):
            assert len(await states(executor, job_id)) == 3
        assert await states(executor, first, after=3) == []

    run(scenario)


def test_a_queue_on_redis_without_its_client_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "visiondyno.executors.redis_queue", None)
    with pytest.raises(MissingExtra, match=r"visiondyno\[redis\]"):
        open_queue("redis://127.0.0.1:1/0")
