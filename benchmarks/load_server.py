"""A server that answers at once and logs when each request came: `load_server.py LOG`.

Prints its port. On SIGTERM it writes the arrivals, ns of CLOCK_MONOTONIC as int64, to LOG. It is
pinned to no core.
"""

import array
import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import cast

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
END = b"\r\n\r\n"


class Answering(asyncio.Protocol):
    """Answers each request that has no body; requests may come in pieces."""

    def __init__(self, arrivals_ns: "array.array[int]") -> None:
        self._arrivals_ns = arrivals_ns
        self._begun = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        *whole, self._begun = (self._begun + data).split(END)
        for _ in whole:
            self._arrivals_ns.append(now_ns)
        if whole:
            self._transport.write(ANSWER * len(whole))


async def main(log: Path) -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    arrivals_ns = array.array("q")
    server = await loop.create_server(lambda: Answering(arrivals_ns), "127.0.0.1", 0, backlog=4096)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    log.write_bytes(arrivals_ns.tobytes())


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
