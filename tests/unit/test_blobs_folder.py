"""Blobs in a folder: the contract, and what only a disk can do."""

import asyncio
import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from contracts.blob_contract import (
    CollectableContract,
    chunks_of,
    content,
    read,
    sha256_of,
)
from visiondyno.blobs.base import CHUNK_BYTES
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.errors import OperationFailed, SpecError, StorageFull, TransportDown

DATA = content(300_000)
NAME = sha256_of(DATA)


def file_of(folder: Path, sha256: str) -> Path:
    return folder / sha256[:2] / sha256


def files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    )


def flip_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))


class TestFolderBlobs(CollectableContract):
    def make_store(self, place: Path) -> FolderBlobs:
        return FolderBlobs(place / "blobs")

    def damage(self, place: Path, sha256: str) -> None:
        flip_a_byte(file_of(place / "blobs", sha256))


def put(store: FolderBlobs, data: bytes, **limits: object) -> str:
    return asyncio.run(store.put(chunks_of(data), **limits))  # type: ignore[arg-type]


def test_a_blob_is_one_file_under_its_name_and_nothing_else_is_left(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path)
    assert put(store, DATA) == NAME
    with pytest.raises(SpecError):
        put(store, b"other", expected_sha256=NAME)
    assert files(tmp_path) == [f"{NAME[:2]}/{NAME}"]
    assert file_of(tmp_path, NAME).read_bytes() == DATA
    assert asyncio.run(store.local_path(NAME, tmp_path / "cache")) == file_of(tmp_path, NAME)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_file_is_moved_aside_and_its_path_is_not_given(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path)
    put(store, DATA)
    flip_a_byte(file_of(tmp_path, NAME))
    with pytest.raises(OperationFailed, match="damaged"):
        asyncio.run(store.local_path(NAME, tmp_path))
    (aside,) = files(tmp_path)
    assert aside.startswith(f"damaged/{NAME}-")


def test_a_good_blob_put_over_a_damaged_one_is_not_moved_aside(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path)
    data = content(3 * CHUNK_BYTES)
    name = put(store, data)
    flip_a_byte(file_of(tmp_path, name))

    async def main() -> None:
        async def read_and_put() -> None:
            async for _ in store.open(name):
                await store.put(chunks_of(data))

        with pytest.raises(OperationFailed, match="damaged"):
            await read_and_put()
        assert await read(store, name) == data

    asyncio.run(main())
    assert files(tmp_path) == [f"{name[:2]}/{name}"]


def test_each_use_is_noted(tmp_path: Path) -> None:
    clock = iter(range(1000, 2000, 100))
    store = FolderBlobs(tmp_path, now=lambda: next(clock))

    async def main() -> list[float]:
        async def last_used() -> float:
            (blob,) = [blob async for blob in store.stored()]
            return blob.last_used

        await store.put(chunks_of(DATA))
        times = [await last_used()]
        await store.has(NAME)
        times.append(await last_used())
        await read(store, NAME)
        times.append(await last_used())
        await store.local_path(NAME, tmp_path)
        times.append(await last_used())
        await store.size(NAME)
        times.append(await last_used())
        return times

    assert asyncio.run(main()) == [1000, 1100, 1200, 1300, 1300]


def test_files_that_are_no_blobs_are_not_listed(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path)
    put(store, DATA)
    (tmp_path / NAME[:2] / "notes.txt").write_text("mine")

    async def main() -> list[str]:
        return [blob.sha256 async for blob in store.stored()]

    assert asyncio.run(main()) == [NAME]


def test_the_quota_is_kept_and_what_is_stored_stays(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path, quota_bytes=1000)
    first = put(store, b"a" * 600)
    with pytest.raises(StorageFull, match="quota"):
        put(store, b"b" * 401)
    assert files(tmp_path) == [f"{first[:2]}/{first}"]
    put(store, b"c" * 400)
    # Full, but the same content needs no more room, if it is named.
    assert put(store, b"a" * 600, expected_sha256=first) == first
    with pytest.raises(StorageFull):
        put(store, b"d")
    asyncio.run(store.delete(first))
    put(store, b"d" * 600)


def test_the_quota_counts_what_another_store_put(tmp_path: Path) -> None:
    store, other = FolderBlobs(tmp_path, quota_bytes=1000), FolderBlobs(tmp_path)
    put(store, b"a" * 100)
    name = put(other, b"b" * 800)
    with pytest.raises(StorageFull):
        # The count of 30 seconds ago is near the limit, so it is made anew.
        put(store, b"c" * 901)
    asyncio.run(other.delete(name))
    put(store, b"c" * 900)


async def endless(data: bytes, begun: asyncio.Event) -> AsyncIterator[bytes]:
    yield data
    begun.set()
    await asyncio.Event().wait()


