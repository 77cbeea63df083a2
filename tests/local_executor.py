"""An executor with worker processes of its own on this machine, whose jobs fail in every way."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.supervised import SupervisedExecutor, queue_workers
from visiondyno.job import JobRequest, Policy
from worker_entries import ENVIRON


def local(
    folder: Path, scale: ScaleLimits, lease_s: float = 2.0, **rest: Any
) -> SupervisedExecutor:
    workers = queue_workers(str(folder / "queue.sqlite3"), scale)
    chosen = replace(workers, entry="faulty_operations:run", lease_s=lease_s)
    return SupervisedExecutor(chosen, environ=ENVIRON, **rest)


def job(operation: str, policy: Policy | None = None, **rest: Any) -> JobRequest:
    return JobRequest(input={"operation": operation, **rest}, policy=policy or Policy())


def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(60):
            return await scenario()

    return asyncio.run(bounded())


async def until(condition: Callable[[], Any]) -> Any:
    while not (found := condition()):
        await asyncio.sleep(0.02)
    return found


async def pid_of(executor: SupervisedExecutor, job_id: str) -> int:
    """The process that says it runs the job."""
    async for event in executor.watch(job_id):
        if event.progress and "pid" in event.progress:
            return int(event.progress["pid"])
    raise AssertionError("the job ended without having told its process")
