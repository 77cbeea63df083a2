"""The clients: jobs from asyncio, scripts, threads and notebooks, over a real inline executor."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.executor_contract import run_test_operation
from visiondyno.client.async_client import AsyncClient
from visiondyno.client.client import Client
from visiondyno.errors import (
    Cancelled,
    DatasetError,
    NotFound,
    OperationFailed,
    RateLimited,
    SpecError,
    TimeLimitExceeded,
    TransportDown,
)
from visiondyno.executors.base import JobLost
from visiondyno.executors.inline import InlineExecutor
from visiondyno.job import JobEvent, JobRequest, JobState

ENDLESS = {"operation": "until stopped"}
TESTS = Path(__file__).resolve().parents[1]


def echo(say: str = "hi", steps: int = 0) -> dict[str, Any]:
    return {"operation": "echo", "say": say, "steps": steps}


def inline() -> InlineExecutor:
    return InlineExecutor(run_test_operation)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    with Client(inline()) as opened:
        yield opened


def test_a_job_gives_its_output_and_tells_its_events_in_the_callers_thread(client: Client) -> None:
    seen: list[tuple[int, int]] = []
    output = client.run(
        echo(steps=2), on_event=lambda e: seen.append((e.number, threading.get_ident()))
    )
    assert output == {"said": "hi"}
    assert seen == [(number, threading.get_ident()) for number in range(1, 6)]


def test_the_jobs_own_error_is_raised(client: Client) -> None:
    with pytest.raises(DatasetError, match="is empty"):
        client.run({"operation": "refuse"})


def test_a_policy_is_kept(client: Client) -> None:
    with pytest.raises(TimeLimitExceeded):
        client.run(ENDLESS, policy={"executionTimeout": 20})


@pytest.mark.parametrize("policy", [{"executionTimeout": 0}, {"patience": 3}], ids=str)
def test_a_wrong_policy_is_named_before_anything_is_sent(
    client: Client, policy: dict[str, Any]
) -> None:
    with pytest.raises(SpecError, match="policy"):
        client.run(echo(), policy=policy)


def test_what_json_has_not_is_refused_on_every_executor(client: Client) -> None:
    with pytest.raises(SpecError, match="what JSON has"):
        client.run({"operation": "echo", "say": object()})
    assert client.run({"operation": "echo", "say": (1, 2)}) == {"said": [1, 2]}


def test_an_error_of_a_listener_cancels_the_job_and_is_raised(client: Client) -> None:
    def listen(event: JobEvent) -> None:
        if event.progress:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.run(ENDLESS, on_event=listen)
    assert client.health()["jobs"]["CANCELLED"] == 1


def test_several_threads_use_one_client(client: Client) -> None:
    said: dict[int, Any] = {}

    def work(number: int) -> None:
        said[number] = client.run(echo(str(number)))["said"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert said == {number: str(number) for number in range(8)}


def test_it_works_inside_a_running_loop(client: Client) -> None:
    async def notebook() -> dict[str, Any]:
        return client.run(echo("from a notebook"))

    assert asyncio.run(notebook()) == {"said": "from a notebook"}


def test_many_jobs_give_outputs_and_errors_in_order(client: Client) -> None:
    inputs = [echo("0"), {"operation": "refuse"}, echo("2")]
    first, second, third = client.run_many(inputs, at_once=2)
    assert (first, third) == ({"said": "0"}, {"said": "2"})
    assert isinstance(second, DatasetError)
    with pytest.raises(SpecError, match="at_once"):
        client.run_many(inputs, at_once=0)


def test_an_error_of_a_listener_stops_all_of_many_jobs(client: Client) -> None:
    def listen(event: JobEvent) -> None:
        if event.progress:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.run_many([ENDLESS, ENDLESS, ENDLESS], on_event=listen)
    assert client.health()["jobs"]["CANCELLED"] == 3


def test_a_submitted_job_is_watched_and_its_result_taken_later(client: Client) -> None:
    job_id = client.submit(echo(steps=1))
    assert [e.number for e in client.watch(job_id)] == [1, 2, 3, 4]
    assert [e.number for e in client.watch(job_id, after=2)] == [3, 4]
    assert client.result(job_id) == {"said": "hi"}


def test_a_watch_that_is_left_early_leaves_the_job_alone(client: Client) -> None:
    job_id = client.submit(ENDLESS)
    for event in client.watch(job_id):
        if event.progress:
            break
    assert client.health()["jobs"]["IN_PROGRESS"] == 1
    client.cancel(job_id)
    with pytest.raises(Cancelled):
        client.result(job_id)


def test_an_unknown_job_is_lost(client: Client) -> None:
    for ask in (client.result, client.cancel, lambda job_id: list(client.watch(job_id))):
        with pytest.raises(JobLost):
            ask("no-such-job")


def test_health_names_executor_jobs_and_workers(client: Client) -> None:
    client.run(echo())
    found = client.health()
    assert found["executor"] == "inline"
    assert found["jobs"]["COMPLETED"] == 1
    assert found["workers"] == {"ready": 1, "busy": 0}
    assert client.workers() == []


def test_blobs_come_back_as_they_were(client: Client) -> None:
    reference = client.put_blob(b"\x00weights")
    assert client.has_blob(reference)
    assert client.get_blob(reference) == b"\x00weights"
    absent = f"sha256:{'0' * 64}"
    assert not client.has_blob(absent)
    with pytest.raises(NotFound):
        client.get_blob(absent)
    with pytest.raises(SpecError, match="no blob's name"):
        client.get_blob("weights")


def test_a_closed_client_says_so_and_closing_again_does_nothing() -> None:
    client = Client(inline())
    client.run(echo())
    client.close()
    client.close()
    with pytest.raises(SpecError, match="closed"):
        client.run(echo())
    never_used = Client(inline())
    never_used.close()
    with pytest.raises(SpecError, match="closed"):
        never_used.health()


def test_closing_ends_what_others_wait_for() -> None:
    client = Client(inline())
    started, raised = threading.Event(), []

    def wait() -> None:
        try:
            client.run(ENDLESS, on_event=lambda e: started.set() if e.progress else None)
        except Cancelled as error:
            raised.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    assert started.wait(timeout=60)
    client.close()
    thread.join(timeout=60)
    assert raised == ["The client was closed while this waited."]


def test_an_unknown_place_is_refused_at_the_first_job(caplog: pytest.LogCaptureFixture) -> None:
    with Client("the moon") as client, pytest.raises(SpecError, match="the moon"):
        client.run(echo())
    with Client("the moon") as client, pytest.raises(SpecError, match="the moon"):
        client.put_blob(b"")
    assert caplog.text == ""


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_of_the_process_is_told_to_make_its_own_client(client: Client) -> None:
    client.run(echo())
    code = "child"
    child = os.fork()
    if child == 0:
        try:
            client.run(echo())
        except SpecError as error:
            code = "refused" if "another process" in str(error) else "other"
        finally:
            os._exit(0 if code == "refused" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


SCRIPT = """
import os, signal, sys, threading
from contracts.executor_contract import run_test_operation
from visiondyno.client.client import Client
from visiondyno.executors.inline import InlineExecutor