HALF_A_PUT = """
import asyncio, sys
from pathlib import Path
from visiondyno.blobs.folder import FolderBlobs

async def half():
    yield b"x" * 2**20
    print("begun", flush=True)
    await asyncio.Event().wait()

asyncio.run(FolderBlobs(Path(sys.argv[1])).put(half()))
"""


def test_a_start_removes_what_a_killed_writer_left_and_nothing_of_a_living_one(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", HALF_A_PUT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begun\n"
        FolderBlobs(tmp_path)
        (partial,) = files(tmp_path)
        assert partial.startswith("partial/")
        writer.send_signal(signal.SIGKILL)
    assert files(tmp_path) == [partial]
    FolderBlobs(tmp_path)
    assert files(tmp_path) == []


def test_a_partial_that_a_starting_process_took_for_a_leftover_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter(["first", "second"])

    def token(_: int) -> str:
        name = next(names)
        if name == "second":
            assert not (tmp_path / "partial" / "first").exists()
        return name

    store = FolderBlobs(tmp_path)
    monkeypatch.setattr("visiondyno.blobs.folder.secrets.token_hex", token)
    locked: list[int] = []

    def lock(file: object, operation: int) -> None:
        if not locked:  # between open and flock of the first
            (tmp_path / "partial" / "first").unlink()
        locked.append(operation)

    monkeypatch.setattr("visiondyno.blobs.folder.fcntl.flock", lock)
    assert put(store, DATA) == NAME
    assert files(tmp_path) == [f"{NAME[:2]}/{NAME}"]


def test_a_cancelled_put_waits_for_its_write_and_leaves_no_file(tmp_path: Path) -> None:
    async def main() -> None:
        store, begun = FolderBlobs(tmp_path), asyncio.Event()
        task = asyncio.create_task(store.put(endless(b"x" * 2 * CHUNK_BYTES, begun)))
        await begun.wait()
        assert len(files(tmp_path)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert files(tmp_path) == []

    asyncio.run(main())


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SpecError, match="can't be the folder of blobs"):
        FolderBlobs(tmp_path / "file" / "blobs")


def test_a_disk_that_fails_is_unavailable_and_not_the_user_s_fault(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path)
    file_of(tmp_path, NAME).mkdir(parents=True)
    for attempt in (store.put(chunks_of(DATA)), read(store, NAME), store.delete(NAME)):
        with pytest.raises(TransportDown, match="Check the disk"):
            asyncio.run(attempt)  # type: ignore[arg-type]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, b"size=1m"):
        pytest.skip(f"no right to mount ({os.strerror(ctypes.get_errno())})")
    try:
        yield place
    finally:
        libc.umount2(bytes(place), 2)


def test_a_full_disk_is_told_and_loses_nothing(tiny_disk: Path) -> None:
    store = FolderBlobs(tiny_disk / "blobs")
    put(store, DATA)
    with pytest.raises(StorageFull, match="What is stored is intact"):
        put(store, content(2_000_000))
    assert files(tiny_disk / "blobs") == [f"{NAME[:2]}/{NAME}"]
    assert asyncio.run(read(store, NAME)) == DATA
    assert put(store, b"small enough") == sha256_of(b"small enough")


FILE_LIMIT = """
import asyncio, sys
from pathlib import Path
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.errors import StorageFull

async def chunks(count):
    for _ in range(count):
        yield b"x" * 50_000

store = FolderBlobs(Path(sys.argv[1]))
name = asyncio.run(store.put(chunks(2)))
try:
    asyncio.run(store.put(chunks(40)))
except StorageFull as error:
    print(error)
assert asyncio.run(store.has(name))
"""


def test_a_limit_of_the_process_is_as_a_full_disk(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILE_LIMIT, str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "no room left" in done.stdout
    assert files(tmp_path) == [f"{(name := sha256_of(b'x' * 100_000))[:2]}/{name}"]


CHURN = """
import asyncio, random, sys
from pathlib import Path
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.errors import NotFound

async def chunks(data):
    yield data

async def main(seed):
    dice, store = random.Random(seed), FolderBlobs(Path(sys.argv[1]))
    for _ in range(150):
        data = bytes([dice.randrange(3)]) * 50_000
        name = await store.put(chunks(data))
        try:
            assert b"".join([part async for part in store.open(name)]) == data
        except NotFound:
            pass  # another process deleted it
        if dice.random() < 0.5:
            await store.delete(name)

asyncio.run(main(int(sys.argv[2])))
"""


def test_processes_that_put_read_and_delete_the_same_blobs_never_see_half_of_one(
    tmp_path: Path,
) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", CHURN, str(tmp_path), str(seed)])
        for seed in range(2)
    ]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    assert not list((tmp_path / "partial").iterdir())
    assert not list((tmp_path / "damaged").iterdir())
