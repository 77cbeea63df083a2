"""How often and how much: a token bucket for each caller, and a limit on each body."""

import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from visiondyno.errors import RateLimited

_CALLERS_KEPT = 10_000


class RateLimit:
    """A token bucket for each caller: `per_minute` at once, refilled evenly over a minute.

    The bookkeeping is bounded: of more than 10,000 callers, those seen longest ago start anew.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """0 a minute turns it off. `clock` gives seconds."""
        self._capacity = float(per_minute)
        self._per_s = per_minute / 60
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Count one request.

        Raises:
            RateLimited: the caller's bucket is empty; says when there is a token again.
        """
        if self._capacity == 0:
            return
        now = self._clock()
        tokens, since = self._buckets.pop(caller, (self._capacity, now))
        tokens = min(self._capacity, tokens + max(0.0, now - since) * self._per_s)
        allowed = tokens >= 1
        self._buckets[caller] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > _CALLERS_KEPT:
            self._buckets.popitem(last=False)
        if not allowed:
            wait_s = (1 - tokens) / self._per_s
            raise RateLimited(
                f"More than {self._capacity:.0f} requests a minute; come again in {wait_s:.1f} s.",
                retry_after_s=wait_s,
            )


class BodyTooLarge(HTTPException):
    """A body passed its limit. Of HTTP's own kind, so that readers of bodies let it through."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            status_code=413,
            detail=f"The body is larger than the {limit_bytes / 1e6:g} MB that this address takes; "
            "put large data into the blob store (PUT /blobs/SHA256) and refer to it.",
        )


class LimitedBody:
    """An ASGI `receive` that counts: a body passes `limit_bytes` nowhere, whatever it declares."""

    def __init__(self, receive: Receive, limit_bytes: int) -> None:
        self._receive = receive
        self._limit_bytes = limit_bytes
        self.received_bytes = 0

    def check_declared(self, content_length: str) -> None:
        """Refuse a body that says itself that it is too large, before it is sent.

        Raises:
            BodyTooLarge: the Content-Length is above the limit.
        """
        digits = content_length.strip()
        if digits.isascii() and digits.isdigit():
            significant = digits.lstrip("0") or "0"
            if len(significant) > 18 or int(significant) > self._limit_bytes:
                raise BodyTooLarge(self._limit_bytes)

    async def __call__(self) -> Message:
        """The next message.

        Raises:
            BodyTooLarge: the limit is passed.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            self.received_bytes += len(message.get("body", b""))
            if self.received_bytes > self._limit_bytes:
                raise BodyTooLarge(self._limit_bytes)
        return message
