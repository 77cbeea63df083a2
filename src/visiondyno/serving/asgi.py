"""What the server's faces over HTTP share below FastAPI."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class AsgiRoute(Route):
    """A route whose endpoint is an ASGI application, known to the edge by its path."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        await super().handle(scope, receive, send)


async def read_body(receive: Receive) -> bytes:
    """All of a request's body.

    Raises:
        ClientDisconnect: the client hung up.
        BodyTooLarge: as `api.limits.LimitedBody` says, if `receive` is one.
    """
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """What `work` returns; cancelled when the client hangs up: nobody would read the answer.

    Raises:
        ClientDisconnect: it hung up.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, watching):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
