"""What a service recorded of a job, for tests that follow it."""

import asyncio
from collections.abc import Sequence

from visiondyno.service import Service
from visiondyno.service.jobs import JobService
from visiondyno.store.records import RecordedEvent


async def events_of(jobs: JobService, job_id: str) -> list[RecordedEvent]:
    return [event async for event in jobs.watch(job_id)]


async def until_started(jobs: JobService, job_id: str) -> None:
    async for recorded in jobs.watch(job_id):
        if recorded.event.progress == {"stage": "started"}:
            return


def assert_whole(events: Sequence[RecordedEvent]) -> None:
    """Numbers without gaps, and only the last event terminal."""
    numbers = [one.event.number for one in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert [one.event.state.is_terminal for one in events] == [False] * (len(events) - 1) + [True]


async def until_state_with_dispatch(service: Service, job_id: str, dispatch: int) -> None:
    while (await service.jobs.get(job_id)).dispatch < dispatch:
        await asyncio.sleep(0.005)