client = Client(InlineExecutor(run_test_operation))
endless = {"operation": "until stopped"}

def interrupt(event):
    if event.progress:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

try:
    client.run(endless, on_event=interrupt)
except KeyboardInterrupt:
    print("interrupted", client.health()["jobs"]["CANCELLED"])
client.submit(endless)
print("forgotten", flush=True)
"""


def test_ctrl_c_cancels_the_job_and_a_forgotten_client_ends_silently_with_its_program() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "interrupted 1\nforgotten\n"


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


def test_a_client_that_is_dropped_ends_its_thread_and_jobs() -> None:
    client = Client(inline())
    client.submit(ENDLESS)
    thread = client._thread._thread
    assert thread is not None
    del client
    gc.collect()
    thread.join(timeout=60)
    assert not thread.is_alive()


DROPPED = """
import asyncio
from contracts.executor_contract import run_test_operation
from visiondyno.client.client import Client
from visiondyno.executors.inline import InlineExecutor

class Slow(InlineExecutor):
    async def close(self):
        await asyncio.sleep(0.2)
        print("closed", flush=True)

Client(Slow(run_test_operation)).submit({"operation": "echo", "say": "hi"})
"""


def test_a_client_that_is_dropped_as_the_program_ends_is_closed_silently() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DROPPED],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")


def test_a_watch_that_is_collected_on_the_loops_own_thread_doesnt_stop_the_loop(
    client: Client,
) -> None:
    job_id = client.submit(ENDLESS)
    held = [client.watch(job_id)]
    assert next(held[0]).number == 1

    async def drop() -> None:
        held.clear()

    client._thread.run(lambda _: drop())
    client.cancel(job_id)
    with pytest.raises(Cancelled):
        client.result(job_id)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_in_the_midst_of_a_call_doesnt_hang(client: Client) -> None:
    client.run(echo())
    is_held, is_done = threading.Event(), threading.Event()

    def hold() -> None:
        with client._thread._lock:
            is_held.set()
            is_done.wait(timeout=60)

    threading.Thread(target=hold).start()
    assert is_held.wait(timeout=60)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            client.close()
            client.run(echo())
        except SpecError:
            os._exit(0)
        finally:
            os._exit(1)
    is_done.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
