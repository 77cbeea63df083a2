"""The loop of RunPod's own SDK, mended: no job waits for its naps."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from visiondyno.runpod_handler.sdk_loop import mend_loop

rp_scale = pytest.importorskip("runpod.serverless.modules.rp_scale")


@pytest.fixture
def scaler() -> Iterator[Any]:
    """One of a class of its own."""

    class Scaler(rp_scale.JobScaler):  # type: ignore[misc, name-defined]
        pass

    mend_loop(Scaler)
    made = Scaler({})
    yield made
    made.job_progress.clear()  # the SDK has one for the process


def test_a_job_that_is_fetched_and_not_begun_counts_once(scaler: Any) -> None:
    assert scaler.current_occupancy() == 0
    scaler.jobs_queue.put_nowait({"id": "one"})
    assert scaler.current_occupancy() == 1
    scaler.job_progress.add("one")
    assert scaler.current_occupancy() == 1
    scaler.jobs_queue.get_nowait()
    assert scaler.current_occupancy() == 1


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_next_job_is_asked_for_when_there_is_room(
    scaler: Any, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    count, waiting, done, most = 6, 0, [], []
    slept_s: list[float] = []
    sleep = asyncio.sleep

    async def at_once_awake(seconds: float) -> None:
        slept_s.append(seconds)
        await sleep(0)

    async def fetch(_: Any, wanted: int) -> list[dict[str, Any]]:
        nonlocal waiting
        given = [{"id": str(waiting + n)} for n in range(min(wanted, count - waiting))]
        waiting += len(given)
        return given

    async def handle(_: Any, __: Any, job: dict[str, Any]) -> None:
        most.append(scaler.current_occupancy())
        await sleep(0)
        done.append(job["id"])
        if len(done) == count:
            scaler.kill_worker()

    monkeypatch.setattr(asyncio, "sleep", at_once_awake)
    scaler.concurrency_modifier = lambda _: at_once
    scaler.jobs_fetcher, scaler.jobs_handler = fetch, handle

    async def main() -> None:
        await asyncio.gather(scaler.get_jobs(None), scaler.run_jobs(None))

    asyncio.run(main())
    assert done == [str(number) for number in range(count)]
    assert max(most) == at_once
    assert max(slept_s) < 1  # what the loop takes as its nap while it is full


def test_a_stopped_worker_waits_for_no_room(scaler: Any) -> None:
    scaler.job_progress.add("one")
    scaler.kill_worker()
    asyncio.run(scaler.set_scale())
    assert scaler.current_occupancy() == 1


class OldLoop:
    def set_scale(self) -> None:
        """Counts nothing."""


class LoopThatCountsOtherwise(OldLoop):
    jobs = 0

    async def set_scale(self) -> None:  # type: ignore[override]
        """As it is known."""

    def current_occupancy(self) -> int:
        return self.jobs

    def is_alive(self) -> bool:
        return True


class LoopThatIsToldMore(rp_scale.JobScaler):  # type: ignore[misc, name-defined]
    async def set_scale(self, wanted: int) -> None:
        """To a number that it is told."""


class LoopThatDoesNotWait(rp_scale.JobScaler):  # type: ignore[misc, name-defined]
    def set_scale(self) -> None:
        """At once."""


@pytest.mark.parametrize(
    "other", [OldLoop, LoopThatCountsOtherwise, LoopThatIsToldMore, LoopThatDoesNotWait]
)
def test_another_loop_is_left_as_it_is(other: type[Any]) -> None:
    before = dict(vars(other))
    mend_loop(other)
    assert dict(vars(other)) == before
