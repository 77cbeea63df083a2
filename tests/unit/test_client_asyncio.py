"""The client for asyncio: what it repeats, gives up and cancels."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from client_cases import ENDLESS, echo, inline

from contracts.executor_contract import run_test_operation
from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import OperationFailed, RateLimited, SpecError, TransportDown
from visiondyno.executors.inline import InlineExecutor
from visiondyno.job import JobEvent, JobRequest, JobState


class Flaky(InlineExecutor):
    """Can't be reached so many times, before and in the middle of what it does."""

    def __init__(self, failures: int) -> None:
        super().__init__(run_test_operation)
        self.failures = failures

    def fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise TransportDown("The queue can't be reached.")

    async def submit(
        self, request: JobRequest, job_id: str | None = None, queued_at: float | None = None
    ) -> str:
        accepted = await super().submit(request, job_id, queued_at)
        self.fail()  # the answer is lost: the job is there
        return accepted

    async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        async for event in super().watch(job_id, after):
            yield event
            self.fail()


class Sleeps:
    def __init__(self) -> None:
        self.waited_s: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waited_s.append(seconds)


def test_a_queue_that_is_away_for_a_moment_loses_and_repeats_nothing() -> None:
    async def main() -> None:
        sleeps = Sleeps()
        async with AsyncClient(Flaky(5), sleep=sleeps) as client:
            seen: list[JobEvent] = []
            assert await client.run(echo(steps=3), on_event=seen.append) == {"said": "hi"}
            assert [event.number for event in seen] == [1, 2, 3, 4, 5, 6]
            assert (await client.health())["jobs"]["COMPLETED"] == 1
            assert sleeps.waited_s == [0.5, 1.0, 2.0, 4.0, 8.0]

    asyncio.run(main())


def test_a_queue_that_stays_away_is_told_with_the_jobs_id() -> None:
    class Gone(Flaky):
        async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
            raise TransportDown("The queue can't be reached.")
            yield

    async def main() -> None:
        async with AsyncClient(Gone(0), sleep=Sleeps()) as client:
            with pytest.raises(TransportDown, match=r"The job \S+ may go on"):
                await client.run(echo())
            client.executor.failures = 99  # type: ignore[attr-defined]
            with pytest.raises(TransportDown):
                await client.submit(echo())

    asyncio.run(main())


def test_a_job_that_ends_without_an_answer_is_an_error() -> None:
    class SetBack(InlineExecutor):
        async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
            return
            yield

    async def main() -> None:
        async with AsyncClient(SetBack(run_test_operation)) as client:
            with pytest.raises(OperationFailed, match="without an answer"):
                await client.run(echo())

    asyncio.run(main())


def test_a_cancelled_call_cancels_its_job_and_has_waited_for_its_end() -> None:
    async def main() -> None:
        async with AsyncClient(inline()) as client:
            started = asyncio.Event()
            call = asyncio.create_task(
                client.run(ENDLESS, on_event=lambda e: started.set() if e.progress else None)
            )
            await started.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await client.health())["jobs"][JobState.CANCELLED] == 1

    asyncio.run(main())


def test_a_closed_async_client_refuses_everything() -> None:
    async def main() -> None:
        client = AsyncClient(inline())
        await client.run(echo())
        await client.close()
        await client.close()
        with pytest.raises(SpecError, match="closed"):
            await client.submit(echo())

    asyncio.run(main())


class SlowToAccept(InlineExecutor):
    """Takes a job, and says so a moment later, as a server at the end of a long line does."""

    def __init__(self) -> None:
        super().__init__(run_test_operation)
        self.may_answer = asyncio.Event()
        self.is_asked = asyncio.Event()

    async def submit(
        self, request: JobRequest, job_id: str | None = None, queued_at: float | None = None
    ) -> str:
        self.is_asked.set()
        await self.may_answer.wait()
        return await super().submit(request, job_id, queued_at)


def test_a_call_that_is_cancelled_while_its_job_is_submitted_leaves_no_job_running() -> None:
    async def main() -> None:
        async with AsyncClient(slow := SlowToAccept()) as client:
            call = asyncio.create_task(client.run(ENDLESS))
            await slow.is_asked.wait()
            call.cancel()
            await asyncio.sleep(0)
            slow.may_answer.set()
            with pytest.raises(asyncio.CancelledError):
                await call
            jobs = (await client.health())["jobs"]
            assert (jobs[JobState.IN_QUEUE], jobs[JobState.IN_PROGRESS]) == (0, 0)
            assert jobs[JobState.CANCELLED] == 1

    asyncio.run(main())


def test_a_submission_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visiondyno.client.async_client._ACCEPT_S", 0.01)

    async def main() -> None:
        async with AsyncClient(slow := SlowToAccept()) as client:
            call = asyncio.create_task(client.run(ENDLESS))
            await slow.is_asked.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_job_that_cant_be_stopped_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Unstoppable(InlineExecutor):
        async def cancel(self, job_id: str) -> None:
            await super().cancel(job_id)
            raise TransportDown("The queue can't be reached.")

    async def main() -> None:
        client = AsyncClient(Unstoppable(run_test_operation))
        with pytest.raises(ZeroDivisionError):
            await client.run(ENDLESS, on_event=lambda _: 1 // 0)

    asyncio.run(main())
    assert "may go on: it couldn't be stopped. The queue can't be reached." in caplog.text


def test_where_a_second_submission_could_be_a_second_job_none_is_made() -> None:
    class InDoubt(Flaky):
        submits_once = False

    async def main() -> None:
        sleeps = Sleeps()
        async with AsyncClient(InDoubt(1), sleep=sleeps) as client:
            with pytest.raises(TransportDown):
                await client.submit(echo())
            assert sleeps.waited_s == []

    asyncio.run(main())


def test_a_server_that_asks_for_fewer_requests_costs_no_job() -> None:
    class Busy(Flaky):
        def fail(self) -> None:
            if self.failures:
                self.failures -= 1
                raise RateLimited("Too many requests.", retry_after_s=3.0)

        async def submit(
            self, request: JobRequest, job_id: str | None = None, queued_at: float | None = None
        ) -> str:
            return await InlineExecutor.submit(self, request, job_id, queued_at)

        async def cancel(self, job_id: str) -> None:
            raise AssertionError("the job is to go on")

    async def main() -> None:
        sleeps = Sleeps()
        client = AsyncClient(Busy(4), sleep=sleeps)
        assert await client.run(echo(steps=3)) == {"said": "hi"}
        assert sleeps.waited_s == [3.0, 3.0, 3.0, 3.0]

        class Never(Busy):
            async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
                raise RateLimited("Too many requests.")
                yield

        with pytest.raises(RateLimited, match=r"The job \S+ may go on"):
            await AsyncClient(Never(0), sleep=sleeps).run(echo())

    asyncio.run(main())
