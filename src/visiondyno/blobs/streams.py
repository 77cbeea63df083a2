"""Streams of a blob's bytes: into a file with limits checked, and out of a store verified."""

import asyncio
import errno
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import ParamSpec, TypeVar

from visiondyno.blobs.base import CHUNK_BYTES
from visiondyno.errors import OperationFailed, SpecError, StorageFull, TooLarge, TransportDown

P = ParamSpec("P")
T = TypeVar("T")

# EFBIG: the limit of a file's size, of the process (RLIMIT_FSIZE) or of the file system.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Content:
    """What was written: its SHA-256 and length."""

    sha256: str
    size_bytes: int


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a thread; a cancel waits for its end.

    Else the file would be closed under a write that still runs, and the write go to whatever file
    gets its number next.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({work})
        if not work.cancelled():
            # Looked at, or asyncio reports it as never retrieved.
            work.exception()
        raise


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn the system's errors into ours.

    Raises:
        StorageFull: no room on the disk, or no more allowed.
        TransportDown: anything else, say a file system that became read-only.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if error.errno in _FULL:
            raise StorageFull(
                f"There is no room left in {place} ({reason}). What is stored is intact; make "
                "room, then try again"
            ) from error
        raise TransportDown(
            f"{place} can't be used just now ({reason}). Check the disk and its permissions"
        ) from error


async def fill(
    file: FileIO,
    chunks: AsyncIterator[bytes],
    *,
    place: Path,
    expected_sha256: str | None = None,
    max_bytes: int | None = None,
    charge: Callable[[int], None] | None = None,
) -> Content:
    """Write a stream to `file`, hashing it on the way.

    Args:
        file: unbuffered, so that a full disk is told by a write and not by a close; not synced.
        chunks: the bytes.
        place: the folder that is named when there's no room.
        expected_sha256: as in `BlobStore.put`.
        max_bytes: as in `BlobStore.put`.
        charge: called with the length of each piece before it is written, in a thread; raises
            where it is too much.

    Raises:
        SpecError, TooLarge, StorageFull: as `BlobStore.put`; removing the file is the caller's.
    """
    digest = hashlib.sha256()
    size_bytes = 0

    def write(piece: bytes) -> None:
        digest.update(piece)
        if charge is not None:
            charge(len(piece))
        rest = memoryview(piece)
        with disk_errors(place):
            while rest:
                rest = rest[file.write(rest) :]

    async for piece in _pieces(chunks):
        size_bytes += len(piece)
        if max_bytes is not None and size_bytes > max_bytes:
            raise TooLarge(f"More than {max_bytes:,} bytes came, which is the most that is taken")
        await in_thread(write, piece)
    sha256 = digest.hexdigest()
    if expected_sha256 is not None and sha256 != expected_sha256:
        raise SpecError(
            f"The {size_bytes:,} bytes that came have the SHA-256 {sha256}, not {expected_sha256}: "
            "they changed on the way or aren't what they are named. Send them again"
        )
    return Content(sha256, size_bytes)


async def verified(
    chunks: AsyncGenerator[bytes, None],
    sha256: str,
    on_damage: Callable[[], Awaitable[OperationFailed]],
) -> AsyncGenerator[bytes, None]:
    """Pass `chunks` on; the last one only when all of them hash to `sha256`.

    Args:
        chunks: the bytes; closed at the end.
        sha256: what they must hash to.
        on_damage: moves the damaged bytes aside, and makes the error to raise.
    """
    digest = hashlib.sha256()
    held = b""
    async with aclosing(chunks):
        async for chunk in chunks:
            await in_thread(digest.update, chunk)
            if held:
                yield held
            held = chunk
        if digest.hexdigest() != sha256:
            raise await on_damage()
        if held:
            yield held


async def file_chunks(file: FileIO, place: Path) -> AsyncGenerator[bytes, None]:
    """The rest of an open file."""

    def read() -> bytes:
        with disk_errors(place):
            return file.read(CHUNK_BYTES)

    while chunk := await in_thread(read):
        yield chunk


async def _pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in fewer pieces: each one costs a way to a thread and back."""
    pending: list[bytes] = []
    pending_bytes = 0
    async for chunk in chunks:
        pending.append(bytes(chunk))
        pending_bytes += len(chunk)
        if pending_bytes >= CHUNK_BYTES:
            yield b"".join(pending)
            pending, pending_bytes = [], 0
    if pending_bytes:
        yield b"".join(pending)
