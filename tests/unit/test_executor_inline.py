"""The inline executor keeps the executor contract."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.executor_contract import (
    ExecutorContract,
    events_of,
    request,
    run_test_operation,
    started,
)
from visiondyno.client.client import Client
from visiondyno.executors.base import JobLost
from visiondyno.executors.ended_jobs import KEPT_BYTES, KEPT_S, MOST_BYTES, EndedJobs
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

    with Client(make()) as client, pytest.raises(KeyboardInterrupt):
        client.run({"operation": "until stopped"}, on_event=interrupt_when_started)
    assert stopped == ["operation ended"]


async def ended(executor: InlineExecutor, length: int = 0) -> str:
    job_id = await executor.submit(request("echo", say="x" * length))
    await events_of(executor, job_id)
    return job_id


def test_a_long_row_of_jobs_takes_bounded_memory_and_late_watchers_see_the_last() -> None:
    async def main() -> None:
        async with make_inline() as executor:
            ids = [await ended(executor, 20_000_000) for _ in range(5)]
            assert await executor.known(ids) == set(ids[2:])
            assert (await events_of(executor, ids[-1]))[-1].state == JobState.COMPLETED
            with pytest.raises(JobLost):
                await events_of(executor, ids[0])
            assert (await executor.health()).jobs["COMPLETED"] == 3
            assert sum(len(str(job.request.input)) for job in executor._jobs.values()) < 1000

    asyncio.run(main())


def test_results_that_nobody_has_taken_yet_stay() -> None:
    async def main() -> None:
        now_s = 0.0
        async with InlineExecutor(run_test_operation, clock=lambda: now_s) as executor:
            ids = [await executor.submit(request("echo", say="x" * 9_000_000)) for _ in range(12)]
            while (await executor.health()).jobs["COMPLETED"] < len(ids):
                await asyncio.sleep(0.001)
            now_s = 86_400.0
            for job_id in ids:
                assert (await events_of(executor, job_id))[-1].answer is not None
            now_s += 31 * 60.0
            last = await ended(executor)
            assert await executor.known([*ids, last]) == {last}

    asyncio.run(main())


@given(
    steps=st.lists(
        st.one_of(
            st.integers(0, 700_000_000).map(lambda size: ("end", size)),
            st.integers(0, 20).map(lambda which: ("tell", which)),
            st.integers(0, 4000).map(lambda seconds: ("wait", seconds)),
        ),
        max_size=30,
    )
)
def test_what_is_remembered_of_ended_jobs_keeps_its_bounds(steps: list[tuple[str, int]]) -> None:
    now_s = 0
    there: dict[str, int] = {}
    told: dict[str, int] = {}
    ended_jobs = EndedJobs(there.pop, lambda: now_s)
    for number, (what, value) in enumerate(steps):
        if what == "wait":
            now_s += value
            continue
        if what == "end":
            there[str(number)] = value
            ended_jobs.keep(str(number), value)
            ended_jobs.keep(str(number), value)  # it may be said twice
        elif there:
            job_id = list(there)[value % len(there)]
            told.setdefault(job_id, now_s)
            ended_jobs.note_told(job_id)
        older = list(there)[:-1]
        last = list(there)[-1:]
        seen = [job_id for job_id in there if job_id in told]
        assert sum(there.values()) <= max(MOST_BYTES, sum(there[i] for i in last))
        if [job_id for job_id in seen if job_id in older]:
            assert sum(there[i] for i in seen if i in older) <= KEPT_BYTES
            assert all(now_s - told[i] <= KEPT_S for i in seen if i in older)
