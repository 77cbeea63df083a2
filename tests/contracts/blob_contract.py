"""What every store of blobs promises (`visiondyno.blobs.base`), as one suite.

Subclass `BlobContract`, or `CollectableContract` for a store that lists and deletes, as `TestX`.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from visiondyno.blobs.base import CHUNK_BYTES, BlobStore, CollectableBlobs
from visiondyno.blobs.collect import Collected, collect_garbage
from visiondyno.errors import NotFound, OperationFailed, SpecError, TooLarge

ABSENT = hashlib.sha256(b"never stored").hexdigest()
LENGTHS = [0, 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 17]
DAY_S = 86400.0


def content(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def chunks_of(data: bytes, length: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), length):
        yield data[start : start + length]


async def broken_off(data: bytes) -> AsyncIterator[bytes]:
    yield data
    raise ConnectionResetError("the client went away")


async def read(store: BlobStore, sha256: str) -> bytes:
    return b"".join([chunk async for chunk in store.open(sha256)])


class BlobContract:
    def make_store(self, place: Path) -> BlobStore:
        raise AssertionError("a subclass opens its store; `place` is a folder of the test's own")

    def damage(self, place: Path, sha256: str) -> None:
        raise AssertionError("a subclass changes a byte of what is stored")

    def check(self, place: Path, scenario: Callable[[Any], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            store = self.make_store(place)
            try:
                return await asyncio.wait_for(scenario(store), timeout=60)
            finally:
                await store.close()

        return asyncio.run(main())

    @pytest.mark.parametrize("length", LENGTHS)
    def test_what_is_put_comes_back_under_its_hash(self, tmp_path: Path, length: int) -> None:
        data = content(length)

        async def scenario(store: BlobStore) -> None:
            name = await store.put(chunks_of(data))
            assert name == sha256_of(data)
            assert await store.has(name)
            assert await store.size(name) == length
            assert await read(store, name) == data

        self.check(tmp_path, scenario)

    def test_a_second_process_finds_it(self, tmp_path: Path) -> None:
        name = self.check(tmp_path, lambda store: store.put(chunks_of(b"kept")))
        assert self.check(tmp_path, lambda store: read(store, name)) == b"kept"

    def test_the_same_content_put_at_once_is_one_blob(self, tmp_path: Path) -> None:
        data = content(300_000)

        async def scenario(store: BlobStore) -> None:
            puts = [store.put(chunks_of(data, 7_000 + step)) for step in range(6)]
            assert set(await asyncio.gather(*puts)) == {sha256_of(data)}
            reads = await asyncio.gather(*(read(store, sha256_of(data)) for _ in range(6)))
            assert set(reads) == {data}
            if isinstance(store, CollectableBlobs):
                assert [blob.size_bytes async for blob in store.stored()] == [len(data)]

        self.check(tmp_path, scenario)

    def test_the_expected_hash_is_checked_and_a_wrong_one_keeps_nothing(
        self, tmp_path: Path
    ) -> None:
        async def scenario(store: BlobStore) -> None:
            assert await store.put(chunks_of(b"right"), expected_sha256=sha256_of(b"right"))
            with pytest.raises(SpecError, match=sha256_of(b"wrong")):
                await store.put(chunks_of(b"wrong"), expected_sha256=ABSENT)
            assert not await store.has(sha256_of(b"wrong"))
            assert not await store.has(ABSENT)

        self.check(tmp_path, scenario)

    def test_more_than_the_most_bytes_keeps_nothing(self, tmp_path: Path) -> None:
        async def scenario(store: BlobStore) -> None:
            with pytest.raises(TooLarge, match="999"):
                await store.put(chunks_of(b"x" * 1000, 10), max_bytes=999)
            assert not await store.has(sha256_of(b"x" * 1000))
            assert await store.put(chunks_of(b"x" * 999, 10), max_bytes=999)

        self.check(tmp_path, scenario)

    def test_a_source_that_breaks_off_keeps_nothing(self, tmp_path: Path) -> None:
        data = content(2 * CHUNK_BYTES)

        async def scenario(store: BlobStore) -> None:
            with pytest.raises(ConnectionResetError, match="went away"):
                await store.put(broken_off(data))
            assert not await store.has(sha256_of(data))

        self.check(tmp_path, scenario)

    def test_a_cancelled_put_keeps_nothing(self, tmp_path: Path) -> None:
        data = content(2 * CHUNK_BYTES)

        async def scenario(store: BlobStore) -> None:
            begun = asyncio.Event()

            async def endless() -> AsyncIterator[bytes]:
                yield data
                begun.set()
                await asyncio.Event().wait()

            put = asyncio.create_task(store.put(endless()))
            await begun.wait()
            put.cancel()
            with pytest.raises(asyncio.CancelledError):
                await put
            assert not await store.has(sha256_of(data))

        self.check(tmp_path, scenario)

    def test_what_is_not_there_is_not_found(self, tmp_path: Path) -> None:
        async def scenario(store: BlobStore) -> None:
            assert not await store.has(ABSENT)
            with pytest.raises(NotFound, match=ABSENT):
                await store.size(ABSENT)
            with pytest.raises(NotFound, match=ABSENT):
                await read(store, ABSENT)
            with pytest.raises(NotFound, match=ABSENT):
                await store.local_path(ABSENT, tmp_path / "cache")

        self.check(tmp_path, scenario)

    @pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
    def test_a_name_that_is_no_hash_is_refused(self, tmp_path: Path, name: str) -> None:
        async def scenario(store: BlobStore) -> None:
            for attempt in (
                store.has(name),
                store.size(name),
                read(store, name),
                store.local_path(name, tmp_path / "cache"),
                store.put(chunks_of(b"x"), expected_sha256=name),
            ):
                with pytest.raises(SpecError, match="64 digits"):
                    await attempt

        self.check(tmp_path, scenario)

    @pytest.mark.parametrize("length", [5, 2 * CHUNK_BYTES + 5])
    def test_a_damaged_blob_never_comes_whole_and_is_healed_by_a_put(
        self, tmp_path: Path, length: int
    ) -> None:
        data = content(length)

        async def scenario(store: BlobStore) -> None:
            name = await store.put(chunks_of(data))
            await asyncio.to_thread(self.damage, tmp_path, name)
            got: list[bytes] = []

            async def take_all() -> None:
                async for chunk in store.open(name):
                    got.append(chunk)

            # Over HTTP it may be gone already when the client asks again.
            with pytest.raises((OperationFailed, NotFound)):
                await take_all()
            assert sum(map(len, got)) < length
            assert not await store.has(name)
            assert await store.put(chunks_of(data)) == name
            assert await read(store, name) == data

        self.check(tmp_path, scenario)

    def test_a_reader_may_leave_early(self, tmp_path: Path) -> None:
        data = content(4 * CHUNK_BYTES)

        async def scenario(store: BlobStore) -> None:
            name = await store.put(chunks_of(data))
            async with aclosing(store.open(name)) as chunks:
                async for chunk in chunks:
                    assert data.startswith(chunk)
                    break
            assert await read(store, name) == data

        self.check(tmp_path, scenario)

    def test_the_local_file_has_the_bytes(self, tmp_path: Path) -> None:
        data = content(2 * CHUNK_BYTES + 1)

        async def scenario(store: BlobStore) -> None:
            name, cache = await store.put(chunks_of(data)), tmp_path / "cache"
            paths = await asyncio.gather(*(store.local_path(name, cache) for _ in range(3)))
            assert {path.read_bytes() for path in paths} == {data}
            assert await store.local_path(name, cache) == paths[0]

        self.check(tmp_path, scenario)


class CollectableContract(BlobContract):
    def test_stored_blobs_are_listed(self, tmp_path: Path) -> None:
        async def scenario(store: CollectableBlobs) -> None:
            assert [blob async for blob in store.stored()] == []
            before = time.time()
            names = {await store.put(chunks_of(b"x" * length)): length for length in range(1, 5)}
            listed = [blob async for blob in store.stored()]
            assert {blob.sha256: blob.size_bytes for blob in listed} == names
            # A bucket's times are whole seconds.
            assert all(before - 2 < blob.last_used < time.time() + 2 for blob in listed)

        self.check(tmp_path, scenario)

    def test_deleted_is_gone_and_may_come_back(self, tmp_path: Path) -> None:
        async def scenario(store: CollectableBlobs) -> None:
            name = await store.put(chunks_of(b"passing"))
            other = await store.put(chunks_of(b"staying"))
            assert await store.delete(name)
            assert not await store.delete(name)
            assert not await store.has(name)
            assert await store.has(other)
            assert await store.put(chunks_of(b"passing")) == name
            assert await read(store, name) == b"passing"

        self.check(tmp_path, scenario)

    def test_what_was_used_since_is_not_deleted(self, tmp_path: Path) -> None:
        async def scenario(store: CollectableBlobs) -> None:
            name = await store.put(chunks_of(b"in demand"))
            assert not await store.delete(name, if_unused_since=time.time() - DAY_S)
            assert await store.has(name)
            assert await store.delete(name, if_unused_since=time.time() + 2)
            assert not await store.delete(name, if_unused_since=time.time() + 2)

        self.check(tmp_path, scenario)

    def test_a_reader_reads_on_when_the_blob_is_deleted(self, tmp_path: Path) -> None:
        data = content(5 * CHUNK_BYTES)

        async def scenario(store: CollectableBlobs) -> None:
            name = await store.put(chunks_of(data))
            got = []
            async for chunk in store.open(name):
                if not got:
                    assert await store.delete(name)
                got.append(chunk)
            assert b"".join(got) == data

        self.check(tmp_path, scenario)

    def test_a_collection_deletes_what_is_old_and_unused(self, tmp_path: Path) -> None:
        async def scenario(store: CollectableBlobs) -> None:
            names = [await store.put(chunks_of(b"x" * length)) for length in (10, 20, 30)]
            now = time.time()
            assert await collect_garbage(store, [], DAY_S, None, now) == Collected(0, 0, 3)
            later = now + 2 * DAY_S
            done = await collect_garbage(store, [names[1]], DAY_S, None, later)
            assert done == Collected(deleted=2, freed_bytes=40, kept=1)
            assert [blob.sha256 async for blob in store.stored()] == [names[1]]

        self.check(tmp_path, scenario)
