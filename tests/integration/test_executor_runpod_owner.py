"""What an owner of jobs on RunPod is promised: known cost, and nothing left behind."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from contracts.executor_contract import (
    events_of,
    request,
    started,
)
from live_api import Clock, LiveApi
from runpod_endpoint import (
    CLOUD,
    DONE,
    QUEUED,
    REFUSED,
    RUNNING,
    TAKEN,
    Endpoint,
    at_once,
    fails,
    job,
    on,
)
from visiondyno.errors import (
    BudgetSpent,
    Conflict,
    DatasetError,
    NotFound,
    SpecError,
    TooLarge,
    TransportDown,
    Unavailable,
)
from visiondyno.executors import runpod_owner, runpod_submissions
from visiondyno.executors.base import JobLost
from visiondyno.executors.breaker import Unreachable
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.executors.runpod_cost import CostMeter
from visiondyno.job import JobEvent, JobState, Policy
from visiondyno.probes.cost import Price


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with LiveApi(tmp_path_factory.mktemp("home"), rate_limit_per_minute=0) as live:
        yield live


# ---- owners that go away


def test_closing_cancels_what_was_submitted_and_did_not_end(api: LiveApi) -> None:
    url = f"{api.url}/v2/default"

    async def main(*, leave_running: bool) -> str:
        async with RunPodExecutor(url, leave_running=leave_running) as executor:
            ended = await executor.submit(job())
            await events_of(executor, ended)
            running = await executor.submit(request("until stopped"))
            await started(executor, running)
        async with RunPodExecutor(url, leave_running=True) as another:
            await another.cancel(running)
            event = (await events_of(another, running))[-1]
            assert event.state == JobState.CANCELLED
            return str((await events_of(another, ended))[-1].state)

    assert asyncio.run(main(leave_running=False)) == "COMPLETED"
    assert asyncio.run(main(leave_running=True)) == "COMPLETED"


@pytest.mark.parametrize("leave_running", [False, True])
def test_closing_asks_once_for_each_open_job(leave_running: bool) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        await executor.submit(job())
        await executor.submit(job(), "mine.1")
        for job_id in ("done", "lost"):
            await executor.submit(job(), job_id)
            endpoint.next["status"] = [DONE if job_id == "done" else httpx.Response(404)]
            if job_id == "done":
                await events_of(executor, job_id)
                continue
            await fails(events_of(executor, job_id), JobLost)

    taken = [{"id": name, "status": "IN_QUEUE"} for name in ("j-1", "j-2", "j-3", "j-4")]
    endpoint = Endpoint(run=taken, cancel=[TAKEN])
    on(CLOUD, scenario, transport=endpoint, sleep=at_once, leave_running=leave_running)
    cancelled = [a.url.path.rsplit("/")[-1] for a in endpoint.asked if "/cancel/" in a.url.path]
    assert sorted(cancelled) == ([] if leave_running else ["j-1", "j-2"])


def test_jobs_that_cannot_be_cancelled_at_the_end_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        await executor.submit(job())
        await executor.submit(job(), "forgotten")

    taken = [TAKEN, {**TAKEN, "id": "j-u2"}]
    endpoint = Endpoint(run=taken, cancel=[httpx.Response(404), httpx.Response(401)])
    on(CLOUD, scenario, transport=endpoint, sleep=at_once)
    assert "1 jobs at" in caplog.text
    assert CLOUD in caplog.text


def test_a_cancel_that_hangs_holds_up_no_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runpod_owner, "_CLOSING_S", 0.01)

    async def scenario(executor: RunPodExecutor) -> None:
        await executor.submit(job())

    endpoint = Endpoint(run=[TAKEN], cancel=[asyncio.Event()])
    on(CLOUD, scenario, transport=endpoint, sleep=at_once)
    assert "j-u1" in caplog.text


def test_a_job_that_is_forgotten_when_it_is_to_be_stopped_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        arrives = asyncio.Event()
        endpoint.next["run"] = [arrives, TAKEN]
        submitting = asyncio.create_task(executor.submit(job()))
        await asyncio.sleep(0.01)
        submitting.cancel()
        await asyncio.wait([submitting])
        arrives.set()
        while "cancel" not in endpoint.paths():
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)

    endpoint = Endpoint(cancel=[httpx.Response(404)])
    on(CLOUD, scenario, transport=endpoint, sleep=at_once)
    assert endpoint.paths() == ["run", "cancel"]
    assert caplog.text == ""


def test_who_is_cancelled_in_mid_submission_leaves_no_job_behind() -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        for job_id in (None, "mine.1"):
            arrives = asyncio.Event()
            endpoint.next["run"] = [arrives, TAKEN]
            before = endpoint.paths()
            submitting = asyncio.create_task(executor.submit(job(), job_id))
            while endpoint.paths() == before:
                await asyncio.sleep(0)
            submitting.cancel()
            await asyncio.wait([submitting])
            assert submitting.cancelled()
            if job_id is None:
                arrives.set()
                while endpoint.paths()[-1] != "cancel":
                    await asyncio.sleep(0)
                continue
            stopping = asyncio.create_task(executor.cancel(job_id))
            await asyncio.sleep(0.01)
            assert not stopping.done()  # it has no name there yet
            arrives.set()
            await stopping
            assert endpoint.asked[-1].url.path.endswith("/cancel/j-u1")

    endpoint = Endpoint(cancel=[TAKEN])
    on(CLOUD, scenario, transport=endpoint, sleep=at_once, leave_running=True)
    assert endpoint.paths() == ["run", "cancel", "run", "cancel"]


def test_closing_waits_for_submissions_and_cancels_their_jobs() -> None:
    async def main() -> None:
        arrives = asyncio.Event()
        endpoint = Endpoint(run=[arrives, TAKEN], cancel=[TAKEN])
        executor = RunPodExecutor(CLOUD, transport=endpoint, sleep=at_once)
        submitting = asyncio.create_task(executor.submit(job()))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(executor.close())
        await asyncio.sleep(0.01)
        await fails(executor.submit(job()), SpecError)
        arrives.set()
        await closing
        assert await submitting == "j-u1"
        assert endpoint.paths() == ["run", "cancel"]

    asyncio.run(main())


def test_a_submission_that_never_ends_is_cut_off_by_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runpod_submissions, "_CLOSING_S", 0.01)

    async def main() -> None:
        meter = CostMeter(DOLLAR_A_SECOND)
        endpoint = Endpoint(run=[asyncio.Event()])
        executor = RunPodExecutor(CLOUD, transport=endpoint, sleep=at_once, meter=meter)
        submitting = asyncio.create_task(executor.submit(job()))
        await asyncio.sleep(0.01)
        await executor.close()
        await fails(submitting, SpecError)
        assert meter.total().worker_s_at_most == 670  # it may have arrived

    asyncio.run(main())


# ---- cost

DOLLAR_A_SECOND = Price(3600.0, None, "given by the user")


def test_every_job_is_followed_to_its_end_and_accounted_for(api: LiveApi) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        job_ids = [await executor.submit(request("echo", say="x")) for _ in range(3)]
        failed = await executor.submit(request("refuse"))
        while executor.total_cost().worker_s_at_most > 3 * 71 or any(
            executor.cost_of(job_id).worker_s_at_most > 71 for job_id in (*job_ids, failed)
        ):
            await asyncio.sleep(0.01)  # nobody watches
        assert executor.cost_of(failed).kind == "estimated"
        total = executor.total_cost()
        assert total.worker_s_at_most >= 5  # the worker idles
        assert total.worker_s_at_least <= 1
        with pytest.raises(NotFound, match="nope"):
            executor.cost_of("nope")

    on(f"{api.url}/v2/default", scenario, meter=CostMeter(DOLLAR_A_SECOND))


def test_without_a_price_no_cost_is_known() -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        for ask in (executor.total_cost, lambda: executor.cost_of("j-u1")):
            with pytest.raises(SpecError, match="price"):
                ask()

    on(CLOUD, scenario, transport=Endpoint())


def test_a_job_that_could_pass_the_limit_is_not_sent() -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        await executor.submit(request("echo", Policy(execution_timeout_ms=30_000), say="x"))
        await fails(executor.submit(job()), BudgetSpent)
        await fails(executor.runsync(job()), BudgetSpent)

    endpoint = Endpoint(run=[TAKEN], status=[QUEUED], cancel=[TAKEN])
    meter = CostMeter(DOLLAR_A_SECOND, max_cost_usd=105.0)
    on(CLOUD, scenario, transport=endpoint, meter=meter, leave_running=True)
    assert "runsync" not in endpoint.paths()
    assert endpoint.paths().count("run") == 1


@pytest.mark.parametrize(
    ("answers", "kind", "spent_s"),
    [
        ([REFUSED], Unreachable, 0),
        ([httpx.Response(400)], SpecError, 0),
        ([httpx.Response(502)], TransportDown, 670),
        ([httpx.Response(200, json={})], Unavailable, 670),
    ],
    ids=["refused", "wrong", "doubt", "no id"],
)
def test_only_submissions_that_may_have_arrived_are_paid_for(
    answers: list[Any], kind: type[Exception], spent_s: int
) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        await fails(executor.submit(job()), kind)
        assert executor.total_cost().worker_s_at_most == spent_s

    endpoint = Endpoint(run=answers)
    on(CLOUD, scenario, transport=endpoint, sleep=at_once, meter=CostMeter(DOLLAR_A_SECOND))


def test_what_runs_when_the_limit_is_passed_is_stopped_and_says_why() -> None:
    now = Clock()
    clock = now.over(lambda: 0.0)
    limited = Policy(execution_timeout_ms=30_000)

    async def patient(pause_s: float) -> None:
        await asyncio.sleep(0)
        now.offset_s += pause_s

    async def scenario(executor: RunPodExecutor) -> JobEvent:
        job_id = await executor.submit(request("until stopped", limited), "mine.1")
        while endpoint.paths().count("cancel") < 2:  # the first one was refused
            await asyncio.sleep(0)  # nobody watches
        endpoint.next["status"] = [{**DONE, "status": "CANCELLED"}]
        return (await events_of(executor, job_id))[-1]

    endpoint = Endpoint(
        run=[TAKEN],
        status=[QUEUED, RUNNING, *[httpx.Response(502)] * 12, RUNNING],
        cancel=[httpx.Response(401), TAKEN],
    )
    meter = CostMeter(DOLLAR_A_SECOND, max_cost_usd=105.0, clock=clock)
    event = on(CLOUD, scenario, transport=endpoint, sleep=patient, clock=clock, meter=meter)
    assert event.state == JobState.CANCELLED
    assert event.answer.error.code == "budget_spent"
    assert "limit of 105 USD" in event.answer.error.message
    assert now.offset_s > 90


# ---- what RunPod has beyond the contract


def test_runsync_answers_in_one_request_where_the_job_is_quick(api: LiveApi) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        answer = await executor.runsync(job())
        assert answer.result() == {"said": "x"}
        events = await events_of(executor, answer.id)
        assert events[-1].answer == answer
        failed = await executor.runsync(request("refuse"))
        with pytest.raises(DatasetError, match=r"images/7\.jpg"):
            failed.result()
        slow = request("until stopped", Policy(execution_timeout_ms=1500))
        late = await executor.runsync(slow, wait_s=1)
        assert late.status == JobState.TIMED_OUT
        for wait_s in (0.5, 301, float("nan")):
            await fails(executor.runsync(job(), wait_s=wait_s), SpecError)
        await fails(executor.runsync(request("echo", say="x" * 20_000_000)), TooLarge)

    on(f"{api.url}/v2/default", scenario, meter=CostMeter(DOLLAR_A_SECOND))


def test_the_output_of_a_handler_that_yields_is_in_the_stream_after_runsync() -> None:
    async def scenario(executor: RunPodExecutor) -> JobEvent | Any:
        return await executor.runsync(job(), wait_s=2.5)

    told = {"status": "COMPLETED", "stream": [{"output": {"loss": 1}}]}
    endpoint = Endpoint(
        runsync=[DONE], status=[DONE], stream=[told, {"status": "COMPLETED", "stream": []}]
    )
    assert on(CLOUD, scenario, transport=endpoint).result() == {"loss": 1}
    assert endpoint.asked[0].url.params["wait"] == "2500"
    assert endpoint.paths().count("cancel") == 0


def test_retry_runs_a_failed_job_again_under_its_id(api: LiveApi) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        await executor.submit(request("refuse"), "mine.1")
        first = await events_of(executor, "mine.1")
        before = executor.cost_of("mine.1")
        await executor.retry("mine.1")
        again = await events_of(executor, "mine.1")
        assert [event.state for event in again] == [event.state for event in first]
        assert again[-1].answer is not None
        assert again[-1].answer.error is not None
        cost = executor.cost_of("mine.1")
        assert cost.worker_s_at_most >= before.worker_s_at_most
        done = await executor.submit(job())
        await events_of(executor, done)
        await fails(executor.retry(done), Conflict)
        assert (await events_of(executor, done))[-1].state == JobState.COMPLETED
        await fails(executor.retry("nope"), JobLost)
        running = await executor.submit(request("until stopped"))
        await started(executor, running)
        refused = await fails(executor.retry(running), Conflict)
        assert "watch it" in str(refused)

    on(f"{api.url}/v2/default", scenario, meter=CostMeter(DOLLAR_A_SECOND))


def test_purging_the_queue_cancels_what_waits_and_leaves_what_runs(api: LiveApi) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        running = await executor.submit(request("until stopped"))
        await started(executor, running)
        waiting = [await executor.submit(job()) for _ in range(2)]
        assert await executor.purge_queue() == 2
        for job_id in waiting:
            assert (await events_of(executor, job_id))[-1].state == JobState.CANCELLED
        assert await executor.purge_queue() == 0
        await executor.cancel(running)

    on(f"{api.url}/v2/default", scenario)


@pytest.mark.parametrize("removed", [None, "two", True])
def test_a_purge_that_tells_no_number_is_told(removed: Any) -> None:
    async def scenario(executor: RunPodExecutor) -> None:
        await fails(executor.purge_queue(), Unavailable)

    transport = Endpoint(httpx.Response(200, json={"removed": removed}))
    on(CLOUD, scenario, transport=transport)
