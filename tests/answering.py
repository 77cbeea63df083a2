"""A small HTTP server in a process of its own, to put a load on: `python answering.py [OPTION…]`.

It prints its port and serves until it is killed. Options: `--delay-ms N`, `--bad-every N` (503),
`--never-after N` (requests after the Nth get no answer), `--begin-s S` (sleeps before it listens),
`--serial` (one answer after the other).
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httptools

BODY = json.dumps({"boxes": []}).encode()


class _Answer(asyncio.Protocol):
    served = 0
    free_at = 0.0

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked = asked
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        _Answer.served += 1
        number = _Answer.served
        if self._asked.never_after is not None and number > self._asked.never_after:
            return
        bad = bool(self._asked.bad_every) and number % self._asked.bad_every == 0
        status = b"503 Service Unavailable" if bad else b"200 OK"
        head = b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\n"
        head += b"Server-Timing: inference;dur=1.5\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        loop = asyncio.get_running_loop()
        begin = max(loop.time(), _Answer.free_at) if self._asked.serial else loop.time()
        _Answer.free_at = begin + self._asked.delay_ms / 1000
        loop.call_at(_Answer.free_at, self._transport.write, head + BODY)


async def _serve(asked: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Answer(asked), "127.0.0.1", asked.port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def answering(*options: str) -> Iterator[tuple[str, int]]:
    """URL and process id of a server with these options."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), *options], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def command(port: int, *options: str) -> str:
    """What starts it on a port, as a user would write it."""
    return " ".join([sys.executable, str(Path(__file__).resolve()), "--port", str(port), *options])


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay-ms", type=float, default=2.0)
    parser.add_argument("--bad-every", type=int, default=0)
    parser.add_argument("--never-after", type=int)
    parser.add_argument("--serial", action="store_true")
    parser.add_argument("--begin-s", type=float, default=0.0)
    asked = parser.parse_args()
    time.sleep(asked.begin_s)
    asyncio.run(_serve(asked))


if __name__ == "__main__":
    main()
