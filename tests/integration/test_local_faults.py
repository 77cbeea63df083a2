"""Whatever dies, a job of the local queue ends once, with its own answer, and nothing is left."""

import asyncio
import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from contracts.executor_contract import events_of
from local_executor import job, local, pid_of, run, until
from visiondyno.executors.queue import QueuedJob
from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.sqlite_queue import SqliteQueue
from visiondyno.executors.supervised import SupervisedExecutor
from visiondyno.job import JobState, Policy


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
            stuck = await executor.submit(job("hang", Policy(execution_timeout_ms=3000)))
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
