"""Connections that cost too much are ended; real sockets, small limits."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from coroutines import run
from starlette.requests import ClientDisconnect

from visiondyno.serving.asgi import HANG_UP, unless_gone
from visiondyno.serving.connections import ConnectionLimits, guarded_protocol

BODY = b'{"bytes":%d}'


async def counting_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers how many bytes the body had; /slow answers after its first byte and a while."""
    received = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        received += len(message["body"])
        if not message["more_body"]:
            break
    content = BODY % received
    headers = [(b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


@contextlib.asynccontextmanager
async def served(
    limits: ConnectionLimits, refused: list[int], app: Any = counting_app
) -> AsyncIterator[int]:
    """The port of a server with these limits."""
    protocol = guarded_protocol(limits, lambda: refused.append(1), 1_000_000)
    config = uvicorn.Config(
        app,
        http=protocol,
        port=0,
        lifespan="off",
        log_config=None,
        ws="none",
        timeout_keep_alive=int(limits.idle_s),
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve(None))  # without its signal handlers
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def asked(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    return int(head.split()[1]), await reader.readexactly(length)


async def opened(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


def post(body: bytes, declared: int | None = None) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body) if declared is None else declared,
        body,
    )


QUICK = ConnectionLimits(most=10, header_s=0.2, body_s=0.2, body_bytes_per_s=1e9, idle_s=1.0)


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_bodies_arrive_whole_on_one_connection_after_another(size: int) -> None:
    async def scenario() -> None:
        async with served(ConnectionLimits(most=10), []) as port:
            reader, writer = await opened(port)
            for extra in range(3):
                writer.write(post(b"x" * (size + extra)))
                status, body = await asked(reader)
                assert (status, json.loads(body)["bytes"]) == (200, size + extra)
            writer.close()

    run(scenario())


@pytest.mark.parametrize("piece", [1, 1000, 65_536])
def test_a_body_in_pieces_is_put_together(piece: int) -> None:
    body = bytes(range(256)) * (2 if piece == 1 else 1000)

    async def scenario() -> None:
        async with served(ConnectionLimits(most=10), []) as port:
            reader, writer = await opened(port)
            message = post(body)
            for at in range(0, len(message), piece):
                writer.write(message[at : at + piece])
                await writer.drain()
                await asyncio.sleep(0)
            status, answer = await asked(reader)
            assert (status, json.loads(answer)["bytes"]) == (200, len(body))
            writer.close()

    run(scenario())


@pytest.mark.parametrize(
    "begin",
    [b"", b"PO", b"POST / HTTP/1.1\r\nHost: h\r\n", post(b"", 100), post(b"half", 100)],
    ids=["nothing", "method", "headers", "no-body", "half-body"],
)
def test_what_never_becomes_a_request_is_ended(begin: bytes) -> None:
    async def scenario() -> None:
        async with served(QUICK, []) as port:
            reader, writer = await opened(port)
            writer.write(begin)
            status, _ = await asked(reader)
            assert status == 408
            assert await reader.read() == b""
            writer.close()

    run(scenario())


def test_a_byte_now_and_then_does_not_keep_a_connection() -> None:
    async def scenario() -> None:
        async with served(QUICK, []) as port:
            reader, writer = await opened(port)

            async def drip() -> None:
                with contextlib.suppress(ConnectionError):
                    for byte in post(b"x" * 1000):
                        writer.write(bytes([byte]))
                        await writer.drain()
                        await asyncio.sleep(0.02)

            dripping = asyncio.create_task(drip())
            status, _ = await asked(reader)
            assert status == 408
            dripping.cancel()
            writer.close()

    run(scenario())


def test_a_client_that_is_done_with_its_request_may_wait_for_its_next() -> None:
    async def scenario() -> None:
        async with served(replace(QUICK, idle_s=30.0), []) as port:
            reader, writer = await opened(port)
            for _ in range(2):
                writer.write(post(b"abc"))
                assert (await asked(reader))[0] == 200
                await asyncio.sleep(0.4)  # longer than any limit but that of idle connections
            writer.close()

    run(scenario())


def test_an_idle_connection_is_closed() -> None:
    async def scenario() -> None:
        limits = ConnectionLimits(most=10, idle_s=1.0)
        async with served(limits, []) as port:
            reader, writer = await opened(port)
            writer.write(post(b"abc"))
            assert (await asked(reader))[0] == 200
            assert await reader.read() == b""
            writer.close()

    run(scenario())


def test_one_connection_too_many_is_refused_and_those_that_were_there_are_served() -> None:
    async def scenario() -> None:
        refused: list[int] = []
        async with served(ConnectionLimits(most=3), refused) as port:
            kept = [await opened(port) for _ in range(3)]
            for reader, writer in kept:
                writer.write(post(b"abc"))
                assert (await asked(reader))[0] == 200
            reader, writer = await opened(port)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 503 " in head
            assert b"retry-after: " in head.lower()
            writer.close()
            assert len(refused) == 1
            kept[0][1].close()
            await asyncio.sleep(0.1)
            again = await opened(port)
            again[1].write(post(b"abc"))
            assert (await asked(again[0]))[0] == 200
            for _, writer in [*kept, again]:
                writer.close()

    run(scenario())


def test_requests_in_a_row_without_waiting_are_answered_in_order() -> None:
    async def scenario() -> None:
        async with served(ConnectionLimits(most=3), []) as port:
            reader, writer = await opened(port)
            writer.write(b"".join(post(b"x" * size) for size in range(20)))
            sizes = [json.loads((await asked(reader))[1])["bytes"] for _ in range(20)]
            assert sizes == list(range(20))
            writer.close()

    run(scenario())


def test_application_is_told_at_once_when_its_client_hangs_up() -> None:
    async def scenario() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def waiting_app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            begun.set()
            with pytest.raises(ClientDisconnect):
                await unless_gone(asyncio.sleep(60), receive, scope)
            ended.set()

        async with served(ConnectionLimits(most=3), [], waiting_app) as port:
            _, writer = await opened(port)
            writer.write(post(b"abc"))
            await begun.wait()
            writer.close()
            await asyncio.wait_for(ended.wait(), 5)

    run(scenario())


def test_an_application_that_asks_after_the_hang_up_is_told_too() -> None:
    async def scenario() -> None:
        lost, ended = asyncio.Event(), asyncio.Event()

        async def late_app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await lost.wait()
            with pytest.raises(ClientDisconnect):
                await unless_gone(asyncio.sleep(60), receive, scope)
            ended.set()

        async with served(ConnectionLimits(most=3), [], late_app) as port:
            _, writer = await opened(port)
            writer.write(post(b"abc"))
            await asyncio.sleep(0.05)
            writer.close()
            await asyncio.sleep(0.05)
            lost.set()
            await asyncio.wait_for(ended.wait(), 5)

    run(scenario())


def test_a_cancelled_application_is_not_told_that_its_client_hung_up() -> None:
    async def scenario() -> None:
        told: list[Any] = []
        scope = {"extensions": {HANG_UP: lambda call: told.append(call) or (lambda: None)}}
        task = asyncio.create_task(unless_gone(asyncio.sleep(60), asyncio.sleep, scope))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(told) == 1

    run(scenario())


@pytest.mark.parametrize("size", [3000, 400_000, 3_000_000])
def test_a_body_that_nobody_reads_yet_is_kept_whole(size: int) -> None:
    body = bytes(range(250)) * (size // 250)

    async def scenario() -> None:
        async def late_app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.1)
            parts = []
            while True:
                message = await receive()
                parts.append(message["body"])
                if not message["more_body"]:
                    break
            assert b"".join(parts) == body
            headers = [(b"content-length", b"2")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"ok"})

        async with served(ConnectionLimits(most=3), [], late_app) as port:
            reader, writer = await opened(port)
            message = post(body)
            for at in range(0, len(message), size // 3):
                writer.write(message[at : at + size // 3])
                await asyncio.sleep(0.01)
            assert await asked(reader) == (200, b"ok")
            writer.close()

    run(scenario())


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_body_that_still_comes_after_its_answer_does_not_keep_the_connection(
    is_whole: bool,
) -> None:
    async def scenario() -> None:
        async def hasty_app(scope: Any, receive: Any, send: Any) -> None:
            length = b"2" if is_whole else b"4"
            headers = [(b"content-length", length)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"no", "more_body": not is_whole})
            while not is_whole and (await receive())["type"] != "http.disconnect":
                pass

        async with served(QUICK, [], hasty_app) as port:
            reader, writer = await opened(port)
            writer.write(post(b"begin", 1000))
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(2) == b"no"
            writer.write(b"more")
            with contextlib.suppress(ConnectionResetError):  # of one that has closed before
                assert await reader.read() == b""
            writer.close()

    run(scenario())
