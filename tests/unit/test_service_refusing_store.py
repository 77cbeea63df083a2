"""A store that refuses a job, an event or an answer: that one is told, and nothing else is lost."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from contracts.executor_contract import request, run_test_operation
from recorded_events import assert_whole, events_of
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.errors import SpecError, StorageFull, TransportDown
from visiondyno.executors.inline import InlineExecutor
from visiondyno.job import JobState
from visiondyno.service import Service
from visiondyno.settings import Settings
from visiondyno.store.records import NewJob, Observed, RecordedEvent
from visiondyno.store.sql import open_store


class RefusingJobs:
    """The real job store, but for what `refuses` says of a new job or an event."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.refuses: Callable[[NewJob | Observed], Exception | None] = lambda _: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def add(self, jobs: Sequence[NewJob]) -> None:
        self._check(jobs)
        self._store.add(jobs)

    def record(self, observed: Sequence[Observed]) -> list[RecordedEvent]:
        self._check(observed)
        recorded: list[RecordedEvent] = self._store.record(observed)
        return recorded

    def _check(self, items: Sequence[NewJob | Observed]) -> None:
        for item in items:
            error = self.refuses(item)
            if error is not None:
                raise error


def check_refusing(folder: Path, scenario: Callable[[Service, RefusingJobs], Any]) -> None:
    async def main() -> None:
        store = open_store(f"sqlite:///{folder / 'store.sqlite'}")
        jobs = RefusingJobs(store.jobs)
        store.jobs = jobs  # type: ignore[assignment]
        executor = InlineExecutor(run_test_operation)
        blobs = FolderBlobs(folder / "blobs")
        async with (
            asyncio.timeout(60),
            Service(Settings(home=folder), store, executor, blobs) as service,
        ):
            await scenario(service, jobs)

    asyncio.run(main())


@pytest.mark.parametrize("kind", [StorageFull, SpecError, TransportDown])
def test_a_refused_job_is_not_accepted_and_its_neighbours_are(
    tmp_path: Path, kind: type[Exception]
) -> None:
    def refuse(item: NewJob | Observed) -> Exception | None:
        poisoned = isinstance(item, NewJob) and item.request.input["say"] == "poison"
        return kind("The disk is full; make room.") if poisoned else None

    async def scenario(service: Service, jobs: RefusingJobs) -> None:
        jobs.refuses = refuse
        says = ["a", "b", "poison", "c"]
        each = await asyncio.gather(
            *(service.jobs.submit(request("echo", say=say)) for say in says),
            return_exceptions=True,
        )
        refused = [answer for answer in each if isinstance(answer, BaseException)]
        # A store that can't be reached isn't asked once for each of a batch.
        assert len(refused) == (4 if kind is TransportDown else 1)
        assert {type(error) for error in refused} == {kind}
        for answer in each:
            if not isinstance(answer, BaseException):
                assert (await service.jobs.wait(answer.id, 30)).state == JobState.COMPLETED
        assert sum((await service.jobs.counts()).values()) == 4 - len(refused)

    check_refusing(tmp_path, scenario)


def test_a_full_disk_holds_events_up_and_loses_none(tmp_path: Path) -> None:
    async def scenario(service: Service, jobs: RefusingJobs) -> None:
        left = [3]

        def full(item: NewJob | Observed) -> Exception | None:
            if isinstance(item, Observed) and item.event.number == 4 and left[0]:
                left[0] -= 1
                return StorageFull("The disk is full; make room.")
            return None

        jobs.refuses = full
        job = await service.jobs.submit(request("echo", say="x", steps=8))
        events = await events_of(service.jobs, job.id)
        assert_whole(events)
        assert [one.event.progress["done"] for one in events if one.event.progress] == [*range(8)]

    check_refusing(tmp_path, scenario)


def test_an_answer_that_cannot_be_stored_fails_its_job_alone(tmp_path: Path) -> None:
    def refuse(item: NewJob | Observed) -> Exception | None:
        if not isinstance(item, Observed):
            return None
        answer, progress = item.event.answer, item.event.progress
        bad_answer = answer is not None and answer.output == {"said": "poison"}
        bad_progress = progress is not None and progress.get("done") == 2
        return ValueError("no such text") if bad_answer or bad_progress else None

    async def scenario(service: Service, jobs: RefusingJobs) -> None:
        jobs.refuses = refuse
        poisoned = await service.jobs.submit(request("echo", say="poison", steps=4))
        fine = [await service.jobs.submit(request("echo", say="x")) for _ in range(10)]
        failed = await service.jobs.wait(poisoned.id, 30)
        assert failed.state == JobState.FAILED
        assert failed.answer is not None
        assert failed.answer.error is not None
        assert "could not be stored" in failed.answer.error.message
        events = await events_of(service.jobs, poisoned.id)
        assert_whole(events)
        assert [e.event.progress["done"] for e in events if e.event.progress] == [0, 1, 3]
        for job in fine:
            assert (await service.jobs.wait(job.id, 30)).state == JobState.COMPLETED

    check_refusing(tmp_path, scenario)
