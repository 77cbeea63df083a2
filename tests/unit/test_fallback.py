"""Jobs run on the fallback where the primary certainly didn't get them, and never after a doubt."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import pytest

from contracts.executor_contract import (
    ExecutorContract,
    events_of,
    request,
    run_test_operation,
    started,
)
from visiondyno.errors import NotFound, SpecError, TransportDown, Unavailable
from visiondyno.executors.base import ExecutorHealth, JobLost
from visiondyno.executors.breaker import BreakerOpen, Unreachable
from visiondyno.executors.fallback import FallbackExecutor
from visiondyno.executors.inline import InlineExecutor
from visiondyno.executors.workers import WorkerCommand, WorkerInfo, WorkerState
from visiondyno.job import JobEvent, JobRequest
from visiondyno.operations.context import OperationContext

DOWN = Unreachable("No server answers at https://api.runpod.ai/v2/abc; check the network.")


def run(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    if job_input.get("operation") == "note":
        return {"notes": job_input["notes"]}
    return run_test_operation(job_input, context)


class Primary(InlineExecutor):
    """An executor whose transport fails with what is next in `failures`."""

    name = "runpod"

    def __init__(self, *failures: BaseException | None, always: Exception | None = None) -> None:
        super().__init__(run)
        self.failures = list(failures)
        self.always = always

    def _fail(self) -> None:
        failure = self.failures.pop(0) if self.failures else self.always
        if failure is not None:
            raise failure

    async def start(self) -> None:
        self._fail()

    async def submit(
        self, request: JobRequest, job_id: str | None = None, queued_at: float | None = None
    ) -> str:
        if not self._closed:
            self._fail()
        return await super().submit(request, job_id, queued_at)

    async def known(self, job_ids: Collection[str]) -> set[str]:
        return await super().known(job_ids)

    async def health(self) -> ExecutorHealth:
        self._fail()
        return await super().health()

    async def workers(self) -> Sequence[WorkerInfo]:
        self._fail()
        return [WorkerInfo("there", WorkerState.IDLE, 1.0, "host")]

    async def command_worker(self, name: str, command: WorkerCommand) -> None:
        if name != "there":
            raise NotFound(f"No worker is named '{name}'.")


class Staffed(InlineExecutor):
    """A fallback that knows its worker."""

    def __init__(self) -> None:
        super().__init__(run)
        self.told: list[str] = []

    async def workers(self) -> list[WorkerInfo]:
        return [WorkerInfo("here", WorkerState.IDLE, 1.0, "host")]

    async def command_worker(self, name: str, command: WorkerCommand) -> None:
        self.told.append(f"{command} {name}")


def no_fallback() -> InlineExecutor:
    pytest.fail("nothing falls back")


class TestFallbackExecutorWithItsPrimary(ExecutorContract):
    make_executor = staticmethod(lambda: FallbackExecutor(Primary(), no_fallback))


class TestFallbackExecutorAlone(ExecutorContract):
    added_to_outputs = frozenset({"notes"})
    make_executor = staticmethod(
        lambda: FallbackExecutor(Primary(always=DOWN), lambda: InlineExecutor(run))
    )

    def test_events_are_numbered_without_gaps_and_only_the_last_is_terminal(self) -> None:
        events = self.run(request("echo", say="x", steps=5))
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        first, *rest = events
        assert first.progress == {
            "stage": "fallback",
            "executor": "inline",
            "fallback_reason": DOWN.message,
        }
        assert [event.progress["done"] for event in rest if event.progress] == list(range(5))
        assert [event.state.is_terminal for event in rest] == [False] * (len(rest) - 1) + [True]


def on(
    primary: Primary,
    scenario: Callable[[FallbackExecutor], Awaitable[Any]],
    make_fallback: Callable[[], InlineExecutor] = lambda: InlineExecutor(run),
) -> Any:
    async def main() -> Any:
        async with FallbackExecutor(primary, make_fallback) as executor:
            return await asyncio.wait_for(scenario(executor), timeout=60)

    return asyncio.run(main())


@pytest.mark.parametrize("failure", [DOWN, BreakerOpen("It failed 3 times.")], ids=["down", "open"])
def test_notes_tell_where_a_job_ran_and_why(failure: Exception) -> None:
    async def scenario(executor: FallbackExecutor) -> None:
        here = await executor.submit(request("note", notes=["first"]))
        there = await executor.submit(request("note", notes=["first"]))
        answers = [(await events_of(executor, job_id))[-1].answer for job_id in (here, there)]
        outputs = [answer.result() for answer in answers if answer is not None]
        reason = str(failure)
        assert outputs == [
            {"notes": ["first", f"Ran on the 'inline' executor instead of 'runpod': {reason}"]},
            {"notes": ["first"]},
        ]
        assert executor.fallback_reason(here) == reason
        assert executor.fallback_reason(there) is None

    on(Primary(failure), scenario)


@pytest.mark.parametrize("notes", ["a text", None])
def test_notes_of_another_form_are_left_as_they_are(notes: Any) -> None:
    async def scenario(executor: FallbackExecutor) -> list[JobEvent]:
        return await events_of(executor, await executor.submit(request("note", notes=notes)))

    events = on(Primary(DOWN), scenario)
    assert events[-1].answer.result() == {"notes": notes}


@pytest.mark.parametrize(
    "doubt",
    [
        TransportDown("Whether it did what was asked isn't known."),
        Unavailable("It took the job and answered without an id."),
        asyncio.CancelledError(),
    ],
    ids=["timeout", "no id", "cancelled"],
)
def test_a_job_in_doubt_never_runs_a_second_time_here(doubt: BaseException) -> None:
    async def scenario(executor: FallbackExecutor) -> None:
        with pytest.raises(type(doubt)):
            await executor.submit(request("echo", say="x"), "job.1")
        with pytest.raises(TransportDown, match="may run there"):
            await executor.submit(request("echo", say="x"), "job.1")
        assert executor.fallback_reason("job.1") is None

    on(Primary(doubt, DOWN), scenario, no_fallback)


def test_a_job_that_was_accepted_there_stays_there() -> None:
    async def scenario(executor: FallbackExecutor) -> None:
        await executor.submit(request("until stopped"), "job.1")
        await started(executor, "job.1")
        with pytest.raises(TransportDown, match="may run there"):
            await executor.submit(request("echo", say="x"), "job.1")
        await executor.cancel("job.1")

    on(Primary(None, DOWN), scenario, no_fallback)


def test_other_errors_of_a_submission_are_the_users() -> None:
    async def scenario(executor: FallbackExecutor) -> None:
        with pytest.raises(SpecError, match="wrong"):
            await executor.submit(request("echo", say="x"))
        with pytest.raises(TransportDown, match="slow"):
            await executor.submit(request("echo", say="x"))

    on(Primary(SpecError("It is wrong."), TransportDown("It is slow.")), scenario, no_fallback)


def test_a_job_that_fell_back_stays_here_when_the_primary_is_back() -> None:
    async def scenario(executor: FallbackExecutor) -> None:
        here = [await executor.submit(request("echo", say="x"), "job.1") for _ in range(2)]
        there = await executor.submit(request("echo", say="y"))
        assert here == ["job.1", "job.1"]
        for job_id in ("job.1", there):
            await events_of(executor, job_id)
        assert await executor.known(["job.1", there, "nope"]) == {"job.1", there}
        assert await executor.known(["job.1"]) == {"job.1"}
        health = await executor.health()
        assert (health.jobs["COMPLETED"], health.workers_ready) == (2, 2)
        with pytest.raises(JobLost):
            await executor.cancel("nope")

    on(Primary(DOWN), scenario)


def test_it_starts_without_the_primary_and_asks_it_for_each_job() -> None:
    async def scenario(executor: FallbackExecutor) -> None:
        await executor.start()
        assert executor.fallback_reason(await executor.submit(request("echo", say="x"))) is None

    on(Primary(DOWN), scenario, no_fallback)


def test_it_is_as_safe_to_submit_to_twice_as_its_primary() -> None:
    primary = Primary()
    primary.submits_once, primary.durable = False, True
    executor = FallbackExecutor(primary, no_fallback)
    assert (executor.submits_once, executor.durable) == (False, True)
    assert FallbackExecutor(Primary(), no_fallback).submits_once


def test_workers_of_both_are_known_and_told() -> None:
    fallback = Staffed()

    async def scenario(executor: FallbackExecutor) -> None:
        with pytest.raises(Unreachable):
            await executor.workers()
        assert [worker.name for worker in await executor.workers()] == ["there"]
        await executor.command_worker("there", WorkerCommand.DRAIN)
        await executor.submit(request("echo", say="x"))
        assert [worker.name for worker in await executor.workers()] == ["there", "here"]
        await executor.command_worker("here", WorkerCommand.DRAIN)
        await executor.command_worker("there", WorkerCommand.DRAIN)
        with pytest.raises(NotFound, match="nobody"):
            await executor.command_worker("nobody", WorkerCommand.DRAIN)
        primary.always = DOWN
        assert [worker.name for worker in await executor.workers()] == ["here"]

    primary = Primary(DOWN, None, DOWN)
    on(primary, scenario, lambda: fallback)
    assert fallback.told == [f"{WorkerCommand.DRAIN} here"]
