"""The arms of the dispatch benchmark: each accepts no-op jobs and waits for their answers.

An arm is started anew for each round, alone on the machine, with two workers that run one job at a
time each, and a Redis of its own that all arms configure alike.
"""

import asyncio
import gc
import importlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from saq import Job, Queue, Status, Worker
from saq.job import TERMINAL_STATUSES

from visiondyno.job import JobRequest, JobState
from visiondyno.service import Service
from visiondyno.settings import load_settings
from visiondyno.wiring import make_queue_executor, make_service

HERE = Path(__file__).parent
WORKERS = 2
SAQ_JOB: dict[str, Any] = {"timeout": 3600, "heartbeat": 8, "retries": 3}
SAQ_SWEEP_S = 2
GIVE_UP_S = 120


class Arm(Protocol):
    """What is measured."""

    async def many(self, numbers: Iterable[int]) -> None:
        """Submit all at once and wait for every answer."""

    async def in_turn(self, numbers: Iterable[int]) -> list[float]:
        """Submit one after another; milliseconds from asking to the answer."""


async def _timed(ask: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> list[float]:
    spent_ms = []
    for number in numbers:
        start = time.perf_counter_ns()
        await ask(number)
        spent_ms.append((time.perf_counter_ns() - start) / 1e6)
    return spent_ms


class OurArm:
    """The service: a durable record, submit, and watch to the terminal event."""

    def __init__(self, service: Service) -> None:
        self._jobs = service.jobs

    async def many(self, numbers: Iterable[int]) -> None:
        await asyncio.gather(*map(self._one, numbers))

    async def in_turn(self, numbers: Iterable[int]) -> list[float]:
        return await _timed(self._one, numbers)

    async def _one(self, number: int) -> None:
        request = JobRequest(input={"operation": "noop", "number": number})
        record = await self._jobs.submit(request)
        last = None
        async for recorded in self._jobs.watch(record.id):
            last = recorded.event
        assert last is not None
        assert last.state == JobState.COMPLETED
        assert last.answer is not None
        assert last.answer.output == {"number": number}


@asynccontextmanager
async def our_arm(redis_url: str | None) -> AsyncIterator[Arm]:
    """`local` without a URL, else `redis`; the store is a SQLite file in either."""
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings(
            home=Path(home), redis_url=redis_url, workers_min=WORKERS, workers_max=WORKERS
        )
        executor = make_queue_executor(settings, own_workers=True, entry="dispatch_noop:run")
        async with make_service(settings, executor) as service:
            yield OurArm(service)


class SaqArm:
    """SAQ: enqueue, wait for the notice of the end, then read the results.

    Attributes:
        without_result: jobs of all rounds that ended without their answer.
    """

    without_result = 0

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def many(self, numbers: Iterable[int]) -> None:
        jobs = {f"{number}": Job("noop", {"number": number}, **SAQ_JOB) for number in numbers}
        for key, job in jobs.items():
            job.key = key
        left = set(jobs)

        def take(key: str, status: Status) -> bool:
            if status in TERMINAL_STATUSES:
                left.discard(key)
            return not left

        ended = asyncio.create_task(self._queue.listen(list(jobs), take, timeout=GIVE_UP_S))
        await asyncio.sleep(0)
        await asyncio.gather(*map(self._queue.enqueue, jobs.values()))
        await ended
        for key, stored in zip(jobs, await self._queue.jobs(list(jobs)), strict=True):
            if stored is None or stored.result != int(key):
                SaqArm.without_result += 1  # its sweep sometimes ends a job that is about to run

    async def in_turn(self, numbers: Iterable[int]) -> list[float]:
        async def one(number: int) -> None:
            await self.many([number])

        return await _timed(one, numbers)


@asynccontextmanager
async def saq_arm(redis_url: str) -> AsyncIterator[Arm]:
    """SAQ with the settings that served long jobs best."""
    command = [sys.executable, __file__, redis_url]
    queue = Queue.from_url(redis_url)
    workers = [subprocess.Popen(command) for _ in range(WORKERS)]
    # While somebody listens the subscription stays: else each job would pay for a new one.
    listening = asyncio.create_task(queue.listen(["nobody"], lambda *_: False, timeout=None))
    try:
        yield SaqArm(queue)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        _end(workers)
        await queue.disconnect()


class CeleryArm:
    """Celery: `delay` and `get`; it blocks, so it runs on a thread."""

    def __init__(self, noop: Any) -> None:
        self._noop = noop

    async def many(self, numbers: Iterable[int]) -> None:
        def run() -> None:
            asked = [(number, self._noop.delay(number)) for number in numbers]
            for number, result in asked:
                assert result.get(timeout=GIVE_UP_S) == number

        await asyncio.to_thread(run)

    async def in_turn(self, numbers: Iterable[int]) -> list[float]:
        def run() -> list[float]:
            spent_ms = []
            for number in numbers:
                start = time.perf_counter_ns()
                assert self._noop.delay(number).get(timeout=GIVE_UP_S) == number
                spent_ms.append((time.perf_counter_ns() - start) / 1e6)
            return spent_ms

        return await asyncio.to_thread(run)


@asynccontextmanager
async def celery_arm(redis_url: str) -> AsyncIterator[Arm]:
    """Celery with the settings that rerun a lost job."""
    os.environ["DISPATCH_REDIS"] = redis_url
    module = importlib.import_module("dispatch_celery")
    module.app.conf.update(broker_url=redis_url, result_backend=redis_url)
    module = importlib.reload(module)
    options = ["--concurrency", str(WORKERS), "--loglevel", "ERROR"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    command = [sys.executable, "-m", "celery", "-q", "-A", "dispatch_celery", "worker"]
    environ = {**os.environ, "PYTHONWARNINGS": "ignore"}  # of running as root, in a container
    worker = subprocess.Popen(
        [*command, *options, *quiet], cwd=HERE, env=environ, stdout=subprocess.DEVNULL
    )
    try:
        yield CeleryArm(module.noop)
    finally:
        gc.collect()  # Celery's results say goodbye to Redis: while it is there
        module.app.backend.result_consumer.stop()
        _end([worker])
        module.app.close()


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def noop(_: dict[str, Any], *, number: int) -> int:
    """SAQ's operation: answer with the number that came."""
    return number


async def work(url: str) -> None:
    """One of SAQ's worker processes."""
    logging.getLogger("saq").setLevel(logging.ERROR)
    functions: Any = [noop]
    timers: Any = {"sweep": SAQ_SWEEP_S}
    worker: Worker[Any] = Worker(Queue.from_url(url), functions, concurrency=1, timers=timers)
    await worker.start()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
