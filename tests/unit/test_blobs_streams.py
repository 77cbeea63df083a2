"""Streams of bytes: cut anyhow, they hash and come out the same."""

import asyncio
import hashlib
import tempfile
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.blobs.streams import Content, fill, in_thread, verified
from visiondyno.errors import OperationFailed

PIECES = st.lists(st.binary(max_size=50), max_size=20)


async def stream(pieces: list[bytes]) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


@given(PIECES)
def test_what_is_filled_in_is_what_came(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    with tempfile.TemporaryFile(buffering=0) as file:
        found = asyncio.run(fill(file, stream(pieces), place=Path("here")))
        file.seek(0)
        assert file.read() == whole
    assert found == Content(hashlib.sha256(whole).hexdigest(), len(whole))


@given(PIECES, st.booleans())
def test_only_what_hashes_right_comes_whole(pieces: list[bytes], right: bool) -> None:
    whole = b"".join(pieces)
    name = hashlib.sha256(whole if right else whole + b"!").hexdigest()

    async def on_damage() -> OperationFailed:
        return OperationFailed("damaged")

    async def main() -> bytes:
        got = b""
        try:
            async with aclosing(verified(stream(pieces), name, on_damage)) as chunks:
                async for chunk in chunks:
                    got += chunk
        except OperationFailed:
            assert not right
        else:
            assert right
        return got

    got = asyncio.run(main())
    assert whole.startswith(got)
    if right:
        assert got == whole
    elif pieces and pieces[-1]:
        assert len(got) < len(whole)


def test_a_cancel_waits_for_the_thread_however_often_it_comes() -> None:
    ended = threading.Event()

    async def main() -> None:
        begun, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def work() -> None:
            loop.call_soon_threadsafe(begun.set)
            go_on.wait(60)
            ended.set()
            raise ValueError("too late to matter")

        task = asyncio.create_task(in_thread(work))
        await begun.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(main())


def test_what_the_thread_raises_is_passed_on() -> None:
    def work() -> None:
        raise ValueError("seen")

    with pytest.raises(ValueError, match="seen"):
        asyncio.run(in_thread(work))
