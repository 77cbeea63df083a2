"""Jobs that nobody watches: a look now and then keeps their results."""

import asyncio
from typing import Any

import httpx
import pytest

from contracts.executor_contract import events_of
from live_api import Clock
from runpod_endpoint import CLOUD, DONE, QUEUED, TAKEN, Endpoint, fails, job, on
from visiondyno.executors.base import JobLost
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.executors.runpod_looks import KEPT_S
from visiondyno.job import JobState


class Looked:
    """Minutes pass at once, one look's at a time; pauses of seconds aren't noted."""

    def __init__(self) -> None:
        self.looks = 0

    async def __call__(self, pause_s: float) -> None:
        await asyncio.sleep(0)
        if pause_s < 60:
            return
        assert 60 <= pause_s <= 600  # several looks within RunPod's 30 minutes
        self.looks += 1
        if self.looks > 20:
            await asyncio.sleep(3600)


GONE = httpx.Response(404)


@pytest.mark.parametrize(
    "statuses",
    [
        pytest.param([DONE, GONE], id="at once"),
        pytest.param([QUEUED, QUEUED, DONE, GONE], id="after a while"),
        pytest.param([*[httpx.Response(502)] * 6, DONE, GONE], id="after an outage"),
    ],
)
def test_a_result_is_here_after_the_endpoint_forgot_it(statuses: list[Any]) -> None:
    now, look = Clock(), Looked()

    async def scenario(executor: RunPodExecutor) -> None:
        job_id = await executor.submit(job(), "mine.1")
        while endpoint.next["status"] != [GONE]:
            await asyncio.sleep(0)
        for passed_s in (0, KEPT_S - 1):
            now.offset_s = passed_s
            events = await events_of(executor, job_id)
            assert events[-1].state == JobState.COMPLETED
        now.offset_s = KEPT_S + 1
        await fails(events_of(executor, job_id), JobLost)

    endpoint = Endpoint(run=[TAKEN], status=statuses)
    on(CLOUD, scenario, transport=endpoint, sleep=look, clock=now.over(lambda: 0.0))
    assert "cancel" not in endpoint.paths()


def test_a_job_that_is_forgotten_before_its_end_is_looked_at_no_more() -> None:
    look = Looked()

    async def scenario(executor: RunPodExecutor) -> None:
        await executor.submit(job(), "mine.1")
        while "status" not in endpoint.paths():
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)

    endpoint = Endpoint(run=[TAKEN], status=[GONE])
    on(CLOUD, scenario, transport=endpoint, sleep=look)
    assert endpoint.paths() == ["run", "status"]


def test_a_job_that_was_watched_to_its_end_is_looked_at_no_more() -> None:
    wakes = asyncio.Event()

    async def sleep(pause_s: float) -> None:
        if pause_s >= 60:
            await wakes.wait()
        await asyncio.sleep(0)

    async def scenario(executor: RunPodExecutor) -> None:
        job_id = await executor.submit(job(), "mine.1")
        await events_of(executor, job_id)
        asked = len(endpoint.asked)
        wakes.set()
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(endpoint.asked) == asked

    endpoint = Endpoint(run=[TAKEN], status=[DONE])
    on(CLOUD, scenario, transport=endpoint, sleep=sleep)
