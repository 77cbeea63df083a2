"""Whatever dies, a job of the local queue ends once, with its own answer, and nothing is left."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from contracts.executor_contract import events_of
from visiondyno.executors.queue import QueuedJob
from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.sqlite_queue import SqliteQueue
from visiondyno.executors.supervised import SupervisedExecutor, queue_workers
from visiondyno.job import JobRequest, JobState, Policy
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


def test_a_killed_workers_job_runs_again_and_ends_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(2, 2, 60)) as executor:
            job_id = await executor.submit(job("once killed", marker=str(tmp_path / "marker")))
            os.kill(await pid_of(executor, job_id), signal.SIGKILL)
            events = await events_of(executor, job_id)
            states = [event.state for event in events if event.progress is None]
            assert states == [
                JobState.IN_QUEUE,
                JobState.IN_PROGRESS,
                JobState.IN_QUEUE,
                JobState.IN_PROGRESS,
                JobState.COMPLETED,
            ]
            assert events[-1].answer is not None
            assert events[-1].answer.result() == {"attempt": 2}

    run(scenario)


def test_a_job_that_kills_every_worker_fails_and_says_how(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(1, 1, 60), max_attempts=2) as executor:
            events = await events_of(executor, await executor.submit(job("kill yourself")))
            answer = events[-1].answer
            assert answer is not None
            assert answer.status == JobState.FAILED
            assert answer.error is not None
            assert answer.error.code == "child_died"
            assert "SIGKILL" in answer.error.message
            assert "goodbye" in answer.error.message
            assert "attempt 2 of 2" in answer.error.message
            after = await events_of(executor, await executor.submit(job("log", lines=["fine"])))
            assert after[-1].state == JobState.COMPLETED

    run(scenario)


def test_a_job_stuck_in_native_code_is_killed_at_its_limit(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(1, 1, 60)) as executor:
            stuck = await executor.submit(job("hang", Policy(execution_timeout_ms=200)))
            pid = await pid_of(executor, stuck)
            answer = (await events_of(executor, stuck))[-1].answer
            assert answer is not None
            assert answer.status == JobState.TIMED_OUT
            assert "killed" in (answer.error.message if answer.error else "")
            await until(lambda: not psutil.pid_exists(pid))
            after = await events_of(executor, await executor.submit(job("log", lines=["fine"])))
            assert after[-1].state == JobState.COMPLETED

    run(scenario)


def test_cancel_kills_an_operation_that_does_not_heed_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(1, 1, 60)) as executor:
            stuck = await executor.submit(job("hang"))
            pid = await pid_of(executor, stuck)
            await executor.cancel(stuck)
            assert (await events_of(executor, stuck))[-1].state == JobState.CANCELLED
            await until(lambda: not psutil.pid_exists(pid))

    run(scenario)


def test_cancel_of_an_operation_that_heeds_it_keeps_the_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(1, 1, 60)) as executor:
            running = await executor.submit(job("until stopped"))
            await pid_of(executor, running)
            while not (told := await executor.workers()):
                await asyncio.sleep(0.02)
            (before,) = told
            await executor.cancel(running)
            events = await events_of(executor, await executor.submit(job("log", lines=["next"])))
            assert events[-1].state == JobState.COMPLETED
            (after,) = await executor.workers()
            assert after.pid == before.pid
            assert after.restarts == 0

    run(scenario)


def test_what_an_operation_prints_is_its_log_before_its_answer(tmp_path: Path) -> None:
    lines = ["one", "zwei – drei", '{"R": "not an answer"}', ""]

    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(1, 1, 60)) as executor:
            events = await events_of(executor, await executor.submit(job("log", lines=lines)))
            said = [e.progress["log"] for e in events if e.progress and "log" in e.progress]
            assert said == lines
            assert events[-1].state == JobState.COMPLETED

    run(scenario)


def test_an_endless_log_is_cut_and_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(1, 1, 60)) as executor:
            chatter = ["x" * 50] * 5000
            events = await events_of(executor, await executor.submit(job("log", lines=chatter)))
            said = [e.progress["log"] for e in events if e.progress and "log" in e.progress]
            assert len(said) == 2001
            assert "rest is not kept" in said[-1]

    run(scenario)


@pytest.mark.parametrize("size", [10_000_000])
def test_large_inputs_and_outputs_pass_whole(tmp_path: Path, size: int) -> None:
    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(1, 1, 60)) as executor:
            events = await events_of(
                executor, await executor.submit(job("mirror", text="ä" * size))
            )
            assert events[-1].answer is not None
            assert events[-1].answer.result() == {"text": "ä" * size}

    run(scenario)


def test_workers_start_with_the_first_job_and_end_when_idle(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(0, 2, 0.3)) as executor:
            await executor.start()
            assert list(await executor.workers()) == []
            events = await events_of(executor, await executor.submit(job("log", lines=[])))
            assert events[-1].state == JobState.COMPLETED
            while await executor.workers():
                await asyncio.sleep(0.05)
            again = await events_of(executor, await executor.submit(job("log", lines=[])))
            assert again[-1].state == JobState.COMPLETED

    run(scenario)


def test_drain_resume_and_restart_of_a_worker(tmp_path: Path) -> None:
    async def state_is(executor: SupervisedExecutor, wanted: str) -> Any:
        while True:
            workers = await executor.workers()
            if workers and workers[0].state == wanted:
                return workers[0]
            await asyncio.sleep(0.02)

    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(1, 1, 60)) as executor:
            await executor.start()
            worker = await state_is(executor, "idle")
            await executor.command_worker(worker.name, "drain")  # type: ignore[arg-type]
            await state_is(executor, "drained")
            waiting = await executor.submit(job("log", lines=[]))
            assert [e.state async for e in _first(executor, waiting)] == [JobState.IN_QUEUE]
            await executor.command_worker(worker.name, "resume")  # type: ignore[arg-type]
            assert (await events_of(executor, waiting))[-1].state == JobState.COMPLETED
            await executor.command_worker(worker.name, "restart")  # type: ignore[arg-type]
            while (now := await state_is(executor, "idle")).pid == worker.pid:
                await asyncio.sleep(0.02)
            assert now.name == worker.name

    run(scenario)


async def _first(executor: SupervisedExecutor, job_id: str) -> Any:
    async for event in executor.watch(job_id):
        yield event
        return


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
        job_id = await first.submit(job("slow", seconds=1.5, marker=str(tmp_path / "marker")))
        worker_pid = await pid_of(first, job_id)
        assert first.supervisor_pid is not None
        both = [first.supervisor_pid, worker_pid]
        for pid in both:
            os.kill(pid, signal.SIGSTOP)
        async with local(tmp_path, ScaleLimits(1, 1, 60), lease_s=1.0) as second:
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


def test_a_queue_of_another_boot_or_a_damaged_one_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    for number, spoil in enumerate((_reboot, _damage, _newer)):
        queue = SqliteQueue(path)
        queue.put([QueuedJob("a", "{}")])
        queue.close()
        spoil(path)
        fresh = SqliteQueue(path)
        assert fresh.known(["a"]) == set()
        fresh.put([QueuedJob("b", "{}")])
        assert fresh.counts().claimable == 1
        fresh.close()
        time.sleep(1.0 if number < 2 else 0)  # the names of what is put aside hold the second
    assert len(list(tmp_path.glob("queue.sqlite3.*.aside"))) == 3


def _reboot(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE boot SET id = 'the boot before'")
    connection.close()


def _damage(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


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


def test_an_error_of_any_text_is_told_and_costs_no_worker(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local(tmp_path, ScaleLimits(1, 1, 60)) as executor:
            odd = await executor.submit(job("refuse", text="half a character \ud800"))
            answer = (await events_of(executor, odd))[-1].answer
            assert answer is not None
            assert answer.error is not None
            assert (answer.error.code, answer.error.message) == (
                "bad_input",
                "half a character \\ud800",
            )
            mirrored = await executor.submit(job("mirror", text="\ud800"))
            answer = (await events_of(executor, mirrored))[-1].answer
            assert answer is not None
            assert answer.result() == {"text": "\ud800"}

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
