"""What every executor promises (`visiondyno.executors.base.Executor`), as one suite.

A subclass gives `make_executor`, an executor that runs `run_test_operation`.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from visiondyno.errors import DatasetError, SpecError
from visiondyno.executors.base import Executor, JobLost
from visiondyno.job import JobAnswer, JobEvent, JobRequest, JobState, Policy
from visiondyno.operations.context import OperationContext


def run_test_operation(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    """Operations for the suite: echo, refuse, crash, and one that runs until it is stopped."""
    match job_input.get("operation"):
        case "echo":
            for step in range(job_input.get("steps", 0)):
                context.progress("step", done=step)
            return {"said": job_input["say"]}
        case "refuse":
            raise DatasetError("images/7.jpg is empty; replace it.")
        case "crash":
            raise ZeroDivisionError("division by zero")
        case "until stopped":
            context.progress("started")
            while True:
                context.check()
                time.sleep(0.001)
        case other:
            raise SpecError(f"'operation' must be known; got {other!r}.")


def request(operation: str, policy: Policy | None = None, **rest: Any) -> JobRequest:
    return JobRequest(input={"operation": operation, **rest}, policy=policy or Policy())


async def events_of(executor: Executor, job_id: str) -> list[JobEvent]:
    return [event async for event in executor.watch(job_id)]


async def started(executor: Executor, job_id: str) -> None:
    async for event in executor.watch(job_id):
        if event.progress == {"stage": "started"}:
            return


class ExecutorContract:
    make_executor: ClassVar[Callable[[], Executor]]
    place_is_by_arrival: ClassVar[str] = ""
    """Why a job that is put back can't have its old place; empty where it has it."""
    added_to_outputs: ClassVar[frozenset[str]] = frozenset()
    """What the executor itself says in outputs."""

    def check(self, scenario: Callable[[Executor], Any]) -> Any:
        async def main() -> Any:
            async with type(self).make_executor() as executor:
                return await asyncio.wait_for(scenario(executor), timeout=60)

        return asyncio.run(main())

    def own_output(self, answer: JobAnswer) -> dict[str, Any]:
        """What the operation answered."""
        output = answer.result()
        assert type(self).added_to_outputs <= output.keys()
        return {
            name: value for name, value in output.items() if name not in type(self).added_to_outputs
        }

    def run(self, job: JobRequest) -> list[JobEvent]:
        async def scenario(executor: Executor) -> list[JobEvent]:
            return await events_of(executor, await executor.submit(job))

        events: list[JobEvent] = self.check(scenario)
        return events

    def test_a_job_completes_with_its_output(self) -> None:
        events = self.run(request("echo", say="hello"))
        answer = events[-1].answer
        assert [event.state for event in events] == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
        assert answer is not None
        assert self.own_output(answer) == {"said": "hello"}
        assert answer.status == JobState.COMPLETED
        assert answer.delay_time_ms is not None
        assert answer.execution_time_ms is not None
        assert answer.worker_id

    def test_events_are_numbered_without_gaps_and_only_the_last_is_terminal(self) -> None:
        events = self.run(request("echo", say="x", steps=50))
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert [e.progress["done"] for e in events if e.progress] == list(range(50))
        assert [event.state.is_terminal for event in events] == [False] * (len(events) - 1) + [True]
        assert [event.answer is None for event in events] == [True] * (len(events) - 1) + [False]

    def test_every_watcher_sees_all_events_however_late_it_comes(self) -> None:
        async def scenario(executor: Executor) -> None:
            job_id = await executor.submit(request("echo", say="x", steps=5))
            early, also_early = await asyncio.gather(
                events_of(executor, job_id), events_of(executor, job_id)
            )
            assert early == also_early == await events_of(executor, job_id)

        self.check(scenario)

    def test_an_error_of_ours_keeps_its_type_code_and_message(self) -> None:
        answer = self.run(request("refuse"))[-1].answer
        assert answer is not None
        assert answer.status == JobState.FAILED
        with pytest.raises(DatasetError, match=r"images/7\.jpg is empty"):
            answer.result()
        assert answer.error is not None
        assert answer.error.code == "bad_dataset"
        assert "run_test_operation" in (answer.error.traceback or "")

    def test_a_defect_fails_the_job_and_not_the_executor(self) -> None:
        async def scenario(executor: Executor) -> None:
            crashed = await events_of(executor, await executor.submit(request("crash")))
            assert crashed[-1].answer is not None
            assert crashed[-1].answer.error is not None
            assert crashed[-1].answer.error.code == "internal"
            assert "division by zero" in crashed[-1].answer.error.message
            after = await events_of(executor, await executor.submit(request("echo", say="y")))
            assert after[-1].state == JobState.COMPLETED

        self.check(scenario)

    def test_a_wrong_operation_is_a_failed_job_and_not_a_refused_submit(self) -> None:
        answer = self.run(request("fly"))[-1].answer
        assert answer is not None
        with pytest.raises(SpecError, match="fly"):
            answer.result()

    def test_cancel_stops_a_running_job(self) -> None:
        async def scenario(executor: Executor) -> None:
            job_id = await executor.submit(request("until stopped"))
            await started(executor, job_id)
            await executor.cancel(job_id)
            assert (await events_of(executor, job_id))[-1].state == JobState.CANCELLED

        self.check(scenario)

    def test_cancel_of_a_queued_job_means_it_never_runs(self) -> None:
        async def scenario(executor: Executor) -> None:
            running = await executor.submit(request("until stopped"))
            await started(executor, running)
            queued = await executor.submit(request("echo", say="never"))
            await executor.cancel(queued)
            states = [event.state for event in await events_of(executor, queued)]
            assert states == ["IN_QUEUE", "CANCELLED"]
            await executor.cancel(running)

        self.check(scenario)

    def test_cancel_of_an_ended_job_changes_nothing(self) -> None:
        async def scenario(executor: Executor) -> None:
            job_id = await executor.submit(request("echo", say="x"))
            before = await events_of(executor, job_id)
            await executor.cancel(job_id)
            assert await events_of(executor, job_id) == before

        self.check(scenario)

    def test_a_job_past_its_execution_timeout_is_timed_out(self) -> None:
        events = self.run(request("until stopped", Policy(execution_timeout_ms=20)))
        assert events[-1].state == JobState.TIMED_OUT
        assert events[-1].answer is not None
        assert events[-1].answer.error is not None
        assert "executionTimeout" in events[-1].answer.error.message

    def test_a_job_past_its_ttl_is_timed_out_without_having_run(self) -> None:
        async def scenario(executor: Executor) -> None:
            first = await executor.submit(request("until stopped"))
            await started(executor, first)
            late = await executor.submit(request("echo", Policy(ttl_ms=1), say="late"))
            await asyncio.sleep(0.01)
            await executor.cancel(first)
            states = [event.state for event in await events_of(executor, late)]
            assert states == ["IN_QUEUE", "TIMED_OUT"]

        self.check(scenario)

    def test_low_priority_waits_for_the_others(self) -> None:
        async def scenario(executor: Executor) -> None:
            first = await executor.submit(request("until stopped"))
            await started(executor, first)
            low = await executor.submit(request("echo", Policy(low_priority=True), say="low"))
            high = await executor.submit(request("until stopped"))
            await executor.cancel(first)
            await started(executor, high)
            seen = executor.watch(low)
            assert (await anext(seen)).state == JobState.IN_QUEUE
            assert (await executor.health()).jobs["IN_QUEUE"] == 1
            await executor.cancel(high)
            assert (await events_of(executor, low))[-1].state == JobState.COMPLETED

        self.check(scenario)

    def test_a_job_that_was_put_back_keeps_its_place(self) -> None:
        async def scenario(executor: Executor) -> None:
            first = await executor.submit(request("until stopped"))
            await started(executor, first)
            newer = await executor.submit(request("until stopped"))
            older = await executor.submit(request("until stopped"), "older.2", 1_000_000_000.0)
            then, last = (newer, older) if self.place_is_by_arrival else (older, newer)
            await executor.cancel(first)
            await started(executor, then)
            assert (await executor.health()).jobs["IN_QUEUE"] == 1
            await executor.cancel(then)
            await started(executor, last)
            await executor.cancel(last)

        self.check(scenario)

    def test_an_unknown_id_is_a_lost_job(self) -> None:
        async def scenario(executor: Executor) -> None:
            with pytest.raises(JobLost, match="nope"):
                await executor.cancel("nope")
            with pytest.raises(JobLost, match="nope"):
                await events_of(executor, "nope")

        self.check(scenario)

    def test_a_job_keeps_the_id_it_was_submitted_under(self) -> None:
        async def scenario(executor: Executor) -> None:
            assert await executor.submit(request("echo", say="mine"), "job.1") == "job.1"
            events = await events_of(executor, "job.1")
            assert {event.job_id for event in events} == {"job.1"}
            assert events[-1].answer is not None
            assert events[-1].answer.id == "job.1"

        self.check(scenario)

    def test_submitting_a_known_id_again_does_nothing(self) -> None:
        async def scenario(executor: Executor) -> None:
            await executor.submit(request("echo", say="first"), "job.1")
            await executor.submit(request("echo", say="second"), "job.1")
            events = await events_of(executor, "job.1")
            await executor.submit(request("echo", say="third"), "job.1")
            assert await events_of(executor, "job.1") == events
            assert events[-1].answer is not None
            assert self.own_output(events[-1].answer) == {"said": "first"}
            assert (await executor.health()).jobs["COMPLETED"] == 1

        self.check(scenario)

    def test_watch_begins_after_the_number_it_is_given(self) -> None:
        async def scenario(executor: Executor) -> None:
            job_id = await executor.submit(request("echo", say="x", steps=3))
            events = await events_of(executor, job_id)
            for after in range(len(events) + 2):
                rest = [event async for event in executor.watch(job_id, after)]
                assert rest == events[after:]

        self.check(scenario)

    def test_known_names_the_jobs_that_it_knows(self) -> None:
        async def scenario(executor: Executor) -> None:
            ended = await executor.submit(request("echo", say="x"))
            await events_of(executor, ended)
            running = await executor.submit(request("until stopped"))
            await started(executor, running)
            assert await executor.known([ended, running, "nope"]) == {ended, running}
            assert await executor.known([]) == set()
            await executor.cancel(running)

        self.check(scenario)

    def test_health_counts_jobs_and_workers(self) -> None:
        async def scenario(executor: Executor) -> None:
            await events_of(executor, await executor.submit(request("echo", say="x")))
            running = await executor.submit(request("until stopped"))
            await started(executor, running)
            health = await executor.health()
            assert health.jobs["COMPLETED"] == 1
            assert health.jobs["IN_PROGRESS"] == 1
            assert health.workers_busy == 1
            await executor.cancel(running)

        self.check(scenario)

    def test_a_closed_executor_refuses_new_jobs(self) -> None:
        async def main() -> None:
            executor = type(self).make_executor()
            await events_of(executor, await executor.submit(request("echo", say="x")))
            await executor.close()
            await executor.close()
            with pytest.raises(SpecError, match="closed"):
                await executor.submit(request("echo", say="x"))

        asyncio.run(main())
