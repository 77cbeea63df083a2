"""Nothing accepted is lost: transports that forget, go down, repeat; services beside each other."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.executor_contract import request
from faulty_executors import FaultyExecutor, running_service
from recorded_events import assert_whole, events_of, until_started, until_state_with_dispatch
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.errors import TransportDown
from visiondyno.job import JobState, Policy
from visiondyno.service import Service
from visiondyno.service import jobs as jobs_module
from visiondyno.settings import Settings
from visiondyno.store.records import JobRecord
from visiondyno.store.sql import open_store

Scenario = Callable[[Service, FaultyExecutor], Awaitable[None]]


def check(folder: Path, scenario: Scenario) -> None:
    async def main() -> None:
        executor = FaultyExecutor()
        async with asyncio.timeout(60), running_service(folder, executor) as service:
            await scenario(service, executor)

    asyncio.run(main())


def test_a_job_is_accepted_while_the_transport_is_down_and_runs_later(tmp_path: Path) -> None:
    async def scenario(service: Service, executor: FaultyExecutor) -> None:
        executor.is_down = True
        job = await service.jobs.submit(request("echo", say="x"))
        assert (await service.jobs.wait(job.id, 0.3)).state == JobState.IN_QUEUE
        assert "Redis" in (await service.readiness()).checks["queue"]
        await service.jobs.reconcile()
        executor.is_down = False
        assert (await service.jobs.wait(job.id, 30)).state == JobState.COMPLETED
        assert_whole(await events_of(service.jobs, job.id))

    check(tmp_path, scenario)


def test_a_cancel_while_the_transport_is_down_takes_effect_when_it_is_back(tmp_path: Path) -> None:
    async def scenario(service: Service, executor: FaultyExecutor) -> None:
        running = await service.jobs.submit(request("until stopped"))
        await until_started(service.jobs, running.id)
        executor.is_down = True
        cancelling = asyncio.create_task(service.jobs.cancel(running.id))
        unsent = await service.jobs.submit(request("echo", say="never"))
        also_cancelling = asyncio.create_task(service.jobs.cancel(unsent.id))
        while len(executor.asked_to_cancel) < 2:
            await asyncio.sleep(0.001)
        executor.is_down = False
        await asyncio.gather(cancelling, also_cancelling)
        # The follower of the running job still watches; the next look passes the wish on.
        await service.jobs.reconcile()
        for job in (running, unsent):
            assert (await service.jobs.wait(job.id, 30)).state == JobState.CANCELLED
        assert f"{unsent.id}.1" not in executor.submitted

    check(tmp_path, scenario)


@pytest.mark.parametrize("is_deaf", [False, True], ids=["told", "not told"])
def test_what_the_transport_forgets_is_put_back_and_runs(tmp_path: Path, is_deaf: bool) -> None:
    async def scenario(service: Service, executor: FaultyExecutor) -> None:
        executor.is_deaf = is_deaf
        running = await service.jobs.submit(request("until stopped"))
        await until_started(service.jobs, running.id)
        waiting = [await service.jobs.submit(request("echo", say=str(n))) for n in range(5)]
        while len(executor.submitted) < 6:
            await asyncio.sleep(0.001)
        await executor.forget_all()
        if is_deaf:
            await service.jobs.reconcile()
        await until_state_with_dispatch(service, running.id, 2)
        await service.jobs.cancel(running.id)
        for number, job in enumerate(waiting):
            ended = await service.jobs.wait(job.id, 30)
            assert ended.state == JobState.COMPLETED
            assert ended.answer is not None
            assert ended.answer.result() == {"said": str(number)}
            assert_whole(await events_of(service.jobs, job.id))
        events = await events_of(service.jobs, running.id)
        assert_whole(events)
        states = [one.event.state for one in events if one.event.progress is None]
        assert states[:3] == ["IN_QUEUE", "IN_PROGRESS", "IN_QUEUE"]
        assert states[-1] == "CANCELLED"

    check(tmp_path, scenario)


def test_a_transport_that_delivers_twice_is_recorded_once(tmp_path: Path) -> None:
    async def scenario(service: Service, executor: FaultyExecutor) -> None:
        executor.repeats = True
        job = await service.jobs.submit(request("echo", say="x", steps=5))
        events = await events_of(service.jobs, job.id)
        assert_whole(events)
        assert [one.event.progress["done"] for one in events if one.event.progress] == [*range(5)]
        assert await events_of(service.jobs, job.id) == events

    check(tmp_path, scenario)


def test_the_service_looks_by_itself_for_what_was_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs_module, "_RECONCILE_S", 0.001)

    async def scenario(service: Service, executor: FaultyExecutor) -> None:
        executor.is_deaf = True
        job = await service.jobs.submit(request("until stopped"))
        await until_started(service.jobs, job.id)
        executor.is_down = True
        while "not reconciled" not in caplog.text:
            await asyncio.sleep(0.005)
        executor.is_down = False
        known = executor.known
        executor.known = None  # type: ignore[assignment, method-assign]  # a defect
        while "NoneType" not in caplog.text:
            await asyncio.sleep(0.005)
        executor.known = known  # type: ignore[method-assign]
        await executor.forget_all()
        await put_back_and_cancelled(service, job.id)

    check(tmp_path, scenario)


async def put_back_and_cancelled(service: Service, job_id: str) -> None:
    await until_state_with_dispatch(service, job_id, 2)
    await service.jobs.cancel(job_id)
    assert_whole(await events_of(service.jobs, job_id))


def test_a_watch_that_breaks_off_is_taken_up_again(tmp_path: Path) -> None:
    async def scenario(service: Service, executor: FaultyExecutor) -> None:
        executor.cuts = 2
        job = await service.jobs.submit(request("echo", say="x", steps=5))
        events = await events_of(service.jobs, job.id)
        assert_whole(events)
        assert len(events) == 8
        assert executor.cuts == 0

    check(tmp_path, scenario)


def test_a_running_job_that_was_forgotten_can_be_cancelled(tmp_path: Path) -> None:
    async def scenario(service: Service, executor: FaultyExecutor) -> None:
        executor.is_deaf = True
        job = await service.jobs.submit(request("until stopped"))
        await until_started(service.jobs, job.id)
        await executor.forget_all()
        cancelled = await service.jobs.cancel(job.id)
        assert cancelled.state == JobState.CANCELLED
        assert cancelled.answer is not None
        assert cancelled.answer.error is not None
        assert cancelled.answer.error.code == "cancelled"
        assert_whole(await events_of(service.jobs, job.id))
        await service.jobs.reconcile()  # finds that nothing follows it any more
        assert executor.submitted == [f"{job.id}.1"]

    check(tmp_path, scenario)


def test_a_cancel_asked_of_a_process_that_died_is_passed_on(tmp_path: Path) -> None:
    async def scenario(service: Service, executor: FaultyExecutor) -> None:
        job = await service.jobs.submit(request("until stopped"))
        await until_started(service.jobs, job.id)
        service.store.jobs.request_cancel(job.id)  # by another process, and there it ends
        while not (await service.jobs.get(job.id)).state.is_terminal:
            await service.jobs.reconcile()
        assert (await service.jobs.get(job.id)).state == JobState.CANCELLED

    check(tmp_path, scenario)


def test_two_services_put_a_forgotten_job_back_once(tmp_path: Path) -> None:
    async def main() -> None:
        executor = FaultyExecutor()
        executor.is_shared = True
        async with (
            asyncio.timeout(60),
            running_service(tmp_path, executor) as one,
            running_service(tmp_path, executor) as other,
        ):
            job = await one.jobs.submit(request("until stopped"))
            await until_started(one.jobs, job.id)
            await other.jobs.reconcile()
            for dispatch in range(2, 5):
                await executor.forget_all()
                await until_state_with_dispatch(one, job.id, dispatch)
                while not (await executor.health()).workers_busy:
                    await asyncio.sleep(0.001)
                while (await one.jobs.get(job.id)).state != JobState.IN_PROGRESS:
                    await asyncio.sleep(0.001)
            assert (await one.jobs.get(job.id)).dispatch == 4
            await other.jobs.cancel(job.id)
            assert_whole(await events_of(one.jobs, job.id))
        assert set(executor.submitted) == {f"{job.id}.{number}" for number in range(1, 5)}
        executor.is_shared = False
        await executor.close()

    asyncio.run(main())


def test_one_that_hears_late_of_a_loss_leaves_what_runs_again_alone(tmp_path: Path) -> None:
    async def main() -> None:
        executor = FaultyExecutor()
        executor.is_shared = True
        async with (
            asyncio.timeout(60),
            running_service(tmp_path, executor) as one,
            running_service(tmp_path, executor) as late,
        ):
            job = await one.jobs.submit(request("until stopped"))
            await until_started(one.jobs, job.id)
            await late.jobs.reconcile()
            real, runs_again = late.store.jobs.get, threading.Event()

            def get(job_id: str) -> JobRecord | None:
                runs_again.wait(60)
                return real(job_id)

            late.store.jobs.get = get  # type: ignore[method-assign]
            await executor.forget_all()
            await until_state_with_dispatch(one, job.id, 2)
            while (await one.jobs.get(job.id)).state != JobState.IN_PROGRESS:
                await asyncio.sleep(0.001)
            runs_again.set()
            while len(executor.watched) < 4:  # each watches it twice
                await asyncio.sleep(0.001)
            assert (await late.jobs.cancel(job.id)).state == JobState.CANCELLED
        assert executor.submitted == [f"{job.id}.1", f"{job.id}.2"]
        executor.is_shared = False
        await executor.close()

    asyncio.run(main())


def test_a_store_that_cannot_be_read_for_a_while_stops_nothing(tmp_path: Path) -> None:
    async def scenario(service: Service, executor: FaultyExecutor) -> None:
        job = await service.jobs.submit(request("until stopped"))
        await until_started(service.jobs, job.id)
        real, left = service.store.jobs.get, [3]

        def unreadable(job_id: str) -> Any:
            if left[0]:
                left[0] -= 1
                raise TransportDown("The database can't be reached; look at its server.")
            return real(job_id)

        service.store.jobs.get = unreadable  # type: ignore[method-assign]
        await executor.forget_all()
        while left[0]:
            await asyncio.sleep(0.01)
        await put_back_and_cancelled(service, job.id)

    check(tmp_path, scenario)


def test_a_job_cancelled_while_it_is_being_sent_does_not_run(tmp_path: Path) -> None:
    async def scenario(service: Service, executor: FaultyExecutor) -> None:
        executor.holds = asyncio.Event()
        job = await service.jobs.submit(request("until stopped"))
        await asyncio.sleep(0)
        assert (await service.jobs.cancel(job.id)).state == JobState.CANCELLED
        executor.holds.set()
        while not (await executor.health()).jobs["CANCELLED"]:
            await asyncio.sleep(0.001)
        assert_whole(await events_of(service.jobs, job.id))

    check(tmp_path, scenario)


def test_ttl_goes_on_counting_while_a_job_is_put_back(tmp_path: Path) -> None:
    now = [1_000_000.0]

    async def main() -> None:
        executor = FaultyExecutor()
        settings = Settings(home=tmp_path)
        store = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}", clock=lambda: now[0])
        blobs = FolderBlobs(tmp_path / "blobs")
        async with (
            asyncio.timeout(60),
            Service(settings, store, executor, blobs, clock=lambda: now[0]) as service,
        ):
            busy = await service.jobs.submit(request("until stopped"))
            await until_started(service.jobs, busy.id)
            policy = Policy(ttl_ms=60_000)
            short = await service.jobs.submit(request("echo", Policy(ttl_ms=10_000), say="s"))
            long = await service.jobs.submit(request("echo", policy, say="l"))
            retried = await service.jobs.submit(request("refuse", policy))
            while len(executor.submitted) < 4:
                await asyncio.sleep(0.001)
            now[0] += 20
            await executor.forget_all()
            expired = await service.jobs.wait(short.id, 30)
            assert (expired.state, expired.attempts) == (JobState.TIMED_OUT, 0)
            assert expired.answer is not None
            assert expired.answer.error is not None
            assert "ttl" in expired.answer.error.message
            await service.jobs.cancel(busy.id)
            assert (await service.jobs.wait(long.id, 30)).state == JobState.COMPLETED
            assert executor.requests[f"{long.id}.1"].policy.ttl_ms == 40_000
            assert (await service.jobs.wait(retried.id, 30)).state == JobState.FAILED
            now[0] += 1000
            await service.jobs.retry(retried.id)  # waits anew: its ttl begins now
            assert (await service.jobs.wait(retried.id, 30)).state == JobState.FAILED
            assert executor.requests[f"{retried.id}.2"].policy.ttl_ms == 60_000

    asyncio.run(main())


def test_a_service_that_starts_takes_up_what_the_last_one_left(tmp_path: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            async with running_service(tmp_path) as first:
                running = await first.jobs.submit(request("until stopped"))
                await until_started(first.jobs, running.id)
                waiting = [await first.jobs.submit(request("echo", say="x")) for _ in range(20)]
                wanted = await first.jobs.submit(request("echo", say="x"))
                first.store.jobs.request_cancel(wanted.id)  # noted, and then the process ended
            # The inline executor took everything with it.
            async with running_service(tmp_path) as second:
                await until_state_with_dispatch(second, running.id, 2)
                assert (await second.jobs.cancel(running.id)).state == JobState.CANCELLED
                for job in waiting:
                    assert (await second.jobs.wait(job.id, 30)).state == JobState.COMPLETED
                assert (await second.jobs.wait(wanted.id, 30)).state == JobState.CANCELLED

    asyncio.run(main())


def test_two_services_over_one_store_record_each_event_once(tmp_path: Path) -> None:
    async def main() -> None:
        executor = FaultyExecutor()
        executor.is_shared = True
        async with (
            asyncio.timeout(60),
            running_service(tmp_path, executor) as one,
            running_service(tmp_path, executor) as other,
        ):
            jobs = [await one.jobs.submit(request("echo", say="x", steps=3)) for _ in range(20)]
            held = await one.jobs.submit(request("until stopped"))
            watching = asyncio.create_task(events_of(other.jobs, held.id))
            await other.jobs.reconcile()
            await until_started(one.jobs, held.id)
            await other.jobs.cancel(held.id)
            for job in jobs:
                await one.jobs.wait(job.id, 30)
                events = await events_of(other.jobs, job.id)
                assert_whole(events)
                assert len(events) == 6
            events = await watching
            assert_whole(events)
            assert events == await events_of(one.jobs, held.id)
            assert (await one.jobs.get(held.id)).attempts == 1
        executor.is_shared = False
        await executor.close()

    asyncio.run(main())


def test_a_watcher_sees_what_only_another_process_follows(tmp_path: Path) -> None:
    async def main() -> None:
        executor = FaultyExecutor()
        async with (
            asyncio.timeout(60),
            running_service(tmp_path, executor) as one,
            running_service(tmp_path) as other,
        ):
            executor.holds = asyncio.Event()
            job = await one.jobs.submit(request("echo", say="x", steps=3))
            watching = asyncio.create_task(events_of(other.jobs, job.id))
            await asyncio.sleep(0.01)
            executor.holds.set()
            assert_whole(await watching)

    asyncio.run(main())


def test_a_watcher_goes_on_where_a_retry_begins_while_it_reads(tmp_path: Path) -> None:
    async def scenario(service: Service, executor: FaultyExecutor) -> None:
        executor.holds = asyncio.Event()
        job = await service.jobs.submit(request("refuse"))
        beyond = asyncio.create_task(numbers_beyond(service, job.id, 3))
        await asyncio.sleep(0)
        executor.holds.set()
        # The watcher asked for what follows number 3, which is the end of the first run.
        assert await beyond == []
        await service.jobs.wait(job.id, 30)
        await service.jobs.retry(job.id)
        assert await numbers_beyond(service, job.id, 3) == [4, 5, 6]

    check(tmp_path, scenario)


async def numbers_beyond(service: Service, job_id: str, after: int) -> list[int]:
    return [recorded.event.number async for recorded in service.jobs.watch(job_id, after)]
