"""Blobs that nothing refers to go; those of submissions and open jobs stay."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from contracts.executor_contract import run_test_operation
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.executors.inline import InlineExecutor
from visiondyno.job import JobRequest
from visiondyno.service import Service
from visiondyno.settings import load_settings
from visiondyno.store.records import SubmissionRecord, SubmissionState
from visiondyno.store.sql import open_store

DAY_S = 86400.0


async def chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


def test_only_what_nothing_refers_to_is_collected_and_only_when_old(tmp_path: Path) -> None:
    now = [time.time()]  # files have times of the real clock

    async def scenario() -> None:
        settings = load_settings(home=tmp_path, blobs_max_age_s=30 * DAY_S)
        store = open_store(f"sqlite:///{tmp_path}/store.sqlite")
        blobs = FolderBlobs(tmp_path / "blobs")
        executor = InlineExecutor(run_test_operation)
        service = Service(settings, store, executor, blobs, lambda: now[0])
        async with service:
            await service.housekeeping.close()  # what it does by itself, at any moment
            handed_in, wanted, nobodys = [
                await blobs.put(chunks(text)) for text in (b"model", b"image", b"old")
            ]
            store.submissions.save(
                SubmissionRecord(
                    "sub_1_a", "task2", "me", handed_in, "m.onnx", SubmissionState.COMPLETED, 0.0
                )
            )
            stuck = JobRequest(input={"operation": "until stopped", "images": [f"sha256:{wanted}"]})
            job = await service.jobs.submit(stuck)
            fresh = await service.housekeeping.collect()
            assert fresh is not None
            assert (fresh.deleted, fresh.kept) == (0, 3)
            now[0] += 40 * DAY_S
            late = await service.housekeeping.collect()
            assert late is not None
            assert (late.deleted, late.kept) == (1, 2)
            assert not await blobs.has(nobodys)
            await service.jobs.cancel(job.id)
            await service.jobs.wait(job.id, 10)
            ended = await service.housekeeping.collect()
            assert ended is not None
            assert await blobs.has(handed_in)

    asyncio.run(scenario())
