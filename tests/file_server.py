"""A file server on this machine that behaves as the worse ones on the internet do, for tests."""

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


@dataclass
class Served:
    """One file, and how it is served.

    Attributes:
        data: its bytes.
        etag: its mark; None sends none.
        ranges: whether parts can be asked for.
        drops: after so many bytes of an answer the connection ends, once for each number.
        statuses: answered instead of the file, once each; a 503 says Retry-After: 7.
        chunked: sends no length.
        announced: length that is announced instead of the right one.
        content_range: sent instead of the right one.
        redirect: where it sends to instead.
        stall: waited for after the first byte, once.
        hold: waited for before each answer.
    """

    data: bytes
    etag: str | None = None
    ranges: bool = True
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    chunked: bool = False
    announced: int | None = None
    content_range: str | None = None
    redirect: str | None = None
    stall: threading.Event | None = None
    hold: threading.Event | None = None

    def __post_init__(self) -> None:
        if self.etag is None:
            self.etag = f'"{hashlib.md5(self.data).hexdigest()}"'


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that go away in the middle are what is tested."""


class FileServer:
    """Serves `files` at `url`; `asked` has every request's path and range."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.asked.append((self.path, self.headers.get("Range")))
                file = server.files.get(self.path.lstrip("/"))
                if file is None:
                    _refuse(self, 404)
                elif file.redirect is not None:
                    _refuse(self, 302, Location=file.redirect)
                elif file.statuses:
                    _refuse(self, file.statuses.pop(0), **{"Retry-After": "7"})
                else:
                    _send(self, file)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _refuse(handler: BaseHTTPRequestHandler, status: int, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", "0")
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def _send(handler: BaseHTTPRequestHandler, file: Served) -> None:
    if file.hold is not None:
        file.hold.wait(30)
    wanted = handler.headers.get("Range")
    same = handler.headers.get("If-Range") in (None, file.etag)
    start = 0
    if wanted and file.ranges and same:
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(file.data):
            _refuse(handler, 416)
            return
        handler.send_response(206)
        right = f"bytes {start}-{len(file.data) - 1}/{len(file.data)}"
        handler.send_header("Content-Range", file.content_range or right)
    else:
        handler.send_response(200)
    if file.etag:
        handler.send_header("ETag", file.etag)
    body = file.data[start:]
    if file.chunked:
        handler.send_header("Transfer-Encoding", "chunked")
    else:
        length = len(body) if file.announced is None else file.announced
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    if file.stall is not None:
        handler.wfile.write(body[:1])
        handler.wfile.flush()
        stall, file.stall = file.stall, None
        stall.wait(30)
        handler.close_connection = True
        return
    if file.drops:
        handler.wfile.write(body[: file.drops.pop(0)])
        handler.close_connection = True
        return
    if file.chunked:
        handler.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
        return
    handler.wfile.write(body)
    handler.close_connection = file.announced is not None


class Waits:
    """Takes the place of sleeping, and remembers for how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
