"""Blobs as files of a folder: `ab/abcdef…`."""

import fcntl
import hashlib
import os
import secrets
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from io import FileIO
from pathlib import Path

from visiondyno.blobs.base import (
    CHUNK_BYTES,
    CollectableBlobs,
    StoredBlob,
    check_sha256,
    damaged,
    is_sha256,
    not_found,
)
from visiondyno.blobs.streams import disk_errors, file_chunks, fill, in_thread, verified
from visiondyno.errors import OperationFailed, SpecError, StorageFull

_RESCAN_S = 30.0


class FolderBlobs(CollectableBlobs):
    """Blobs in a folder of a disk.

    A put writes to `partial/`, syncs, and renames; the file there is locked (flock) for as long as
    its writer lives, so that a later start removes only what dead writers left. Damaged blobs go to
    `damaged/`. A file's modification time is the blob's last use. `lock` keeps a delete apart
    from a use in another process; it is held for microseconds.

    The quota counts every file in the folder. What other processes put is looked up when the quota
    seems used up, and every 30 seconds: together they may pass it by what they wrote meanwhile.
    """

    def __init__(
        self,
        path: Path,
        quota_bytes: int | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open the folder, making it if there's none, and remove what dead writers left.

        Args:
            path: the folder.
            quota_bytes: how much it may hold; None without a limit but the disk.
            now: seconds since the epoch, for times of use.

        Raises:
            SpecError: the folder can't be made or written.
        """
        self.path = path.expanduser().resolve()
        self._now = now
        self._partial = self.path / "partial"
        self._damaged = self.path / "damaged"
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            self._damaged.mkdir(exist_ok=True)
            with (self.path / "lock").open("ab"):
                pass
            self._remove_leftovers()
        except OSError as error:
            raise SpecError(
                f"{self.path} can't be the folder of blobs ({error.strerror}). Choose one that "
                "this user may write"
            ) from error
        self._quota = None if quota_bytes is None else _Quota(self.path, quota_bytes)

    def __str__(self) -> str:
        return str(self.path)

    async def put(
        self,
        chunks: AsyncIterator[bytes],
        expected_sha256: str | None = None,
        max_bytes: int | None = None,
    ) -> str:
        # What replaces the same content needs no more room afterwards.
        known = expected_sha256 is not None and await self.has(expected_sha256)
        charge = None if known or self._quota is None else self._quota.charge
        with ExitStack() as stack:
            partial, file = await in_thread(self._new_partial, stack)
            content = await fill(
                file,
                chunks,
                place=self.path,
                expected_sha256=expected_sha256,
                max_bytes=max_bytes,
                charge=charge,
            )
            await in_thread(self._adopt, partial, file, content.sha256)
        return content.sha256

    async def open(self, sha256: str) -> AsyncGenerator[bytes, None]:
        with ExitStack() as stack:
            file = await in_thread(self._open_for_use, sha256, stack)
            inode = os.fstat(file.fileno()).st_ino

            async def on_damage() -> OperationFailed:
                return await in_thread(self._move_aside, sha256, inode)

            raw = file_chunks(file, self.path)
            async with aclosing(verified(raw, sha256, on_damage)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def has(self, sha256: str) -> bool:
        return await in_thread(self._use, sha256)

    async def size(self, sha256: str) -> int:
        path = self._file(sha256)
        try:
            return (await in_thread(path.stat)).st_size
        except FileNotFoundError:
            raise not_found(sha256, self) from None

    async def local_path(self, sha256: str, cache: Path) -> Path:  # noqa: ARG002 - its own file does
        return await in_thread(self._verified_file, sha256)

    async def stored(self) -> AsyncGenerator[StoredBlob, None]:
        for blob in await in_thread(lambda: list(self._scan())):
            yield blob

    async def delete(self, sha256: str, *, if_unused_since: float | None = None) -> bool:
        return await in_thread(self._delete, self._file(sha256), if_unused_since)

    def _file(self, sha256: str) -> Path:
        return self.path / check_sha256(sha256)[:2] / sha256

    @contextmanager
    def _locked(self, operation: int) -> Iterator[None]:
        # Opened anew each time: flock is of an open file, and threads must exclude each other too.
        with disk_errors(self.path), (self.path / "lock").open("rb") as lock:
            fcntl.flock(lock, operation)
            yield

    def _new_partial(self, stack: ExitStack) -> tuple[Path, FileIO]:
        while True:
            path = self._partial / secrets.token_hex(16)
            with disk_errors(self.path):
                file = stack.enter_context(path.open("xb", buffering=0))
                stack.callback(path.unlink, missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            # A process that started between open and flock took it for a leftover.
            if os.fstat(file.fileno()).st_nlink:
                return path, file

    def _adopt(self, partial: Path, file: FileIO, sha256: str) -> None:
        target = self._file(sha256)
        with disk_errors(self.path):
            os.fsync(file.fileno())
            if not target.parent.is_dir():
                target.parent.mkdir(exist_ok=True)
                _sync_folder(self.path)
        with self._locked(fcntl.LOCK_SH):
            now = self._now()
            os.utime(file.fileno(), (now, now))
            # Over the same content too: if that was damaged, it no longer is.
            partial.replace(target)
        with disk_errors(self.path):
            _sync_folder(target.parent)

    def _use(self, sha256: str) -> bool:
        path, now = self._file(sha256), self._now()
        with self._locked(fcntl.LOCK_SH):
            try:
                os.utime(path, (now, now))
            except FileNotFoundError:
                return False
            return True

    def _open_for_use(self, sha256: str, stack: ExitStack) -> FileIO:
        path, now = self._file(sha256), self._now()
        with self._locked(fcntl.LOCK_SH):
            try:
                file = stack.enter_context(path.open("rb", buffering=0))
            except FileNotFoundError:
                raise not_found(sha256, self) from None
            os.utime(file.fileno(), (now, now))
        return file

    def _verified_file(self, sha256: str) -> Path:
        digest = hashlib.sha256()
        with ExitStack() as stack, disk_errors(self.path):
            file = self._open_for_use(sha256, stack)
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
            inode = os.fstat(file.fileno()).st_ino
        if digest.hexdigest() != sha256:
            raise self._move_aside(sha256, inode)
        return self._file(sha256)

    def _move_aside(self, sha256: str, inode: int) -> OperationFailed:
        path = self._file(sha256)
        aside = self._damaged / f"{sha256}-{secrets.token_hex(4)}"
        # The file of that number only: a good one may have been put over it meanwhile.
        with self._locked(fcntl.LOCK_EX), suppress(FileNotFoundError):
            if path.stat().st_ino == inode:
                path.replace(aside)
        return damaged(sha256, self, f"It was moved to {self._damaged}; upload it again")

    def _delete(self, path: Path, if_unused_since: float | None) -> bool:
        with self._locked(fcntl.LOCK_EX):
            try:
                if if_unused_since is not None and path.stat().st_mtime > if_unused_since:
                    return False
                path.unlink()
            except FileNotFoundError:
                return False
            return True

    def _scan(self) -> Iterator[StoredBlob]:
        with disk_errors(self.path):
            for path in self.path.glob("[0-9a-f][0-9a-f]/*"):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if is_sha256(path.name):
                        yield StoredBlob(path.name, status.st_size, status.st_mtime)

    def _remove_leftovers(self) -> None:
        for path in self._partial.iterdir():
            with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


class _Quota:
    """How much a folder may still take in; counts every file in it."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._guard = threading.Lock()
        self._counted_at = float("-inf")
        self._used_bytes = 0

    def charge(self, more_bytes: int) -> None:
        """Count bytes that are about to be written; raise `StorageFull` if they are too many."""
        with self._guard:
            fresh = time.monotonic() - self._counted_at < _RESCAN_S
            if not fresh or self._used_bytes + more_bytes > self._limit_bytes:
                self._used_bytes = sum(_sizes(self._folder))
                self._counted_at = time.monotonic()
            if self._used_bytes + more_bytes > self._limit_bytes:
                raise StorageFull(
                    f"The quota of {self._folder}, {self._limit_bytes:,} bytes, is used up "
                    f"({self._used_bytes:,} are stored). What is stored is intact; raise the quota "
                    "or remove what isn't needed, then try again"
                )
            self._used_bytes += more_bytes


def _sizes(folder: Path) -> Iterator[int]:
    with disk_errors(folder):
        for path in folder.glob("*/*"):
            with suppress(FileNotFoundError):
                yield path.stat().st_size


def _sync_folder(path: Path) -> None:
    # A rename is on the disk only when its folder is.
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
