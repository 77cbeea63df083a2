"""The RunPod worker's jobs in real child processes: ended, stopped, killed, replaced."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from visiondyno.errors import ChildDied, OperationFailed, TimeLimitExceeded, TooLarge
from visiondyno.executors import slot
from visiondyno.executors.runpod_wire import job_error
from visiondyno.executors.worker_pipe import WorkerPipe
from visiondyno.runpod_handler.child import Children
from visiondyno.runpod_handler.concurrency import Concurrency
from visiondyno.runpod_handler.gate import Gate
from visiondyno.runpod_handler.handler import JobHandler
from visiondyno.runpod_handler.progress import Json, OpenStream, Post
from worker_entries import ENVIRON


def launch() -> WorkerPipe:
    return WorkerPipe("runpod_operations:run", ENVIRON)


class Jobs:
    """A handler over real processes, and what its streams were given."""

    def __init__(self, children: Children, places: int) -> None:
        self.children = children
        self.items: list[Json] = []
        self.told = asyncio.Condition()
        self.handler = JobHandler(children, Gate(places), Concurrency(places), self._open_stream)

    async def answer(self, operation: str, limit_ms: int | None = None, **rest: Any) -> Json:
        job: Json = {"id": operation, "input": {"operation": operation, **rest}}
        if limit_ms is not None:
            job["policy"] = {"executionTimeout": limit_ms}
        return await self.handler.handle(job)

    async def result(self, operation: str, limit_ms: int | None = None, **rest: Any) -> Json:
        answer = await self.answer(operation, limit_ms, **rest)
        if "error" in answer:
            raise job_error(answer["error"]).to_exception()
        return answer

    async def started(self, operation: str) -> tuple[asyncio.Task[Json], int]:
        """A job that runs, and its process."""
        self.items.clear()
        task = asyncio.create_task(self.answer(operation))
        async with self.told:
            await self.told.wait_for(lambda: self.items)
        return task, self.items.pop()["pid"]

    def _open_stream(self, _: Json) -> OpenStream:
        @asynccontextmanager
        async def opened() -> AsyncGenerator[Post]:
            async def post(item: Json) -> None:
                async with self.told:
                    self.items.append(item)
                    self.told.notify_all()

            yield post

        return opened


def with_jobs(
    scenario: Callable[[Jobs], Awaitable[None]],
    places: int = 1,
    launch: Callable[[], WorkerPipe] = launch,
) -> None:
    async def main() -> None:
        children = Children(places, launch)
        children.start()
        try:
            async with asyncio.timeout(60):
                await scenario(Jobs(children, places))
        finally:
            pids = children.pids
            await children.stop()
            assert not any(Path(f"/proc/{pid}").exists() for pid in pids)

    asyncio.run(main())


async def cancelled(task: asyncio.Task[Json]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_job_that_stops_by_itself_leaves_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot, "CANCEL_GRACE_S", 60.0)

    async def scenario(jobs: Jobs) -> None:
        task, pid = await jobs.started("until stopped")
        await cancelled(task)
        assert (await jobs.result("nap", seconds=0.0, number=1))["pid"] == pid

    with_jobs(scenario)


def test_a_job_that_does_not_stop_is_killed_with_its_process() -> None:
    async def scenario(jobs: Jobs) -> None:
        task, pid = await jobs.started("hang")
        await cancelled(task)
        assert (await jobs.result("nap", seconds=0.0, number=1))["pid"] != pid

        task, pid = await jobs.started("hang")
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        await cancelled(task)  # no grace for who asks twice
        with pytest.raises(TimeLimitExceeded, match="executionTimeout"):
            await jobs.result("hang", limit_ms=100)
        with pytest.raises(TimeLimitExceeded, match="executionTimeout"):
            await jobs.result("until stopped", limit_ms=50)
        assert await jobs.result("tell", times=1) == {"told": 1}

    with_jobs(scenario)


def test_a_cancelled_job_that_waits_never_runs(tmp_path: Path) -> None:
    async def scenario(jobs: Jobs) -> None:
        task, _ = await jobs.started("until stopped")
        waiting = asyncio.create_task(jobs.answer("slow", marker=str(tmp_path / "ran"), seconds=0))
        await asyncio.sleep(0)
        await cancelled(waiting)
        await cancelled(task)
        await jobs.result("tell", times=0)
        assert not (tmp_path / "ran").exists()

    with_jobs(scenario)


def test_a_process_that_dies_fails_its_job_alone() -> None:
    async def scenario(jobs: Jobs) -> None:
        (stays, _), (dies, pid) = await jobs.started("until stopped"), await jobs.started("hang")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ChildDied, match="SIGKILL"):
            raise job_error((await dies)["error"]).to_exception()
        assert not stays.done()
        await cancelled(stays)
        with pytest.raises(ChildDied, match="last words: goodbye"):
            await jobs.result("kill yourself")
        jobs.items.clear()
        assert await jobs.result("tell", times=2) == {"told": 2}
        assert jobs.items == [{"stage": "step", "done": 0}, {"stage": "step", "done": 1}]

    with_jobs(scenario, places=2)


def test_what_a_pipe_does_not_take_at_once_arrives() -> None:
    async def scenario(jobs: Jobs) -> None:
        text = "é\n" * 1_000_000
        assert (await jobs.result("mirror", text=text))["text"] == text

    with_jobs(scenario)


def test_what_the_sdk_would_lose_is_an_error() -> None:
    async def scenario(jobs: Jobs) -> None:
        with pytest.raises(TooLarge, match=r"11\.0 MB .* 10 MB"):
            await jobs.result("large", megabytes=11)
        with pytest.raises(OperationFailed, match="'refresh_worker'"):
            await jobs.result("give", output={"refresh_worker": True, "loss": 1})
        # As JSON with escapes it would be too long.
        assert len((await jobs.result("mirror", text="é" * 2_000_000))["text"]) == 2_000_000

    with_jobs(scenario)


def test_an_idle_process_that_is_killed_is_replaced_and_what_it_prints_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")

    async def scenario(jobs: Jobs) -> None:
        pid = (await jobs.result("nap", seconds=0.0, number=1))["pid"]
        await jobs.result("print later", line="late words")
        while "late words" not in caplog.text:
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        while "was killed by SIGKILL" not in caplog.text:
            await asyncio.sleep(0.01)
        assert (await jobs.result("nap", seconds=0.0, number=2))["pid"] != pid

    with_jobs(scenario)


def no_process() -> WorkerPipe:
    raise BlockingIOError("no process to be had")


def no_operations() -> WorkerPipe:
    return WorkerPipe("no_such_module:run", ENVIRON)


@pytest.mark.parametrize("launch", [no_process, no_operations])
def test_a_machine_that_can_run_nothing_asks_to_be_replaced(
    launch: Callable[[], WorkerPipe],
) -> None:
    async def scenario(jobs: Jobs) -> None:
        answer = await jobs.answer("nap", seconds=0.0, number=1)
        assert answer["refresh_worker"] is True
        assert json.loads(answer["error"])["code"] == "unavailable"

    with_jobs(scenario, launch=launch)
