"""What was accepted survives the process that accepted it."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.executor_contract import request, run_test_operation
from faulty_executors import FaultyExecutor, running_service
from services import RedisInstance
from visiondyno.executors.inline import InlineExecutor
from visiondyno.job import JobState
from visiondyno.settings import Settings
from visiondyno.store.records import JobFilter
from visiondyno.store.sql import open_store
from visiondyno.wiring import make_queue_executor, make_service

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("killed_after", [10, 120], ids=lambda after: f"after {after}")
def test_a_killed_service_loses_no_accepted_job(tmp_path: Path, killed_after: int) -> None:
    accepted = {}
    with subprocess.Popen(
        [sys.executable, str(TESTS / "service_process.py"), str(tmp_path), "200"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            job_id, number = line.split()
            accepted[job_id] = number
            if len(accepted) == killed_after:
                process.kill()

    async def main() -> None:
        executor = InlineExecutor(run_test_operation)
        async with asyncio.timeout(120), running_service(tmp_path, executor) as service:
            # What the client never heard of, it asks for again, and nothing is made twice.
            for number in range(200):
                job = await service.jobs.submit(
                    request("echo", say=str(number), steps=2), idempotency_key=f"number {number}"
                )
                accepted.setdefault(job.id, str(number))
            for job_id, number in accepted.items():
                ended = await service.jobs.wait(job_id, 60)
                assert ended.state == JobState.COMPLETED
                assert ended.answer is not None
                assert ended.answer.result() == {"said": number}
                events = service.store.jobs.events(job_id)
                assert [one.event.number for one in events] == [*range(1, len(events) + 1)]
                assert [one.event.state.is_terminal for one in events].count(True) == 1
            assert len(await service.jobs.find(JobFilter(limit=1000))) == 200

    asyncio.run(main())
    assert len(accepted) == 200
    assert sorted(map(int, accepted.values())) == [*range(200)]


def test_two_servers_share_a_postgresql(tmp_path: Path, postgres_url: str) -> None:
    open_store(postgres_url, upgrade=True).close()

    async def main() -> None:
        executor = FaultyExecutor()
        executor.is_shared = True
        async with (
            asyncio.timeout(120),
            running_service(tmp_path / "one", executor, database_url=postgres_url) as one,
            running_service(tmp_path / "other", executor, database_url=postgres_url) as other,
        ):
            executor.holds = asyncio.Event()
            jobs = [await one.jobs.submit(request("echo", say="x", steps=3)) for _ in range(30)]
            await other.jobs.reconcile()
            executor.holds.set()
            for job in jobs:
                ended = await other.jobs.wait(job.id, 60)
                assert (ended.state, ended.attempts) == (JobState.COMPLETED, 1)
                numbers = [recorded.event.number async for recorded in one.jobs.watch(job.id)]
                assert numbers == [1, 2, 3, 4, 5, 6]
            # The same request of a client that asks both is one job.
            wanted = request("echo", say="once")
            each = await asyncio.gather(
                *(service.jobs.submit(wanted, idempotency_key="k") for service in (one, other))
            )
            assert each[0].id == each[1].id
        executor.is_shared = False
        await executor.close()

    asyncio.run(main())


def test_the_service_of_the_settings_runs_jobs_on_workers_of_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings(home=tmp_path, idle_timeout_s=0.5)
        async with asyncio.timeout(120), make_service(settings) as service:
            job = await service.jobs.submit(request("fly"))
            ended = await service.jobs.wait(job.id, 60)
            assert ended.state == JobState.FAILED
            assert ended.answer is not None
            assert ended.answer.error is not None
            assert "'fly'" in ended.answer.error.message
            workers = await service.jobs.workers()
            assert ended.worker_id in {worker.name for worker in workers}
            ready = await service.readiness()
            assert ready.ready, ready.checks

    asyncio.run(main())


def test_a_flushed_redis_gets_its_jobs_back(
    tmp_path: Path, redis_url: str, redis_instance: RedisInstance
) -> None:
    async def main() -> None:
        settings = Settings(home=tmp_path, redis_url=redis_url)
        async with asyncio.timeout(120), make_service(settings) as service:
            assert service.executor.name == "redis"
            jobs = [await service.jobs.submit(request("echo", say="x")) for _ in range(20)]
            while (await service.executor.health()).jobs["IN_QUEUE"] < 20:
                await asyncio.sleep(0.005)
            redis_instance.flush()
            while (await service.executor.health()).jobs["IN_QUEUE"] < 20:
                await service.jobs.reconcile()
                await asyncio.sleep(0.05)
            ready = await service.readiness()
            assert not ready.ready
            assert "dyno worker" in ready.checks["workers"]
            assert await service.jobs.purge() == len(jobs)

    asyncio.run(main())


def test_a_server_may_have_workers_on_redis_too(tmp_path: Path, redis_url: str) -> None:
    async def main() -> None:
        settings = Settings(home=tmp_path, redis_url=redis_url)
        executor = make_queue_executor(settings, own_workers=True)
        async with asyncio.timeout(120), make_service(settings, executor) as service:
            job = await service.jobs.submit(request("fly"))
            assert (await service.jobs.wait(job.id, 60)).state == JobState.FAILED

    asyncio.run(main())
