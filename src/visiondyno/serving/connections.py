"""Connections that can't be held open for nothing: uvicorn's protocol with limits.

Uvicorn waits for the rest of a request for ever. A client that sends a byte a second, or nothing,
would keep its connection (and with enough of them the server's file descriptors) as long as it
likes.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from visiondyno.serving.asgi import HANG_UP
from visiondyno.serving.direct import Direct, DirectLane

_LARGEST_HEAD_BYTES = 1 << 16
"""Of all headers of a request, besides what comes at once."""
_OF_UPGRADES = frozenset({b"upgrade", b"connection", b"http2-settings"})
_UNREAD_BYTES = 1 << 19
"""Of a body; as soon as the application has taken them, reading goes on."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a connection may cost.

    Attributes:
        most: open at once.
        header_s: from a request's first byte to the end of its headers.
        body_s: from there to the end of the body, besides what its length takes at
            `body_bytes_per_s`.
        body_bytes_per_s: the slowest that a body may come.
        idle_s: before the first request, and between two.
    """

    most: int
    header_s: float = 10.0
    body_s: float = 30.0
    body_bytes_per_s: float = 50_000.0
    idle_s: float = 75.0


class _Nobody:
    """Waits for no message of a request in the direct lane."""

    def set(self) -> None:
        """Nothing."""


class _DirectCycle:
    """Stands where uvicorn has the cycle of a request: what it reads and sets of one is here."""

    __slots__ = ("before", "disconnected", "keep_alive", "parts", "request", "response_complete")
    message_event = _Nobody()
    response_started = False

    def __init__(self, request: Direct, before: Any, *, keep_alive: bool) -> None:
        """`before` is the cycle of the request before, or None."""
        self.request = request
        self.before = before
        self.keep_alive = keep_alive
        self.parts: list[bytes] = []
        self.response_complete = False
        self.disconnected = False


class GuardedProtocol(HttpToolsProtocol):
    """See the module's text; `guarded_protocol` makes the class that uvicorn is given."""

    limits: ClassVar[ConnectionLimits]
    lane: ClassVar[DirectLane | None]
    on_refused: ClassVar[Callable[[], None]]
    largest_body_bytes: ClassVar[int]
    _limit: asyncio.TimerHandle | None = None
    _limit_at_s = math.inf
    _deadline_s = math.inf
    _is_idle = False
    _when_lost: tuple[Callable[[], None], ...] = ()
    _is_lost = False
    _wished = b""
    _in_head = False
    _head_bytes = 0
    _direct: "_DirectCycle | None" = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.most:
            type(self).on_refused()
            self._answer_and_close("503 Service Unavailable", "Too many connections are open.")
            return
        self._within(self.limits.idle_s)

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but heads have a size limit, and wishes for another protocol none."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as wish:
            self._without_upgrade(data[wish.args[0] :])
            return
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _LARGEST_HEAD_BYTES and not self.transport.is_closing():
                self._answer_and_close(
                    "431 Request Header Fields Too Large", "The headers are too large."
                )

    def _without_upgrade(self, rest: bytes) -> None:
        """Read a request again that would rather go on in another protocol, without that wish.

        It may be answered in HTTP/1.1 (RFC 9110, 7.8). The parser has left its body unread.
        """
        head, self._wished = self._wished, b""
        if not head:
            self.send_400_response("Invalid HTTP request received.")
            return
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(head + rest)

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += (b"%b: %b" % header for header in self.headers if header[0] not in _OF_UPGRADES)
        return b"\r\n".join((*lines, b"", b""))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_limit()
        super().connection_lost(exc)
        self._is_lost = True
        for call in self._when_lost:
            call()
        self._when_lost = ()

    def _on_hang_up(self, call: Callable[[], None]) -> Callable[[], None]:
        """See `asgi.HANG_UP`; requests of one connection are answered one after the other."""
        if self._is_lost:
            self.loop.call_soon(call)
        self._when_lost = (call,)
        return self._forget_call

    def _forget_call(self) -> None:
        self._when_lost = ()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._within(self.limits.header_s)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._wished = self._head_without_upgrade()
        elif not self._goes_direct():
            self._headers_complete()

    def _headers_complete(self) -> None:
        scope: Any = self.scope
        scope["extensions"] = {HANG_UP: self._on_hang_up}
        super().on_headers_complete()
        declared = next((value for name, value in self.headers if name == b"content-length"), b"")
        length = int(declared) if declared.isdigit() else self.largest_body_bytes
        length = min(length, self.largest_body_bytes)
        self._within(self.limits.body_s + length / self.limits.body_bytes_per_s)

    def on_body(self, body: bytes) -> None:
        """As uvicorn's, but a body that comes in one piece isn't copied, nor reading paused."""
        cycle: Any = self.cycle
        if self._direct is not None and cycle is self._direct:
            self._direct.parts.append(body)
            return
        if cycle.response_complete:
            return
        if not cycle.body:
            cycle.body = body  # `receive` answers `bytes(cycle.body)`: the same object
        elif isinstance(cycle.body, bytes):
            cycle.body = bytearray().join((cycle.body, body))
        else:
            cycle.body += body
        if len(cycle.body) > _UNREAD_BYTES:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._stop_limit()
        if self._wished:
            return
        direct, cycle = self._direct, cast("Any", self.cycle)
        if direct is None or cycle is not direct:
            super().on_message_complete()
            return
        assert self.lane is not None
        body = b"".join(direct.parts)
        give_up = self.lane.begin(direct.request, body, self._answer_direct)
        if give_up is not None:
            self._when_lost = (give_up,)
            return
        # The usual way says what is wrong with it, or does what this one can't.
        self._direct, self.cycle = None, direct.before
        self._headers_complete()
        self.on_body(body)
        self._stop_limit()
        super().on_message_complete()

    def _goes_direct(self) -> bool:
        """Whether the request takes the direct lane; then its body is kept for that."""
        cycle: Any = self.cycle
        is_free = cycle is None or cycle.response_complete
        if self.lane is None or not is_free or self.parser.get_method() != b"POST":
            return False
        request = self.lane.admit(self.url, self.headers)
        if request is None:
            return False
        keep_alive = self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive()
        direct: Any = _DirectCycle(request, cycle, keep_alive=keep_alive)
        self._direct = self.cycle = direct
        self._within(self.limits.body_s + request.length / self.limits.body_bytes_per_s)
        return True

    def _answer_direct(self, answer: list[bytes]) -> None:
        """Write an answer of the direct lane: status, headers, body."""
        direct = self._direct
        assert direct is not None, "the next request waits for this answer"
        direct.response_complete = True
        self._when_lost = ()
        if self.transport.is_closing():
            return
        status, head, content = answer
        lines = [
            STATUS_LINE[int(status)],
            *(b"%b: %b\r\n" % header for header in self.server_state.default_headers),
            head,
            b"\r\n" if direct.keep_alive else b"connection: close\r\n\r\n",
            content,
        ]
        self.transport.write(b"".join(lines))
        if not direct.keep_alive:
            self.transport.close()
        if self.pipeline or self.transport.is_closing():
            self.on_response_complete()
            return
        # What uvicorn does there, with the timer that this connection has.
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._within(self.limits.idle_s)
        self._is_idle = True

    def _within(self, limit_s: float) -> None:
        """Set the limit. One timer serves all of a connection's limits, one after the other.

        It is asked anew only for an earlier end; when it comes too soon it sleeps again. So a
        request costs two assignments and not four timers.
        """
        self._is_idle = False
        now_s = self.loop.time()
        self._deadline_s = now_s + limit_s
        if self._deadline_s < self._limit_at_s:
            self._end_limit_timer()
            self._limit_at_s = self._deadline_s
            self._limit = self.loop.call_later(limit_s, self._look_at_limit)

    def _stop_limit(self) -> None:
        self._deadline_s = math.inf

    def _end_limit_timer(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
            self._limit_at_s = math.inf

    def _end_limit(self) -> None:
        self._stop_limit()
        self._end_limit_timer()

    def _look_at_limit(self) -> None:
        self._limit, self._limit_at_s = None, math.inf
        left_s = self._deadline_s - self.loop.time()
        if left_s <= 0:
            self._too_slow()
        elif left_s < math.inf:
            self._limit_at_s = self._deadline_s
            self._limit = self.loop.call_later(left_s, self._look_at_limit)

    def _too_slow(self) -> None:
        if self.transport.is_closing():
            return
        if self._is_idle:
            self.transport.close()
            return
        if self.cycle is not None and self.cycle.response_started:
            self.transport.close()
            return
        self._answer_and_close("408 Request Timeout", "The request didn't come in time.")

    def _answer_and_close(self, status: str, text: str) -> None:
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(text)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{text}"
        )
        self.transport.write(head.encode())
        self.transport.close()


def guarded_protocol(
    limits: ConnectionLimits,
    on_refused: Callable[[], None],
    largest_body_bytes: int,
    lane: DirectLane | None = None,
) -> type[GuardedProtocol]:
    """A protocol class for `uvicorn.Config(http=…)`.

    Args:
        limits: see there.
        on_refused: called for each connection above the limit.
        largest_body_bytes: what a body of undeclared length is taken to have at most.
        lane: for plain requests for predictions.
    """
    members = {
        "lane": lane,
        "limits": limits,
        "on_refused": staticmethod(on_refused),
        "largest_body_bytes": largest_body_bytes,
    }
    return type("Guarded", (GuardedProtocol,), members)
