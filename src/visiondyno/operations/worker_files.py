"""What a worker reads and writes by content: the blobs that clients and workers share."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from visiondyno.blobs.base import BlobStore, check_sha256
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.blobs.open import open_blobs
from visiondyno.errors import NotFound, StorageFull, TooLarge
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.settings import load_settings
from visiondyno.whole_file import file_sha256

_BLOBS = "blobs"
_ATTEMPTS = 5
_BLOCK_BYTES = 1 << 20


class WorkerFiles:
    """Blobs by reference, and the cache beside them. Not for use on an event loop's own thread.

    Attributes:
        cache: of this worker's home.
    """

    def __init__(self, open_store: Callable[[], BlobStore], cache: WorkerCache) -> None:
        """`open_store` opens the store of blobs for one use; it is closed after it."""
        self.cache = cache
        self._open_store = open_store

    @classmethod
    def of_this_worker(cls, jobs_url: str | None = None) -> "WorkerFiles":
        """As the settings say: `VISIONDYNO_BLOBS_URL`, or the home's folder `blobs`.

        Args:
            jobs_url: an address of blobs that came with the job: used where the worker has none
                of its own, and never given the worker's key.

        Raises:
            SpecError: an address or a folder is wrong.
        """
        settings = load_settings()
        own_url, secret = settings.blobs_url, settings.blobs_api_key
        key = secret.get_secret_value() if own_url is not None and secret is not None else None

        def open_store() -> BlobStore:
            folder, quota_bytes = settings.folder / "blobs", settings.blobs_quota_bytes
            return open_blobs(own_url or jobs_url, folder, key, quota_bytes)

        return cls(open_store, WorkerCache(settings.folder / "cache", settings.cache_bytes))

    def fetch(self, reference: str, what: str, check: Callable[[], None] = lambda: None) -> Path:
        """The blob as a file on this machine, its content verified now. Read only.

        A store that is a folder gives its own file; from others it is downloaded once, into the
        cache, where a later `fetch` finds it.

        Args:
            reference: `sha256:…`.
            what: names it in messages, at a sentence's beginning.
            check: called again and again during a download; what it raises stops it.

        Raises:
            SpecError: the reference is none.
            NotFound: the store doesn't have it.
            OperationFailed: it is damaged there.
            TransportDown, StorageFull: the store can't be reached; there is no room for it.
        """
        return self._fetch(_sha256_of(reference), what, None, check)

    def read(self, reference: str, what: str, max_bytes: int | None = None) -> bytes:
        """The blob's bytes, verified now.

        Args:
            reference: `sha256:…`.
            what: names it in messages, at a sentence's beginning.
            max_bytes: how many there may be; looked at before it is downloaded.

        Raises:
            TooLarge: there are more.
            SpecError, NotFound, OperationFailed, TransportDown, StorageFull: as `fetch`.
        """
        sha256 = _sha256_of(reference)
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError):  # another worker evicted it before it was opened
                return self._fetch(sha256, what, max_bytes).read_bytes()
        raise StorageFull(
            f"{what} was evicted from {self.cache.folder} before it could be read, {_ATTEMPTS} "
            "times. Raise VISIONDYNO_CACHE_BYTES: the workers need more than it allows."
        )

    def publish(self, data: bytes) -> str:
        """Put into the store that clients read too; its reference, `sha256:…`.

        Raises:
            StorageFull: the disk or the quota is full.
            TransportDown: the store can't be reached.
        """
        with self._opened() as (runner, store):
            return f"sha256:{runner.run(store.put(_one(data)))}"

    def publish_file(self, path: Path) -> str:
        """As `publish`, of a file's content, which is never all in memory."""
        with self._opened() as (runner, store), path.open("rb") as file:
            return f"sha256:{runner.run(store.put(_blocks(file)))}"

    def _fetch(
        self,
        sha256: str,
        what: str,
        max_bytes: int | None,
        check: Callable[[], None] = lambda: None,
    ) -> Path:
        kept = self._verified_copy(sha256)
        if kept is not None:
            _check_length(kept.stat().st_size, max_bytes, what)
            return kept
        with self._opened() as (runner, store):
            try:
                if max_bytes is not None:
                    _check_length(runner.run(store.size(sha256)), max_bytes, what)
                if isinstance(store, FolderBlobs):
                    return runner.run(store.local_path(sha256, self.cache.folder))

                def pieces() -> Iterator[bytes]:
                    for piece in _pieces(runner, store, sha256):
                        check()
                        yield piece

                return self.cache.make_file(_BLOBS, sha256, pieces, check)
            except NotFound as error:
                raise NotFound(
                    f"{what} (sha256:{sha256}) isn't among this worker's blobs. Set "
                    "VISIONDYNO_BLOBS_URL to an address that worker and client share, and upload "
                    "it again."
                ) from error

    def _verified_copy(self, sha256: str) -> Path | None:
        path = self.cache.get(_BLOBS, sha256)
        try:
            if path is None or file_sha256(path) == sha256:
                return path
        except FileNotFoundError:  # evicted meanwhile
            return None
        self.cache.drop(_BLOBS, sha256)
        return None

    @contextmanager
    def _opened(self) -> Iterator[tuple[asyncio.Runner, BlobStore]]:
        with asyncio.Runner() as runner:
            store = self._open_store()
            try:
                yield runner, store
            finally:
                runner.run(store.close())


def _sha256_of(reference: str) -> str:
    return check_sha256(reference.removeprefix("sha256:"))


def _check_length(length_bytes: int, max_bytes: int | None, what: str) -> None:
    if max_bytes is not None and length_bytes > max_bytes:
        raise TooLarge(
            f"{what} has {length_bytes:,} bytes, and {max_bytes:,} at most are taken. Send less."
        )


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _blocks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while block := file.read(_BLOCK_BYTES):
        yield block


def _pieces(runner: asyncio.Runner, store: BlobStore, sha256: str) -> Iterator[bytes]:
    """The blob's verified bytes, out of the event loop's world."""
    chunks = store.open(sha256)

    async def following() -> bytes | None:
        return await anext(chunks, None)

    async def close() -> None:
        await chunks.aclose()

    try:
        while (piece := runner.run(following())) is not None:
            yield piece
    finally:
        runner.run(close())
