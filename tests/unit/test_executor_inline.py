"""The inline executor keeps the executor contract; so does the blocking face over it."""

import asyncio

import pytest

from contracts.executor_contract import (
    ExecutorContract,
    events_of,
    request,
    run_test_operation,
    started,
)
from visiondyno.errors import DatasetError
from visiondyno.executors.blocking import run_job
from visiondyno.executors.inline import InlineExecutor
from visiondyno.job import JobEvent, JobState


def make_inline() -> InlineExecutor:
    return InlineExecutor(run_test_operation)


class TestInlineExecutor(ExecutorContract):
    make_executor = staticmethod(make_inline)


def test_closing_cancels_what_runs_because_nothing_outlives_the_process() -> None:
    async def main() -> None:
        executor = make_inline()
        running = await executor.submit(request("until stopped"))
        await started(executor, running)
        waiting = await executor.submit(request("echo", say="never"))
        assert ((await executor.health()).oldest_waiting_s or 0) > 0
        await executor.close()
        assert (await events_of(executor, running))[-1].state == JobState.CANCELLED
        assert (await events_of(executor, waiting))[-1].state == JobState.CANCELLED

    asyncio.run(main())


def test_run_job_returns_the_output_and_shows_the_events() -> None:
    seen: list[JobEvent] = []
    output = run_job(make_inline, request("echo", say="hi", steps=2), seen.append)
    assert output == {"said": "hi"}
    assert [event.number for event in seen] == [1, 2, 3, 4, 5]


def test_run_job_raises_the_jobs_own_error() -> None:
    with pytest.raises(DatasetError, match="is empty"):
        run_job(make_inline, request("refuse"))


def test_run_job_works_inside_a_running_loop() -> None:
    async def notebook() -> object:
        return run_job(make_inline, request("echo", say="from a notebook"))

    assert asyncio.run(notebook()) == {"said": "from a notebook"}


def test_an_interrupt_cancels_the_job_before_it_passes_on() -> None:
    stopped: list[str] = []

    def interrupt_when_started(event: JobEvent) -> None:
        if event.progress == {"stage": "started"}:
            raise KeyboardInterrupt

    def make() -> InlineExecutor:
        def run(job_input, context):  # type: ignore[no-untyped-def]
            try:
                return run_test_operation(job_input, context)
            finally:
                stopped.append("operation ended")

        return InlineExecutor(run)

    with pytest.raises(KeyboardInterrupt):
        run_job(make, request("until stopped"), interrupt_when_started)
    assert stopped == ["operation ended"]
