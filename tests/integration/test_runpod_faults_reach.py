"""Endpoints out of reach, that let nobody in or cost too much: told at once, nothing more."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emulated_endpoint import KEY, QUIET_WORKER, an_emulator, client, until
from faulty_endpoint import FaultyEndpoint, ends_right_once, faulty_endpoint, holds, work
from live_api import Clock
from runpod_endpoint import at_once, fails
from runpod_endpoint import job as any_job
from visiondyno.client.async_client import AsyncClient
from visiondyno.client.client import Client
from visiondyno.client.job_facts import JobWatch
from visiondyno.emulator.serve import RunningEmulator
from visiondyno.errors import BudgetSpent, NotFound, Unauthorized, VisionDynoError
from visiondyno.executors.breaker import BreakerOpen, BreakerState, Unreachable
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.executors.runpod_cost import CostMeter
from visiondyno.job import JobState
from visiondyno.probes.cost import Price

pytest.importorskip("runpod")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    with an_emulator(tmp_path_factory.mktemp("logs"), QUIET_WORKER) as running:
        yield running


@pytest.fixture
def dead_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# ---- who isn't let in


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        pytest.param({"api_key": "wrong"}, Unauthorized, "RUNPOD_API_KEY", id="key"),
        pytest.param({"endpoint": "nowhere"}, NotFound, "Check the endpoint's URL", id="endpoint"),
    ],
)
def test_a_wrong_key_or_endpoint_is_told_at_once_each_time_and_never_runs_here(
    quiet: RunningEmulator, wrong: dict[str, str], kind: type[VisionDynoError], said: str
) -> None:
    given: Any = {"api_key": KEY, "endpoint": quiet.url, "gpu": "A4000", "max_cost_usd": 1.0}
    given |= wrong
    if given["endpoint"] == "nowhere":
        given["endpoint"] = f"{quiet.base_url}/v2/nowhere"
    before = quiet.emulator.requests.count("run")
    with Client("runpod", fallback="inline", **given) as asking:
        for number in range(1, 6):
            with pytest.raises(kind, match=said) as caught:
                asking.run(work("none"))
            assert type(caught.value) is kind
            assert quiet.emulator.requests.count("run") == before + number  # asked once each
        total = asking.total_cost()
    assert total is not None
    assert total.worker_s_at_most == 0
    with client(quiet) as http:
        assert http.get("/health").json()["jobs"]["inQueue"] == 0


# ---- what can't be reached


@pytest.mark.slow
@pytest.mark.torch
def test_a_job_out_of_reach_falls_back_and_output_and_facts_say_so(dead_port: int) -> None:
    points = {"features": [[0.0, 1.0], [1.0, 0.0]], "labels": [0, 1]}
    job_input = {
        "operation": "train_epoch",
        "model_config": {
            "type": "sequential",
            "layers": [{"type": "linear", "in_features": 2, "out_features": 2}],
        },
        "training_data": points,
        "threads": 1,
    }
    url = f"http://127.0.0.1:{dead_port}/v2/emulator"
    watch = JobWatch()
    with Client("runpod", endpoint=url, fallback="inline", gpu="A4000") as asking:
        output = asking.run(job_input, on_event=watch.on_event)
        facts = watch.facts(asking)
    assert output["notes"][-1].startswith("Ran on the 'inline' executor instead of 'runpod'")
    assert facts is not None
    assert facts.executor == "inline"
    assert str(dead_port) in (facts.fallback_reason or "")
    assert facts.cost is None
    assert ("Fallback", f"ran on inline instead: {facts.fallback_reason}") in facts.lines()


def test_a_breaker_opens_tries_one_and_closes_as_the_endpoint_goes_and_comes(
    tmp_path: Path, dead_port: int
) -> None:
    now = Clock()

    async def scenario() -> None:
        url = f"http://127.0.0.1:{dead_port}/v2/emulator"
        clock = now.over(lambda: 0.0)
        async with RunPodExecutor(url, KEY, sleep=at_once, clock=clock) as executor:

            def state() -> BreakerState:
                return executor.breaker.reading().state

            for _ in range(3):
                assert state() == BreakerState.CLOSED
                await fails(executor.submit(any_job()), Unreachable)
            assert state() == BreakerState.OPEN
            await fails(executor.submit(any_job()), BreakerOpen)
            running = make_emulator(tmp_path, dead_port)
            with running:
                await fails(executor.submit(any_job()), BreakerOpen)  # not yet
                assert running.emulator.requests.count("run") == 0
                now.offset_s += 100
                trying = asyncio.create_task(executor.submit(any_job()))
                while state() != BreakerState.HALF_OPEN:
                    await asyncio.sleep(0)
                await fails(executor.submit(any_job()), BreakerOpen)  # one at a time
                assert await trying
                assert state() == BreakerState.CLOSED
                assert await executor.submit(any_job())
                assert running.emulator.requests.count("health") == 1
                assert running.emulator.requests.count("run") == 2
                assert await executor.purge_queue() == 2

    asyncio.run(scenario())


def make_emulator(folder: Path, port: int) -> RunningEmulator:
    """One on a port of the test's choice."""
    from visiondyno.emulator.config import EndpointConfig
    from visiondyno.emulator.emulator import Emulator

    config = EndpointConfig()
    return RunningEmulator(
        lambda: Emulator(config, QUIET_WORKER, log_folder=folder, api_key=KEY), port
    )


