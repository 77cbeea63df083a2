"""Blobs of a home without a server: what nobody needs goes, what a job may need stays."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from contracts.executor_contract import run_test_operation
from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import StorageFull
from visiondyno.executors.inline import InlineExecutor
from visiondyno.executors.open_queue import open_queue
from visiondyno.executors.queue import QueuedJob
from visiondyno.settings import load_settings
from visiondyno.store.records import SubmissionRecord, SubmissionState
from visiondyno.wiring import make_store

DAY_S = 86400.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_old(home: Path, days: float = 40) -> None:
    """All blobs were last used so long ago, and it is long since anybody collected."""
    then = time.time() - days * DAY_S
    for path in (home / "blobs").rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def stored(home: Path) -> set[str]:
    return {path.name for path in (home / "blobs").glob("[0-9a-f][0-9a-f]/*")}


def in_client(scenario: Callable[[AsyncClient], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with AsyncClient(InlineExecutor(run_test_operation)) as client:
            await scenario(client)

    asyncio.run(main())


async def collected(client: AsyncClient) -> bool:
    assert client._files._keeping is not None
    return await client._files._keeping.collect() is not None


def test_what_nobody_needs_goes_when_the_next_client_comes(home: Path) -> None:
    async def leave(client: AsyncClient) -> None:
        await client.put_blob(b"old")

    async def come(client: AsyncClient) -> None:
        fresh = await client.put_blob(b"new")
        assert stored(home) == {fresh.removeprefix("sha256:")}
        make_old(home, days=0.5)
        assert await collected(client)
        assert not await collected(client)  # it was done just now
        assert await client.has_blob(fresh)

    in_client(leave)
    make_old(home)
    in_client(come)


def test_the_quota_makes_room_before_the_next_blob_is_put(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_BLOBS_QUOTA_BYTES", "1000")

    async def put(client: AsyncClient, *contents: bytes) -> None:
        for content in contents:
            await client.put_blob(content)

    in_client(lambda client: put(client, b"a" * 500, b"b" * 450))
    make_old(home, days=0.5)
    in_client(lambda client: put(client, b"c" * 50))
    assert len(stored(home)) == 2  # a tenth is kept free
    make_old(home, days=0.5)
    in_client(lambda client: put(client, b"d" * 980))
    assert len(stored(home)) == 1
    with pytest.raises(StorageFull):
        in_client(lambda client: put(client, b"e" * 50))  # what was put just now stays
    assert len(stored(home)) == 1


def test_what_an_open_job_refers_to_stays_and_counts_as_used(home: Path) -> None:
    async def scenario(client: AsyncClient) -> None:
        wanted = await client.put_blob(b"data")
        job = {"operation": "until stopped", "training_data": wanted}
        run = asyncio.create_task(client.run(job))
        submitted = await client.submit(job | {"training_data": await client.put_blob(b"other")})
        make_old(home)
        assert await collected(client)
        assert len(stored(home)) == 2
        ages_s = [time.time() - path.stat().st_mtime for path in home.glob("blobs/??/*")]
        assert max(ages_s) < DAY_S
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await client.cancel(submitted)
        async for _ in client.watch(submitted):
            pass
        make_old(home)
        assert await collected(client)
        assert stored(home) == set()

    in_client(scenario)


def test_while_a_queue_holds_jobs_of_others_nothing_goes(home: Path) -> None:
    queue = open_queue(str(home / "queue.sqlite"))

    async def scenario(client: AsyncClient) -> None:
        await client.put_blob(b"data")
        queue.put([QueuedJob("somebody-elses", '{"operation": "train"}')])
        make_old(home)
        assert not await collected(client)
        assert len(stored(home)) == 1
        queue.cancel("somebody-elses")
        assert await collected(client)
        assert stored(home) == set()

    with contextlib.closing(queue):
        in_client(scenario)


def test_what_a_servers_submissions_refer_to_stays(home: Path) -> None:
    async def scenario(client: AsyncClient) -> None:
        model = (await client.put_blob(b"model")).removeprefix("sha256:")
        await client.put_blob(b"nobody's")
        with contextlib.closing(make_store(load_settings())) as store:
            store.submissions.save(
                SubmissionRecord(
                    "sub_1_a", "task2", "me", model, "m.onnx", SubmissionState.COMPLETED, 0.0
                )
            )
        make_old(home)
        assert await collected(client)
        assert stored(home) == {model}

    in_client(scenario)


def test_what_cant_be_read_costs_no_blob_and_no_job(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave(client: AsyncClient) -> None:
        await client.put_blob(b"old")

    in_client(leave)
    make_old(home)
    (home / "store.sqlite").write_bytes(b"no database " * 100)
    in_client(leave)
    assert len(stored(home)) == 1


def test_stores_that_others_own_are_not_collected(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_BLOBS_URL", f"file://{home}/shared")

    async def scenario(client: AsyncClient) -> None:
        await client.put_blob(b"data")
        assert client._files._keeping is None

    in_client(scenario)
