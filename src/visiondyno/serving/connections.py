"""Connections that can't be held open for nothing: uvicorn's protocol with limits.

Uvicorn waits for the rest of a request for ever. A client that sends a byte a second, or nothing,
would keep its connection (and with enough of them the server's file descriptors) as long as it
likes.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from visiondyno.serving.asgi import HANG_UP

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


class GuardedProtocol(HttpToolsProtocol):
    """See the module's text; `guarded_protocol` makes the class that uvicorn is given."""

    limits: ClassVar[ConnectionLimits]
    on_refused: ClassVar[Callable[[], None]]
    largest_body_bytes: ClassVar[int]
    _limit: asyncio.TimerHandle | None = None
    _when_lost: tuple[Callable[[], None], ...] = ()
    _is_lost = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.most:
            type(self).on_refused()
            self._answer_and_close("503 Service Unavailable", "Too many connections are open.")
            return
        self._within(self.limits.idle_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_limit()
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
        self._within(self.limits.header_s)

    def on_headers_complete(self) -> None:
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
        super().on_message_complete()

    def _within(self, limit_s: float) -> None:
        self._stop_limit()
        self._limit = self.loop.call_later(limit_s, self._too_slow)

    def _stop_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _too_slow(self) -> None:
        self._limit = None
        if self.transport.is_closing():
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
    limits: ConnectionLimits, on_refused: Callable[[], None], largest_body_bytes: int
) -> type[GuardedProtocol]:
    """A protocol class for `uvicorn.Config(http=…)`.

    Args:
        limits: see there.
        on_refused: called for each connection above the limit.
        largest_body_bytes: what a body of undeclared length is taken to have at most.
    """
    members = {
        "limits": limits,
        "on_refused": staticmethod(on_refused),
        "largest_body_bytes": largest_body_bytes,
    }
    return type("Guarded", (GuardedProtocol,), members)
