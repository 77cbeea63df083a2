"""What a worker fetches and publishes: verified, downloaded once, its key never given away."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from blob_servers import BlobServer, blob_server
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.blobs.http import HttpBlobs
from visiondyno.errors import (
    Cancelled,
    NotFound,
    OperationFailed,
    SpecError,
    StorageFull,
    TooLarge,
    Unauthorized,
)
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.operations.worker_files import WorkerFiles

DATA = bytes(range(256)) * 5000
ABSENT = "sha256:" + "0" * 64


def put(blobs: FolderBlobs, data: bytes = DATA) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        yield data

    return f"sha256:{asyncio.run(blobs.put(chunks()))}"


def damage(folder: Path, reference: str) -> None:
    sha256 = reference.removeprefix("sha256:")
    (folder / sha256[:2] / sha256).write_bytes(DATA[:-1] + b"?")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BlobServer]:
    with blob_server(tmp_path / "served") as served:
        yield served


@pytest.fixture
def cache(tmp_path: Path) -> WorkerCache:
    return WorkerCache(tmp_path / "cache", 10**8)


def local(folder: Path, cache: WorkerCache) -> WorkerFiles:
    return WorkerFiles(lambda: FolderBlobs(folder), cache)


def remote(server: BlobServer, cache: WorkerCache) -> WorkerFiles:
    return WorkerFiles(lambda: HttpBlobs(server.url), cache)


def test_a_folder_gives_its_own_file(tmp_path: Path, cache: WorkerCache) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    files = local(blobs.path, cache)
    reference = put(blobs)
    assert files.fetch(reference, "The data").is_relative_to(blobs.path)
    assert files.read(reference, "The data") == DATA
    assert cache.get("blobs", reference.removeprefix("sha256:")) is None
    damage(blobs.path, reference)
    with pytest.raises(OperationFailed, match="damaged"):
        files.fetch(reference, "The data")


def test_what_comes_from_elsewhere_is_downloaded_once(
    server: BlobServer, cache: WorkerCache
) -> None:
    reference = put(server.blobs)
    path = remote(server, cache).fetch(reference, "The data")
    assert path.read_bytes() == DATA
    asked = list(server.requests)
    assert remote(server, cache).fetch(reference, "The data") == path
    assert remote(server, cache).read(reference, "The data", len(DATA)) == DATA
    assert server.requests == asked


def test_a_damaged_copy_is_downloaded_again(server: BlobServer, cache: WorkerCache) -> None:
    reference = put(server.blobs)
    path = remote(server, cache).fetch(reference, "The data")
    path.write_bytes(DATA[:-1])
    assert remote(server, cache).read(reference, "The data") == DATA
    assert path.read_bytes() == DATA


def test_a_server_that_sends_something_else_is_not_believed(
    server: BlobServer, cache: WorkerCache
) -> None:
    reference = put(server.blobs)
    server.lies = DATA[:-1] + b"?"
    with pytest.raises(OperationFailed, match="damaged"):
        remote(server, cache).fetch(reference, "The data")
    assert list((cache.folder / "entries").glob("*/*")) == []


@pytest.mark.parametrize("place", ["folder", "server"])
def test_what_is_not_there_is_named_with_the_next_step(
    place: str, tmp_path: Path, server: BlobServer, cache: WorkerCache
) -> None:
    files = local(tmp_path / "blobs", cache) if place == "folder" else remote(server, cache)
    for use in (files.fetch, files.read):
        with pytest.raises(NotFound, match=r"^'training_data' .*VISIONDYNO_BLOBS_URL"):
            use(ABSENT, "'training_data'")


@pytest.mark.parametrize("place", ["folder", "server", "cache"])
def test_what_is_too_long_is_not_read(
    place: str, tmp_path: Path, server: BlobServer, cache: WorkerCache
) -> None:
    files = local(server.blobs.path, cache) if place == "folder" else remote(server, cache)
    reference = put(server.blobs)
    if place == "cache":
        files.fetch(reference, "The data")
    with pytest.raises(TooLarge, match=r"^'model_state' has 1,280,000 bytes, and 1,000 at most"):
        files.read(reference, "'model_state'", 1000)
    assert "GET" not in server.requests or place == "cache"


def test_a_reference_must_be_one(tmp_path: Path, cache: WorkerCache) -> None:
    for wrong in ("", "sha256:", "sha256:" + "g" * 64, "../../etc/passwd"):
        with pytest.raises(SpecError, match="no blob's name"):
            local(tmp_path / "blobs", cache).fetch(wrong, "The data")


def test_a_download_can_be_stopped(server: BlobServer, cache: WorkerCache) -> None:
    def check() -> None:
        raise Cancelled("The job was cancelled.")

    reference = put(server.blobs)
    with pytest.raises(Cancelled):
        remote(server, cache).fetch(reference, "The data", check)
    assert remote(server, cache).read(reference, "The data") == DATA


def test_what_is_published_can_be_read_by_others(
    server: BlobServer, cache: WorkerCache, tmp_path: Path
) -> None:
    reference = remote(server, cache).publish(DATA)
    assert reference == f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    elsewhere = WorkerCache(tmp_path / "elsewhere", 10**8)
    assert remote(server, elsewhere).read(reference, "The data") == DATA
    assert local(server.blobs.path, elsewhere).fetch(reference, "The data").read_bytes() == DATA


class Vanishing(WorkerCache):
    """Another worker evicts each file before it can be read, `times` times."""

    times = 1

    def make_file(self, *arguments: object) -> Path:
        path = super().make_file(*arguments)  # type: ignore[arg-type]
        if self.times:
            self.times -= 1
            path.unlink()
        return path


def test_a_file_evicted_before_it_is_read_is_downloaded_again(
    server: BlobServer, tmp_path: Path
) -> None:
    cache = Vanishing(tmp_path / "cache", 10**8)
    reference = put(server.blobs)
    assert remote(server, cache).read(reference, "The data") == DATA
    cache.drop("blobs", reference.removeprefix("sha256:"))
    cache.times = 100
    with pytest.raises(StorageFull, match="VISIONDYNO_CACHE_BYTES"):
        remote(server, cache).read(reference, "The data")


class Settings:
    """The environment of a worker."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._set = monkeypatch.setenv
        self.home = folder / "home"
        monkeypatch.chdir(folder)
        self(VISIONDYNO_HOME=str(self.home))

    def __call__(self, **variables: str) -> None:
        for name, value in variables.items():
            self._set(name, value)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    return Settings(monkeypatch, tmp_path)


