"""Many clients at once: none is refused for the quota, and those that were don't come as a herd."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from emulated_endpoint import KEY, QUIET_WORKER, an_emulator
from runpod_endpoint import job
from visiondyno.emulator.faults import AnswerStatus
from visiondyno.emulator.serve import RunningEmulator
from visiondyno.executors.breaker import Breaker
from visiondyno.executors.http_api import Guards
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.executors.throttle import Throttle

CLIENTS = 40


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[RunningEmulator]:
    with an_emulator(tmp_path, QUIET_WORKER, speed=2.0) as running:
        yield running


def test_a_storm_of_refusals_is_ridden_out_by_all_and_not_as_a_herd(
    quiet: RunningEmulator,
) -> None:
    pauses_s: list[float] = []

    async def noted(pause_s: float) -> None:
        if pause_s < 60:  # not a look at what nobody watches
            pauses_s.append(pause_s)
        await asyncio.sleep(pause_s)

    async def main() -> list[str]:
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    RunPodExecutor(quiet.url, KEY, leave_running=True, sleep=noted)
                )
                for _ in range(CLIENTS)
            ]
            async with asyncio.timeout(60):
                found = await asyncio.gather(*(client.submit(job()) for client in clients))
            assert await clients[0].purge_queue() == CLIENTS
            return found

    quiet.emulator.faults.arm(
        AnswerStatus(kind="status", status=429, operation="run", count=CLIENTS, retry_after_s=1)
    )
    assert len(set(asyncio.run(main()))) == CLIENTS
    requests = quiet.emulator.requests
    assert requests.count("run", 429) == CLIENTS
    assert requests.count("run", 200) == CLIENTS
    assert len(pauses_s) == CLIENTS
    assert min(pauses_s) >= 1  # what the endpoint asked for
    beyond_s = sorted(pause_s - 1 for pause_s in pauses_s)
    # Drawn evenly from 0 to 0.5 s: no tenth of that has half of them, but once in 10^8 storms.
    width = CLIENTS // 2
    spans_s = [last - first for first, last in zip(beyond_s, beyond_s[width:], strict=False)]
    assert min(spans_s) > 0.05


@pytest.mark.slow
def test_of_1500_submissions_none_is_refused_for_the_quota(quiet: RunningEmulator) -> None:
    clock = quiet.emulator.clock

    def scaled() -> float:
        return time.monotonic() * clock.speed

    async def sleep(pause_s: float) -> None:
        await asyncio.sleep(clock.real_s(pause_s))

    async def main() -> int:
        guards = Guards(Throttle(clock=scaled, sleep=sleep), Breaker(quiet.url))
        # Three clients of one endpoint share its quota by sharing its guards.
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    RunPodExecutor(quiet.url, KEY, leave_running=True, guards=guards, clock=scaled)
                )
                for _ in range(3)
            ]
            found = await asyncio.gather(*(clients[n % 3].submit(job()) for n in range(1500)))
            await clients[0].purge_queue()
            return len(set(found))

    assert asyncio.run(main()) == 1500
    requests = quiet.emulator.requests
    assert requests.count("run") == requests.count("run", 200) == 1500
    taken_s = sorted(asked.at_s for asked in requests.last("run"))
    assert all(later - first >= 10 for first, later in zip(taken_s, taken_s[1000:], strict=False))
