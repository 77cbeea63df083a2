"""The files that a client and its workers share, by content."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Collection
from pathlib import Path

from visiondyno.blobs.base import CHUNK_BYTES, BlobStore, CollectableBlobs
from visiondyno.blobs.streams import in_thread
from visiondyno.client.home_blobs import HomeBlobs
from visiondyno.errors import SpecError, StorageFull
from visiondyno.places import Place, make_blobs_at
from visiondyno.settings import load_settings
from visiondyno.whole_file import written_whole

_PREFIX = "sha256:"
_WORKERS_ON_A_QUEUE = ("local", "redis")


class SharedBlobs:
    """Puts and gets blobs; where they are in a home, it has those collected that nobody needs.

    Nothing is opened before the first use. For one event loop.
    """

    def __init__(
        self,
        place: Place,
        store: BlobStore | None,
        *,
        wanted: Callable[[], Collection[str]],
        runs: Callable[[], int],
    ) -> None:
        """Say where.

        Args:
            place: where the client's jobs run.
            store: what is used; None: that of the place.
            wanted: SHA-256 of what the client's open jobs refer to.
            runs: how many jobs the client has open.
        """
        self._place = place
        self._store = store
        self._wanted = wanted
        self._runs = runs
        self._keeping: HomeBlobs | None = None

    @property
    def store(self) -> BlobStore:
        """The store itself.

        Raises:
            SpecError: there is no such place.
        """
        if self._store is None:
            settings = load_settings()
            self._store = make_blobs_at(self._place, settings)
            if isinstance(self._store, CollectableBlobs) and settings.blobs_url is None:
                on_a_queue = self._place.where in _WORKERS_ON_A_QUEUE
                runs = self._runs if on_a_queue else lambda: 0
                self._keeping = HomeBlobs(settings, self._store, self._wanted, runs)
        return self._store

    async def put(self, data: bytes) -> str:
        """Store bytes; their name, `sha256:…`.

        Raises:
            StorageFull: there is no room.
            SpecError: client and workers share no store.
        """

        async def chunks() -> AsyncGenerator[bytes, None]:
            yield data

        return await self._put(chunks, len(data))

    async def put_file(self, path: Path, on_bytes: Callable[[int], None]) -> str:
        """As `put`, piece by piece; `on_bytes` is told how many bytes were read.

        Raises:
            StorageFull, SpecError: as `put`; or the file can't be read.
        """

        async def chunks() -> AsyncGenerator[bytes, None]:
            done = 0
            with path.open("rb") as file:
                while piece := await in_thread(file.read, CHUNK_BYTES):
                    yield piece
                    done += len(piece)
                    on_bytes(done)

        try:
            return await self._put(chunks, path.stat().st_size)
        except OSError as error:
            raise SpecError(
                f"{path} can't be read ({error.strerror}); check the path and its permissions."
            ) from error

    async def has(self, reference: str) -> bool:
        """Whether it is stored; who is told yes may refer to it."""
        return await (await self._opened()).has(reference.removeprefix(_PREFIX))

    async def get(self, reference: str) -> bytes:
        """The bytes, verified.

        Raises:
            NotFound: they aren't there.
            SpecError: it isn't such a name.
        """
        store = await self._opened()
        blob = store.open(reference.removeprefix(_PREFIX))
        async with contextlib.aclosing(blob) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def get_file(self, reference: str, path: Path, what: str) -> None:
        """As `get`, into a file, piece by piece; it appears when it is whole.

        Raises:
            NotFound, SpecError: as `get`.
            StorageFull: it can't be written there.
        """
        store = await self._opened()
        blob = store.open(reference.removeprefix(_PREFIX))
        with written_whole(path, what) as file:
            async with contextlib.aclosing(blob) as chunks:
                async for chunk in chunks:
                    await in_thread(file.write, chunk)

    async def close(self) -> None:
        """Let go of the store."""
        if self._keeping is not None:
            await self._keeping.close()
        if self._store is not None:
            await self._store.close()

    async def _put(self, chunks: Callable[[], AsyncGenerator[bytes, None]], size_bytes: int) -> str:
        store = await self._opened()
        try:
            sha256 = await _put(store, chunks)
        except StorageFull:
            if self._keeping is None:
                raise
            await self._keeping.make_room(size_bytes)
            sha256 = await _put(store, chunks)
        return f"{_PREFIX}{sha256}"

    async def _opened(self) -> BlobStore:
        """The store, once the collecting of what nobody needs has begun."""
        store = self.store
        if self._keeping is not None:
            await self._keeping.begin()
        return store


async def _put(store: BlobStore, chunks: Callable[[], AsyncGenerator[bytes, None]]) -> str:
    async with contextlib.aclosing(chunks()) as given:
        return await store.put(given)