def test_a_worker_without_settings_uses_its_home(settings: Settings) -> None:
    files = WorkerFiles.of_this_worker()
    reference = files.publish(DATA)
    assert files.fetch(reference, "The data").is_relative_to(settings.home / "blobs")
    assert files.cache.folder == settings.home / "cache"
    settings(VISIONDYNO_CACHE_BYTES="123", VISIONDYNO_BLOBS_QUOTA_BYTES="2000000")
    limited = WorkerFiles.of_this_worker()
    assert limited.cache.max_bytes == 123
    with pytest.raises(StorageFull, match="quota"):
        limited.publish(DATA[1:])


def test_a_workers_key_goes_to_its_own_address_and_nowhere_else(
    settings: Settings, server: BlobServer
) -> None:
    reference = put(server.blobs)
    server.api_key = "vd_secret"
    settings(VISIONDYNO_BLOBS_API_KEY="vd_secret")
    with pytest.raises(Unauthorized):  # the job's address: no key came at all (with one: 403)
        WorkerFiles.of_this_worker(server.url).fetch(reference, "The model")
    settings(VISIONDYNO_BLOBS_URL=server.url)
    files = WorkerFiles.of_this_worker("http://127.0.0.1:1/blobs")
    assert files.read(reference, "The model") == DATA


def test_a_jobs_address_is_used_where_the_worker_has_none(
    settings: Settings, server: BlobServer
) -> None:
    reference = put(server.blobs)
    with pytest.raises(NotFound):
        WorkerFiles.of_this_worker().fetch(reference, "The model")
    assert WorkerFiles.of_this_worker(server.url).read(reference, "The model") == DATA


def test_the_store_is_closed_after_each_use(cache: WorkerCache, tmp_path: Path) -> None:
    class Counted(FolderBlobs):
        opened = closed = 0

        def __init__(self, path: Path) -> None:
            super().__init__(path)
            Counted.opened += 1

        async def close(self) -> None:
            Counted.closed += 1

    files = WorkerFiles(lambda: Counted(tmp_path / "blobs"), cache)
    files.read(files.publish(DATA), "The data")
    with pytest.raises(NotFound):
        files.fetch(ABSENT, "The data")
    assert Counted.opened == Counted.closed == 3
