"""The service keeps what it accepted: submit, watch, cancel, retry, purge on a real store."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from contracts.executor_contract import request
from faulty_executors import FaultyExecutor, running_service
from visiondyno.errors import Conflict, NotFound, SpecError, TransportDown
from visiondyno.executors.workers import WorkerCommand
from visiondyno.job import JobRequest, JobState, Policy
from visiondyno.service import Service
from visiondyno.service.jobs import JobService
from visiondyno.store.records import JobFilter, JobKind, JobRecord, RecordedEvent

Scenario = Callable[[Service], Awaitable[None]]


def check(folder: Path, scenario: Scenario) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), running_service(folder) as service:
            await scenario(service)

    asyncio.run(main())


async def all_events(jobs: JobService, job_id: str, after: int = 0) -> list[RecordedEvent]:
    return [event async for event in jobs.watch(job_id, after)]


async def until_progress(jobs: JobService, job_id: str) -> None:
    async for recorded in jobs.watch(job_id):
        if recorded.event.progress == {"stage": "started"}:
            return


def test_a_job_is_accepted_run_and_kept(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        accepted = await service.jobs.submit(request("echo", say="hi", steps=2), owner="key_1")
        assert accepted.state == JobState.IN_QUEUE
        assert accepted.endpoint == "default"
        events = await all_events(service.jobs, accepted.id)
        assert [one.event.number for one in events] == [1, 2, 3, 4, 5]
        assert {one.event.job_id for one in events} == {accepted.id}
        answer = events[-1].event.answer
        assert answer is not None
        assert (answer.id, answer.result()) == (accepted.id, {"said": "hi"})
        kept = await service.jobs.get(accepted.id)
        assert (kept.state, kept.attempts, kept.owner) == (JobState.COMPLETED, 1, "key_1")
        assert kept.answer == answer
        assert (kept.created_at, kept.request) == (accepted.created_at, accepted.request)
        counts = await service.jobs.counts()
        assert counts[JobState.COMPLETED] == 1
        assert await service.jobs.find(JobFilter(kind=JobKind.RUN)) == [kept]

    check(tmp_path, scenario)


def test_early_late_and_resumed_watchers_see_the_same_events(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        job = await service.jobs.submit(request("echo", say="x", steps=30))
        early, other = await asyncio.gather(
            all_events(service.jobs, job.id), all_events(service.jobs, job.id)
        )
        late = await all_events(service.jobs, job.id)
        assert early == other == late
        for after in (0, 1, 7, len(late), len(late) + 5):
            assert await all_events(service.jobs, job.id, after) == late[after:]

    check(tmp_path, scenario)


def test_a_watcher_that_joins_half_way_gets_what_it_missed_and_what_comes(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        job = await service.jobs.submit(request("until stopped"))
        await until_progress(service.jobs, job.id)
        watching = asyncio.create_task(all_events(service.jobs, job.id, 1))
        await asyncio.sleep(0)
        await service.jobs.cancel(job.id)
        numbers = [one.event.number for one in await watching]
        assert numbers == list(range(2, 2 + len(numbers)))
        assert (await service.jobs.get(job.id)).last_number == numbers[-1]

    check(tmp_path, scenario)


def test_a_watcher_beyond_the_last_number_ends_with_the_job(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        job = await service.jobs.submit(request("until stopped"))
        await until_progress(service.jobs, job.id)
        watching = asyncio.create_task(all_events(service.jobs, job.id, 1000))
        await asyncio.sleep(0)
        await service.jobs.cancel(job.id)
        assert await watching == []

    check(tmp_path, scenario)


def test_gaps_of_the_policy_are_filled_from_the_settings(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        settings = service.settings
        plain = await service.jobs.submit(request("echo", say="x"))
        assert plain.request.policy.execution_timeout_ms == settings.execution_timeout_ms
        assert plain.request.policy.ttl_ms == settings.ttl_ms
        own = Policy(execution_timeout_ms=5_000, ttl_ms=6_000, low_priority=True)
        given = await service.jobs.submit(request("echo", own, say="x"))
        assert given.request.policy == own

    check(tmp_path, scenario)


@pytest.mark.parametrize(
    "url",
    ["ftp://example.org/x", "/hook", "http://", "https://u:p@example.org", "http://[bad", "x y"],
)
def test_a_wrong_webhook_is_refused_before_anything_is_kept(tmp_path: Path, url: str) -> None:
    async def scenario(service: Service) -> None:
        with pytest.raises(SpecError, match="webhook"):
            await service.jobs.submit(JobRequest(input={"operation": "echo"}, webhook=url))
        assert sum((await service.jobs.counts()).values()) == 0

    check(tmp_path, scenario)


def test_an_idempotency_key_creates_one_job(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        wanted = request("echo", say="once")
        each = await asyncio.gather(
            *(service.jobs.submit(wanted, owner="a", idempotency_key="k") for _ in range(10))
        )
        assert len({job.id for job in each}) == 1
        again = await service.jobs.submit(wanted, owner="a", idempotency_key="k")
        assert again.id == each[0].id
        with pytest.raises(Conflict, match="Idempotency-Key"):
            await service.jobs.submit(request("echo", say="2"), owner="a", idempotency_key="k")
        others = await service.jobs.submit(wanted, owner="b", idempotency_key="k")
        assert others.id != again.id
        assert sum((await service.jobs.counts()).values()) == 2
        for wrong in ("", " ", "x" * 256):
            with pytest.raises(SpecError, match="1 to 255"):
                await service.jobs.submit(wanted, idempotency_key=wrong)

    check(tmp_path, scenario)


def test_a_key_bound_by_a_process_that_died_creates_its_job_later(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        wanted = request("echo", say="x")
        first = await service.jobs.submit(wanted, idempotency_key="k")
        # As if the process had died between binding and adding: the binding without the job.
        scope, store = "run:other:", service.store.jobs
        from visiondyno.service.requests import digest_of

        digest = digest_of(wanted.model_dump(mode="json"))
        store.remember_request(scope, "k", digest, "bound-before", first.created_at)
        job = await service.jobs.submit(wanted, endpoint="other", idempotency_key="k")
        assert job.id == "bound-before"
        assert (await service.jobs.wait(job.id, 30)).state == JobState.COMPLETED

    check(tmp_path, scenario)


def test_cancel_stops_running_and_waiting_jobs_and_leaves_ended_ones(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        running = await service.jobs.submit(request("until stopped"))
        await until_progress(service.jobs, running.id)
        waiting = await service.jobs.submit(request("echo", say="never"))
        for job in (waiting, running):
            cancelled = await service.jobs.cancel(job.id)
            assert cancelled.state == JobState.CANCELLED
            assert await service.jobs.cancel(job.id) == cancelled
        assert (await service.jobs.get(waiting.id)).attempts == 0
        done = await service.jobs.submit(request("echo", say="x"))
        ended = await service.jobs.wait(done.id, 30)
        assert await service.jobs.cancel(done.id) == ended

    check(tmp_path, scenario)


def test_a_retry_runs_a_failed_job_anew_and_its_watch_begins_there(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        job = await service.jobs.submit(request("refuse"))
        assert (await service.jobs.wait(job.id, 30)).state == JobState.FAILED
        retried = await service.jobs.retry(job.id)
        assert (retried.state, retried.answer) == (JobState.IN_QUEUE, None)
        events = await all_events(service.jobs, job.id)
        assert [one.event.number for one in events] == [4, 5, 6]
        assert [one.event.state for one in events] == ["IN_QUEUE", "IN_PROGRESS", "FAILED"]
        assert (await service.jobs.get(job.id)).attempts == 2
        done = await service.jobs.submit(request("echo", say="x"))
        await service.jobs.wait(done.id, 30)
        with pytest.raises(Conflict, match="COMPLETED"):
            await service.jobs.retry(done.id)

    check(tmp_path, scenario)


def test_purge_cancels_what_waits_at_one_endpoint(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        running = await service.jobs.submit(request("until stopped"))
        await until_progress(service.jobs, running.id)
        mine = [await service.jobs.submit(request("echo", say="x")) for _ in range(3)]
        other = await service.jobs.submit(request("echo", say="x"), endpoint="other")
        assert (await service.jobs.oldest_waiting_s() or 0) > 0
        assert await service.jobs.purge() == 3
        assert {(await service.jobs.get(job.id)).state for job in mine} == {JobState.CANCELLED}
        assert (await service.jobs.get(running.id)).state == JobState.IN_PROGRESS
        await service.jobs.cancel(running.id)
        assert (await service.jobs.wait(other.id, 30)).state == JobState.COMPLETED
        assert await service.jobs.oldest_waiting_s() is None

    check(tmp_path, scenario)


def test_wait_gives_the_job_as_it_is_when_the_time_is_over(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        job = await service.jobs.submit(request("until stopped"))
        await until_progress(service.jobs, job.id)
        assert (await service.jobs.wait(job.id, 0.01)).state == JobState.IN_PROGRESS
        await service.jobs.cancel(job.id)

    check(tmp_path, scenario)


def test_unknown_jobs_and_workers_are_not_found(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        for ask in (service.jobs.get, service.jobs.cancel, service.jobs.retry):
            with pytest.raises(NotFound, match="nope"):
                await ask("nope")
        with pytest.raises(NotFound, match="nope"):
            await all_events(service.jobs, "nope")
        with pytest.raises(NotFound, match="nope"):
            await service.jobs.wait("nope", 1)
        with pytest.raises(SpecError, match="inline"):
            await service.jobs.command_worker("w", WorkerCommand.DRAIN)
        assert list(await service.jobs.workers()) == []

    check(tmp_path, scenario)


def test_listeners_hear_of_every_end_and_one_that_fails_stops_nobody(tmp_path: Path) -> None:
    heard: list[tuple[str, JobState, int]] = []

    async def broken(record: JobRecord, last: RecordedEvent) -> None:
        raise ZeroDivisionError

    async def listen(record: JobRecord, last: RecordedEvent) -> None:
        assert record.answer == last.event.answer
        heard.append((record.id, record.state, record.attempts))

    async def scenario(service: Service) -> None:
        service.jobs.on_recorded(broken)
        service.jobs.on_recorded(listen)
        done = await service.jobs.submit(request("echo", say="x"))
        failed = await service.jobs.submit(request("refuse"))
        await service.jobs.wait(done.id, 30)
        await service.jobs.wait(failed.id, 30)
        while len(heard) < 2:
            await asyncio.sleep(0.001)
        assert sorted(heard) == sorted(
            [(done.id, JobState.COMPLETED, 1), (failed.id, JobState.FAILED, 1)]
        )

    check(tmp_path, scenario)


def test_closing_lets_go_of_watchers_and_refuses_new_jobs(tmp_path: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            executor = FaultyExecutor()
            executor.is_shared = True
            async with running_service(tmp_path, executor) as service:
                job = await service.jobs.submit(request("until stopped"))
                await until_progress(service.jobs, job.id)
                watching = asyncio.create_task(all_events(service.jobs, job.id))
                await asyncio.sleep(0.01)
            with pytest.raises(TransportDown, match="stopping"):
                await watching
            with pytest.raises(TransportDown, match="stopping"):
                await service.jobs.submit(request("echo", say="x"))
            # The job went on: a service that comes later takes it up where it is.
            async with running_service(tmp_path, executor) as later:
                assert (await later.jobs.cancel(job.id)).state == JobState.CANCELLED
                assert (await later.jobs.get(job.id)).attempts == 1
            executor.is_shared = False
            await executor.close()

    asyncio.run(main())
