"""Submissions over the service: taken, limited, followed, kept, ranked."""

import asyncio
import base64
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from faulty_executors import FaultyExecutor, running_service
from hostile_graphs import harmless
from small_depth_task import small_task, write_hidden_data
from visiondyno import worker
from visiondyno.blobs.base import CollectableBlobs
from visiondyno.errors import (
    Conflict,
    ModelError,
    NotFound,
    RateLimited,
    SpecError,
    StorageFull,
    TooLarge,
)
from visiondyno.executors.inline import InlineExecutor
from visiondyno.job import JobState
from visiondyno.operations.context import OperationContext
from visiondyno.service import Service
from visiondyno.store.records import JobKind, SubmissionRecord, SubmissionState

DAY_S = 86_400.0
NOON = 20_000 * DAY_S + DAY_S / 2
ONNX = b"\x08\x09 and so on"
EASE = np.random.default_rng(0).uniform(0, 0.1, 100)


class Scoring:
    """Scores a file by its name, `0.75.onnx`; `hold.onnx` waits for `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
        stem = job_input["file_name"].removesuffix(".onnx")
        context.progress("running the model", done=1, total=2)
        if stem == "bad":
            raise ModelError("bad.onnx is truncated; export it again.")
        if stem == "hold":
            while not self.go.wait(0.01):
                context.check()
            stem = "0.5"
        return {"splits": {"public": part(float(stem)), "private": part(1 - float(stem))}}


def part(score: float) -> dict[str, Any]:
    paired = base64.b64encode((score + EASE).astype("<f4").tobytes()).decode()
    measure = {"delta1": {"value": score}}
    bounds = {"low": score - 0.2, "high": score + 0.2}
    return {"images": 50, "score": score, **bounds, "measures": measure, "paired": paired}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Of two tasks: `small`, which is really scored, and `cup`, with split, limit and deadline."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    write_hidden_data(tmp_path / "hidden")
    limits = {"time_s": 60, "memory_bytes": 10**9, "upload_bytes": 100_000}
    small = small_task(tmp_path / "hidden", limits=limits)
    cup = {
        "name": "cup",
        "split": {"public": 0.5, "seed": 0},
        "submissions_per_day": 3,
        "deadline": "2024-10-06T00:00:00Z",  # 20,002 days after the epoch
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(small))
    (folder / "cup.yaml").write_text(yaml.safe_dump({**small, **cup}))
    return folder


Scenario = Callable[[Service, Scoring], Awaitable[None]]


def check(folder: Path, scenario: Scenario, scoring: Any = None, **settings: Any) -> None:
    async def main() -> None:
        chosen = scoring or Scoring()
        executor = InlineExecutor(chosen)
        async with (
            asyncio.timeout(120),
            running_service(folder, executor, tasks_dir=folder / "tasks", **settings) as service,
        ):
            set_clock(service, NOON)
            await scenario(service, chosen)

    asyncio.run(main())


def set_clock(service: Service, now_s: float) -> None:
    service.submissions._clock = lambda: now_s


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 7):
        yield data[start : start + 7]


async def submit(
    service: Service,
    file_name: str = "0.5.onnx",
    data: bytes = ONNX,
    task: str = "cup",
    **rest: Any,
) -> SubmissionRecord:
    rest.setdefault("name", "me")
    return await service.submissions.submit(task, chunks(data), file_name, **rest)


async def ended(service: Service, record: SubmissionRecord) -> SubmissionRecord:
    assert record.job_id is not None
    await service.jobs.wait(record.job_id, 60)
    while True:
        kept = service.store.submissions.get(record.id)
        assert kept is not None
        if kept.ended_at is not None:
            return await service.submissions.get(record.task, record.id)
        await asyncio.sleep(0.005)


def test_a_model_reaches_the_leaderboard(tmp_path: Path, tasks: Path) -> None:
    async def scenario(service: Service, _: Any) -> None:
        record = await submit(service, "theirs.onnx", harmless(), "small", owner="key_1")
        assert re.fullmatch(r"sub_\d+_[0-9a-f]{8}", record.id)
        assert record.state == SubmissionState.QUEUED
        assert await service.blobs.has(record.model_sha256)
        assert record.job_id is not None
        job = await service.jobs.get(record.job_id)
        assert (job.kind, job.owner) == (JobKind.SUBMISSION, "key_1")
        assert (job.request.policy.execution_timeout_ms or 0) > 60_000
        done = await ended(service, record)
        assert (done.state, done.error) == (SubmissionState.COMPLETED, None)
        assert done.metrics["delta1"]["value"] == done.score
        assert done.metrics["protections"]["memory"]["held"]
        assert "paired" not in str(done.metrics)
        (row,) = await service.submissions.leaderboard("small")
        assert (row.rank, row.name, row.submission_id) == (1, "me", record.id)
        assert (row.score, row.low, row.high) == (done.score, done.low, done.high)
        assert await service.submissions.rank_of(done) == 1

    check(tmp_path, scenario, worker.run)


@pytest.mark.parametrize(
    ("file_name", "data", "name", "kind", "says"),
    [
        ("model.pt", ONNX, "me", ModelError, r"\.onnx"),
        ("a.onnx", b"", "me", ModelError, "empty"),
        ("a.onnx", b"PK\x03\x04....", "me", ModelError, "zip archive"),
        ("a.onnx", b"version https://git-lfs.github.com", "me", ModelError, "LFS"),
        ("a.onnx", bytes(100_001), "me", TooLarge, "100"),
        ("a.onnx", ONNX, "  ", SpecError, "name"),
        ("a.onnx", ONNX, "x" * 101, SpecError, "101"),
        ("a.onnx", ONNX, "a\x00b", SpecError, "printable"),
    ],
    ids=["suffix", "empty", "zip", "lfs", "large", "blank", "long", "control"],
)
def test_what_is_wrong_at_first_sight_is_not_kept(
    tmp_path: Path,
    tasks: Path,
    file_name: str,
    data: bytes,
    name: str,
    kind: type[Exception],
    says: str,
) -> None:
    async def scenario(service: Service, _: Any) -> None:
        with pytest.raises(kind, match=says):
            await submit(service, file_name, data, name=name)
        assert await service.submissions.find() == []
        assert sum((await service.jobs.counts()).values()) == 0
        assert isinstance(service.blobs, CollectableBlobs)
        assert [blob async for blob in service.blobs.stored()] == []

    check(tmp_path, scenario)


def test_the_servers_own_limit_of_uploads_holds_too(tmp_path: Path, tasks: Path) -> None:
    async def scenario(service: Service, _: Any) -> None:
        with pytest.raises(TooLarge):
            await submit(service, data=bytes(51))

    check(tmp_path, scenario, max_upload_bytes=50)


def test_the_days_submissions_are_limited_for_each_key(tmp_path: Path, tasks: Path) -> None:
    async def scenario(service: Service, _: Any) -> None:
        for _n in range(3):
            await submit(service, owner="key_1")
        with pytest.raises(RateLimited, match="3 submissions a day") as caught:
            await submit(service, owner="key_1")
        assert caught.value.retry_after_s == DAY_S / 2
        await submit(service, owner="key_2")
        await submit(service)
        set_clock(service, NOON + DAY_S / 2)
        await submit(service, owner="key_1")

    check(tmp_path, scenario)


def test_two_at_once_are_not_both_the_days_last(tmp_path: Path, tasks: Path) -> None:
    async def scenario(service: Service, _: Any) -> None:
        tries = (submit(service, owner="k") for _ in range(6))
        found = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(one, SubmissionRecord) for one in found) == 3
        assert sum(isinstance(one, RateLimited) for one in found) == 3
        assert len(await service.submissions.find("cup")) == 3

    check(tmp_path, scenario)


def test_an_idempotency_key_gives_the_same_submission(tmp_path: Path, tasks: Path) -> None:
    async def scenario(service: Service, _: Any) -> None:
        first = await submit(service, idempotency_key="k1")
        await submit(service)
        await submit(service)  # the day is used up
        again = await submit(service, idempotency_key="k1")
        assert again.id == first.id
        with pytest.raises(Conflict):
            await submit(service, idempotency_key="k1", data=ONNX + b"!")
        with pytest.raises(RateLimited):
            await submit(service, idempotency_key="k2")
        set_clock(service, NOON + DAY_S)
        late = await submit(service, idempotency_key="k2")  # bound, but never created
        assert (await service.submissions.get("cup", late.id)).id == late.id
        assert len(await service.submissions.find("cup")) == 4

    check(tmp_path, scenario)


def test_the_state_follows_the_job(tmp_path: Path, tasks: Path) -> None:
    async def scenario(service: Service, scoring: Scoring) -> None:
        running = await submit(service, "hold.onnx")
        waiting = await submit(service, "bad.onnx")
        while (await service.submissions.get("cup", running.id)).state != "processing":
            await asyncio.sleep(0.005)
        found = await service.submissions.find("cup")
        assert {one.id: one.state for one in found} == {
            running.id: SubmissionState.PROCESSING,
            waiting.id: SubmissionState.QUEUED,
        }
        assert await service.submissions.rank_of(found[0]) is None
        scoring.go.set()
        done, failed = await ended(service, running), await ended(service, waiting)
        assert (done.state, done.score) == (SubmissionState.COMPLETED, 0.5)
        assert (failed.state, failed.score) == (SubmissionState.FAILED, None)
        assert failed.error == "bad.onnx is truncated; export it again."
        # A retry is a new try of the same submission.
        assert failed.job_id is not None
        await service.jobs.retry(failed.job_id)
        again = await ended(service, failed)
        assert again.state == SubmissionState.FAILED

    check(tmp_path, scenario)


def test_a_cancelled_job_is_a_failed_submission_and_deleting_cancels(
    tmp_path: Path, tasks: Path
) -> None:
    async def scenario(service: Service, _: Scoring) -> None:
        first, second = await submit(service, "hold.onnx"), await submit(service, "hold.onnx")
        assert first.job_id is not None
        await service.jobs.cancel(first.job_id)
        cancelled = await ended(service, first)
        assert cancelled.state == SubmissionState.FAILED
        assert "cancelled" in (cancelled.error or "")
        await service.submissions.delete("cup", second.id)
        assert second.job_id is not None
        assert (await service.jobs.get(second.job_id)).state == JobState.CANCELLED
        for task, wanted in (("cup", second.id), ("small", first.id), ("nix", first.id)):
            with pytest.raises(NotFound):
                await service.submissions.get(task, wanted)

    check(tmp_path, scenario)


def test_the_deadline_closes_the_task_and_brings_the_private_ranks(
    tmp_path: Path, tasks: Path
) -> None:
    async def scenario(service: Service, _: Scoring) -> None:
        high = await ended(service, await submit(service, "0.9.onnx", name="high"))
        low = await ended(service, await submit(service, "0.4.onnx", name="low"))
        rows = await service.submissions.leaderboard("cup")
        assert [(row.name, row.rank, row.score) for row in rows] == [
            ("high", 1, 0.9),
            ("low", 2, 0.4),
        ]
        assert (high.metrics["split"], "private" in str(high.metrics)) == ("public", False)

        set_clock(service, 20_002 * DAY_S)
        with pytest.raises(Conflict, match="closed at 2024-10-06 00:00 UTC"):
            await submit(service)
        rows = await service.submissions.leaderboard("cup")
        assert [row.name for row in rows] == ["low", "high"]
        shown = await service.submissions.get("cup", low.id)
        assert (shown.metrics["split"], shown.score) == ("private", 0.6)
        assert await service.submissions.rank_of(shown) == 1

    check(tmp_path, scenario)


def test_results_recorded_while_nobody_listened_are_kept(tmp_path: Path, tasks: Path) -> None:
    async def first(service: Service, _: Scoring) -> None:
        record = await ended(service, await submit(service))
        kept = service.store.submissions.get(record.id)
        assert kept is not None
        # As if the process had ended between the job's end and ours.
        lost = SubmissionRecord(
            **{
                name: getattr(kept, name)
                for name in ("id", "task", "name", "model_sha256", "file_name", "created_at")
            },
            state=SubmissionState.QUEUED,
            job_id=kept.job_id,
        )
        service.store.submissions.save(lost)
        # And as if it had ended before the job was accepted.
        for name, created_at in (("orphan", 1.0), ("young", 10**11)):
            values = {"task": "cup", "name": name, "model_sha256": "", "file_name": ""}
            service.store.submissions.save(
                SubmissionRecord(
                    id=f"sub_{name}",
                    **values,
                    state=SubmissionState.QUEUED,
                    created_at=created_at,
                    job_id=name,
                )
            )

    async def second(service: Service, _: Scoring) -> None:
        found = {one.id: one.state for one in await service.submissions.find("cup")}
        assert sorted(found.values()) == [SubmissionState.COMPLETED, SubmissionState.QUEUED]
        assert "sub_orphan" not in found
        assert found["sub_young"] == SubmissionState.QUEUED
        (row,) = await service.submissions.leaderboard("cup")
        assert row.score == 0.5

    check(tmp_path, first)
    check(tmp_path, second)


def test_a_full_store_takes_nothing(
    tmp_path: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        executor = FaultyExecutor(Scoring())
        settings = {"tasks_dir": tasks}
        async with running_service(tmp_path, executor, **settings) as service:
            set_clock(service, NOON)

            async def full(*_: Any, **__: Any) -> None:
                raise StorageFull("The disk is full.")

            monkeypatch.setattr(service.jobs, "submit", full)
            with pytest.raises(StorageFull):
                await submit(service)
            assert await service.submissions.find("cup") == []

    asyncio.run(main())


def test_submissions_of_a_task_that_is_gone_show_no_score(tmp_path: Path, tasks: Path) -> None:
    async def scenario(service: Service, _: Scoring) -> None:
        record = await ended(service, await submit(service))
        del service.submissions.tasks["cup"]
        (found,) = await service.submissions.find()
        assert (found.id, found.score, found.metrics) == (record.id, None, {})
        assert await service.submissions.rank_of(record) is None
        with pytest.raises(NotFound, match="small, task2"):
            await service.submissions.leaderboard("cup")

    check(tmp_path, scenario)
