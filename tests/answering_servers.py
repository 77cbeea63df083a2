"""Servers that answer as a test says, byte by byte, each in a thread of its own."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes] | None:
    """Head and body of the next request; None: there is none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head, await reader.readexactly(length)


def always(answer: bytes, *, closes: bool = False) -> Handler:
    """Answers each request with these bytes; `closes`: and ends the connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            writer.write(answer)
            if closes:
                return

    return handle


@contextlib.contextmanager
def serving(
    handler: Handler, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[int]:
    """The port of a server whose connections are each given to the handler, and then closed."""
    loop = asyncio.new_event_loop()
    open_now: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        try:
            await handler(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            open_now.discard(task)
            writer.close()

    async def end() -> None:
        server.close()
        await asyncio.sleep(0.01)  # connections that were just accepted have their tasks
        while open_now:
            for task in tuple(open_now):
                task.cancel()
            await asyncio.gather(*open_now, return_exceptions=True)
        await asyncio.sleep(0.01)  # what was aborted is closed

    server = loop.run_until_complete(asyncio.start_server(handle, host, 0, ssl=tls, backlog=1000))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        try:
            asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
        assert not thread.is_alive()
        loop.close()