# ---- what would cost too much


@pytest.mark.slow
def test_a_job_that_runs_into_the_limit_of_cost_is_stopped_and_none_follows(tmp_path: Path) -> None:
    async def main(endpoint: FaultyEndpoint) -> None:
        # The endpoint lets jobs run for 600 s, whatever this client believes.
        meter = CostMeter(
            Price(3600.0, None, "given by the user"),
            max_cost_usd=14.0,
            execution_timeout_s=1.0,
            idle_timeout_s=1.0,
            start_s=6.0,
        )
        async with AsyncClient(RunPodExecutor(endpoint.url, KEY, meter=meter)) as asking:
            job_id = await asking.submit({"operation": "until stopped"})
            events = [event async for event in asking.watch(job_id)]
            ends_right_once(events, JobState.CANCELLED)
            answer = events[-1].answer
            assert answer is not None
            with pytest.raises(BudgetSpent, match="limit of 14 USD"):
                answer.result()
            for _ in range(3):
                with pytest.raises(BudgetSpent, match="limit of 14 USD"):
                    await asking.submit(work("one more"))
            assert endpoint.asked("run") == 1
            bill = await asyncio.to_thread(endpoint.until_quiet)
            cost = asking.total_cost()
            assert cost is not None
            slow_start_s = max(0, (answer.delay_time_ms or 0) // 1000 + 1 - 6)  # not promised
            assert cost.worker_s_at_least <= bill["billed_s"]
            assert bill["billed_s"] <= cost.worker_s_at_most + slow_start_s

    with faulty_endpoint(tmp_path) as endpoint:
        asyncio.run(main(endpoint))


@pytest.mark.slow
def test_one_job_alone_costs_what_its_bounds_hold(tmp_path: Path) -> None:
    with faulty_endpoint(tmp_path) as endpoint, endpoint.client(max_cost_usd=0.2) as asking:
        watch = JobWatch()
        asking.run(work("alone", steps=50), on_event=watch.on_event)
        facts = watch.facts(asking)
        assert facts is not None
        bill = endpoint.until_quiet()
        cost = asking.cost_of(facts.id)
        holds(cost, bill)
        holds(asking.total_cost(), bill)
        assert cost is not None
        assert cost.worker_s_at_least == -(-(facts.execution_ms or 0) // 1000)
        assert bill["workers"][0]["jobs_done"] == 1
    until(lambda: not endpoint.processes())
