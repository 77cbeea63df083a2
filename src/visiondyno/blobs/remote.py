"""What stores beyond this machine have in common: upload from a spool, download verified."""

import asyncio
import tempfile
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from io import FileIO
from pathlib import Path
from weakref import WeakValueDictionary

from visiondyno.blobs.base import BlobStore, check_sha256, damaged
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.blobs.streams import Content, disk_errors, fill, in_thread, verified
from visiondyno.errors import OperationFailed


class RemoteBlobs(BlobStore):
    """Spools a put to a nameless local file first.

    The name is the hash, so it isn't known before the last byte; and an upload that fails on the
    way can be repeated. The file has no name, so nothing is left of it even after a kill.
    """

    def __init__(self, spool: Path | None = None) -> None:
        """Prepare to spool.

        Args:
            spool: a folder with room for what is being put; the system's temporary one if None.
        """
        self._spool = spool or Path(tempfile.gettempdir())
        self._downloads: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @abstractmethod
    async def _upload(self, file: FileIO, content: Content) -> None:
        """Store the file's bytes under their hash, in one step. Its position may be anywhere."""

    @abstractmethod
    def _download(self, sha256: str, versions: list[str]) -> AsyncGenerator[bytes, None]:
        """The blob's bytes, unverified; adds to `versions` which upload they are of, if known."""

    async def _move_aside(self, sha256: str, versions: list[str]) -> str:  # noqa: ARG002 - a bucket needs them
        """Move a damaged blob aside, where that is ours to do; says what to do next."""
        return "Try again; if it stays so, upload it again"

    async def put(
        self,
        chunks: AsyncIterator[bytes],
        expected_sha256: str | None = None,
        max_bytes: int | None = None,
    ) -> str:
        if expected_sha256 is not None:
            check_sha256(expected_sha256)
        with disk_errors(self._spool):
            file = tempfile.TemporaryFile(buffering=0, dir=self._spool)  # noqa: SIM115 - closed below
        with file:
            content = await fill(
                file,
                chunks,
                place=self._spool,
                expected_sha256=expected_sha256,
                max_bytes=max_bytes,
            )
            await self._upload(file, content)
        return content.sha256

    async def open(self, sha256: str) -> AsyncGenerator[bytes, None]:
        async def on_damage() -> OperationFailed:
            return damaged(sha256, self, await self._move_aside(sha256, versions))

        versions: list[str] = []
        raw = self._download(check_sha256(sha256), versions)
        async with aclosing(verified(raw, sha256, on_damage)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def local_path(self, sha256: str, cache: Path) -> Path:
        folder = await in_thread(FolderBlobs, cache)
        # One download for all who wait for the same blob.
        lock = self._downloads.setdefault(check_sha256(sha256), asyncio.Lock())
        async with lock:
            if await folder.has(sha256):
                try:
                    return await folder.local_path(sha256, cache)
                except OperationFailed:
                    pass  # the copy was damaged and is moved aside: download another
            async with aclosing(self.open(sha256)) as chunks:
                await folder.put(chunks, expected_sha256=sha256)
        return await folder.local_path(sha256, cache)
