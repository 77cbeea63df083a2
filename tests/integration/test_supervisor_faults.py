"""The supervisor killed, stopped, closed, or not to be started: no job is lost or runs twice."""

import asyncio
import os
import signal
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from contracts.executor_contract import events_of
from local_executor import job, local, pid_of, run, until
from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.sqlite_queue import SqliteQueue
from visiondyno.executors.supervised import SupervisedExecutor, queue_workers
from visiondyno.job import JobState
from worker_entries import ENVIRON


def test_a_killed_supervisor_is_replaced_and_its_jobs_run_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(1, 1, 60), lease_s=1.0) as executor:
            job_id = await executor.submit(job("once killed", marker=str(tmp_path / "marker")))
            worker_pid = await pid_of(executor, job_id)
            supervisor = executor.supervisor_pid
            assert supervisor is not None
            os.kill(supervisor, signal.SIGKILL)
            await until(lambda: not psutil.pid_exists(worker_pid))  # no orphan
            answer = (await events_of(executor, job_id))[-1].answer
            assert answer is not None
            assert answer.result() == {"attempt": 2}

    run(scenario)


def test_a_stopped_worker_that_wakes_up_late_writes_nothing(tmp_path: Path) -> None:
    """SIGSTOP of a supervisor and its worker: another takes the job; the first one's is stale."""

    async def scenario() -> None:
        first = local(tmp_path, ScaleLimits(1, 1, 60), lease_s=1.0)
        await first.start()
        goes_on = tmp_path / "goes-on"
        job_id = await first.submit(job("until file", path=str(goes_on)))
        worker_pid = await pid_of(first, job_id)
        assert first.supervisor_pid is not None
        both = [first.supervisor_pid, worker_pid]
        await stop_outside_a_transaction(both, tmp_path / "queue.sqlite3")
        goes_on.touch()
        async with local(tmp_path, ScaleLimits(1, 1, 60), lease_s=10.0) as second:
            answer = (await events_of(second, job_id))[-1].answer
            assert answer is not None
            assert answer.result() == {"attempt": 2}
            for pid in both:
                os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(1.0)
            events = await events_of(second, job_id)
            assert sum(event.answer is not None for event in events) == 1
        await first.close()

    run(scenario)


async def stop_outside_a_transaction(pids: list[int], path: Path) -> None:
    """One that is stopped while it writes would keep the file from everybody."""
    while True:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        with closing(sqlite3.connect(path, timeout=2.0)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
                await asyncio.sleep(0.05)
            else:
                return


def test_closing_gives_running_jobs_back_without_blame(tmp_path: Path) -> None:
    async def scenario() -> None:
        job_id = ""
        for _ in range(4):  # more often than a job has attempts
            async with local(tmp_path, ScaleLimits(1, 1, 60), max_attempts=2) as executor:
                job_id = job_id or await executor.submit(job("until stopped"))
                await executor.start()
                while JobState.IN_PROGRESS not in [e.state for e in _events(tmp_path, job_id)][-1:]:
                    await asyncio.sleep(0.02)
        assert _events(tmp_path, job_id)[-1].state == JobState.IN_QUEUE

    run(scenario)


def _events(folder: Path, job_id: str) -> Any:
    queue = SqliteQueue(folder / "queue.sqlite3")
    try:
        return queue.events(job_id)
    finally:
        queue.close()


def test_a_worker_that_cannot_start_takes_no_job(tmp_path: Path) -> None:
    async def scenario() -> None:
        workers = queue_workers(str(tmp_path / "queue.sqlite3"), ScaleLimits(1, 1, 60))
        broken = SupervisedExecutor(replace(workers, entry="no_such_module:run"), environ=ENVIRON)
        async with broken:
            job_id = await broken.submit(job("log", lines=[]))

            async def restarts() -> int:
                return sum(worker.restarts for worker in await broken.workers())

            while await restarts() < 2:
                await asyncio.sleep(0.05)
            assert [e.state for e in _events(tmp_path, job_id)] == [JobState.IN_QUEUE]

    run(scenario)


def test_a_killed_supervisor_leaves_no_worker_that_is_stuck(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(1, 1, 60)) as executor:
            stuck = await executor.submit(job("hang"))
            worker_pid = await pid_of(executor, stuck)
            assert executor.supervisor_pid is not None
            os.kill(executor.supervisor_pid, signal.SIGKILL)
            await until(lambda: not psutil.pid_exists(worker_pid))
            await executor.cancel(stuck)

    run(scenario)


def test_a_supervisor_that_cannot_be_started_for_a_while_is_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = subprocess.Popen, [2]

    def refuse(*arguments: Any, **rest: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise BlockingIOError("no process to be had")
        return real(*arguments, **rest)

    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(1, 1, 60), lease_s=1.0) as executor:
            await executor.start()
            assert executor.supervisor_pid is not None
            monkeypatch.setattr(subprocess, "Popen", refuse)
            os.kill(executor.supervisor_pid, signal.SIGKILL)
            events = await events_of(executor, await executor.submit(job("log", lines=[])))
            assert events[-1].state == JobState.COMPLETED
            assert left == [0]

    run(scenario)


def test_an_executor_used_at_once_from_the_start_has_one_supervisor(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(1, 1, 60)) as executor:
            await asyncio.gather(*(executor.start() for _ in range(5)))
            children = psutil.Process().children()
            named = [one for one in children if "supervisor_process" in " ".join(one.cmdline())]
            assert [one.pid for one in named] == [executor.supervisor_pid]

    run(scenario)
