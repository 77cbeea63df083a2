"""One HTTP/1.1 connection of the load generator: bytes out, times and a status back.

Nothing is built while the clock runs: a request is bytes made before. Of the answer only what is
recorded is kept.
"""

import asyncio
import math
import socket
import time
from typing import Protocol, cast

import httptools

LONGEST_HEADER_BYTES = 64 * 1024
"""Of an answer, as many as browsers take."""
LONGEST_BODY_BYTES = 1 << 30
KEPT_BODY_BYTES = 8 << 20
"""Of an answer in which a key is looked for."""

_HEADERS = {b"content-length", b"transfer-encoding", b"server-timing"}
_NONE = -1


class Owner(Protocol):
    """Whom a connection tells what becomes of it; `connection.row` is the request in question."""

    def connected(self, connection: "Connection") -> None:
        """It is open, and its first request can be sent."""

    def answered(self, connection: "Connection") -> None:
        """The answer is whole; `is_reusable` says whether another request may follow."""

    def broke(self, connection: "Connection", why: str) -> None:
        """It ended or broke HTTP before the whole answer; `lost` follows."""

    def lost(self, connection: "Connection") -> None:
        """It is closed, whoever closed it; the last that is told."""


class Connection(asyncio.Protocol):
    """Sends one request at a time and reads its answer.

    Attributes:
        row: of the request that is on its way; -1: none.
        sent_ns: when the request's last byte was handed to the system; -1: not yet.
        first_byte_ns: when the answer's first byte came; -1: not yet.
        done_ns: when the last byte came.
        status: HTTP status of the answer.
        body_bytes: of the answer so far.
        body: the first `KEPT_BODY_BYTES` of it, where bodies are kept.
        server_timing: the values of that header, joined by commas.
        answers: whole ones so far.
        connect_ns: that it took to open, as far as its owner says; 0: not told.
        is_reusable: the connection may carry another request.
    """

    __slots__ = (
        "_chunks",
        "_complete",
        "_ends_with_connection",
        "_head_only",
        "_header_bytes",
        "_headers_done",
        "_is_paused",
        "_keeps_body",
        "_now_ns",
        "_owner",
        "_parser",
        "_transport",
        "_written_ns",
        "answers",
        "body_bytes",
        "connect_ns",
        "done_ns",
        "first_byte_ns",
        "is_reusable",
        "row",
        "sent_ns",
        "server_timing",
        "status",
    )

    def __init__(self, owner: Owner, *, head_only: bool = False, keeps_body: bool = False) -> None:
        self._owner = owner
        self._head_only, self._keeps_body = head_only, keeps_body
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser
        self._is_paused = False
        self.row = _NONE
        self.answers = 0
        self.connect_ns = 0
        self._reset()

    @property
    def is_open(self) -> bool:
        """Whether a request can be written: connected, and nobody has closed it."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def body(self) -> bytes:
        """What was kept of the answer's body."""
        return b"".join(self._chunks)

    def send(self, row: int, request: bytes) -> None:
        """Hand a request to the system; the connection must be open and have none on its way."""
        assert self._transport is not None
        self._reset()
        self.row = row
        self._transport.write(request)
        self._written_ns = time.monotonic_ns()
        if not self._is_paused:
            self.sent_ns = self._written_ns

    def give_up(self) -> None:
        """Close it at once and forget the request: nothing but `lost` is told from now on."""
        self.row = _NONE
        if self._transport is not None:
            self._transport.abort()

    def _reset(self) -> None:
        self.sent_ns = self.first_byte_ns = self.done_ns = _NONE
        self.status = self.body_bytes = self._header_bytes = 0
        self.server_timing = b""
        self.is_reusable = False
        self._chunks: list[bytes] = []
        self._complete = self._headers_done = False
        self._ends_with_connection = True
        self._now_ns = self._written_ns = 0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        # So a write goes to the system at once, and `resume_writing` means that all of it did.
        self._transport.set_write_buffer_limits(high=0)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._owner.connected(self)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        # An answer that is there already came after the request: when that went isn't known better.
        self.sent_ns = time.monotonic_ns() if self.first_byte_ns < 0 else self._written_ns

    def data_received(self, data: bytes) -> None:
        now_ns = self._now_ns = time.monotonic_ns()
        if self.row < 0:
            self.give_up()  # an answer nobody asked for
            return
        if self.first_byte_ns < 0:
            self.first_byte_ns = now_ns
        if not self._headers_done:
            self._header_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.is_reusable = False
        except httptools.HttpParserError as error:
            self.is_reusable = False
            if not self._complete:
                self._broken(f"the answer breaks HTTP: {error}")
                return
        if self._complete:
            self._answered()
        elif not self._headers_done and self._header_bytes > LONGEST_HEADER_BYTES:
            self._broken(f"the answer's header is over {LONGEST_HEADER_BYTES >> 10} kB")
        elif self.body_bytes > LONGEST_BODY_BYTES:
            self._broken(f"the answer's body is over {LONGEST_BODY_BYTES >> 20} MiB")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.row >= 0:
            whole = self._headers_done and self._ends_with_connection and not self._is_paused
            if self._complete:
                self._finish_paused()
            elif whole and exc is None:
                self._now_ns = time.monotonic_ns()
                self.is_reusable = False
                self._finish()
            else:
                why = "the connection ended" if exc is None else _reason(exc)
                self._owner.broke(self, f"{why} before the whole answer")
        self._transport = None
        del self._parser  # each holds the other
        self._owner.lost(self)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A second answer to one request leaves the connection unusable."""
        if self._complete:
            self.is_reusable = False
        elif self.first_byte_ns < 0:  # after an interim answer, in the same piece of data
            self.first_byte_ns = self._now_ns

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep what is needed: how the body ends, and what the target tells of its time."""
        lower = name.lower()
        if lower not in _HEADERS or self._complete:
            return
        if lower == b"server-timing":
            self.server_timing += b"," + value if self.server_timing else value
        elif lower == b"content-length" or value.lower().endswith(b"chunked"):
            self._ends_with_connection = False

    def on_headers_complete(self) -> None:
        """An answer to HEAD is whole here, and its header tells of a body that doesn't come."""
        if self._complete:
            return
        self._headers_done = True
        status = self._parser.get_status_code()
        if self._head_only and status >= 200:
            self._whole(status)
            # This one waits for the body.
            self._parser = httptools.HttpResponseParser(self)

    def on_body(self, body: bytes) -> None:
        """Count the body; keep its beginning where it is looked at."""
        if self._complete:
            return
        self.body_bytes += len(body)
        if self._keeps_body and self.body_bytes <= KEPT_BODY_BYTES:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was an interim one (100 Continue, 103 Early Hints)."""
        if self._complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self.first_byte_ns = _NONE
            self._header_bytes, self._headers_done = 0, False
            self._ends_with_connection, self.server_timing = True, b""
            return
        self._whole(status)

    def _whole(self, status: int) -> None:
        self._complete = True
        self.status = status
        self.is_reusable = self._parser.should_keep_alive()

    def _answered(self) -> None:
        if self._is_paused:
            # TLS tells that all is sent an instant late, and until then this looks like an answer
            # to half a request.
            asyncio.get_running_loop().call_soon(self._finish_paused)
        else:
            self._finish()

    def _finish_paused(self) -> None:
        if self.row >= 0 and self._complete:
            # After an answer that came before the whole request was sent, the rest would follow it.
            self.is_reusable = self.is_reusable and not self._is_paused
            self._finish()

    def _finish(self) -> None:
        self.done_ns = self._now_ns
        if not self.status:  # the end of the connection was the end of the body
            self.status = self._parser.get_status_code()
        self.answers += 1
        self._owner.answered(self)

    def _broken(self, why: str) -> None:
        self._owner.broke(self, why)
        self.give_up()


def server_timing_ms(header: bytes) -> dict[str, float]:
    """Duration in ms by stage, of a `Server-Timing` header (W3C Server Timing, section 4).

    Metrics without a duration are left out, and so is what can't be one.
    """
    found: dict[str, float] = {}
    for metric in header.split(b","):
        name, *parameters = metric.split(b";")
        for parameter in parameters:
            key, _, value = parameter.partition(b"=")
            if key.strip().lower() == b"dur":
                try:
                    duration_ms = float(value.strip(b' \t"'))
                except ValueError:
                    break
                if math.isfinite(duration_ms):
                    found[name.strip().decode("latin-1")] = duration_ms
                break
    return found


def _reason(error: BaseException) -> str:
    if isinstance(error, ConnectionResetError):
        return "the connection was reset"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
