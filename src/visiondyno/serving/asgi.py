"""What the server's faces over HTTP share below FastAPI."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

T = TypeVar("T")

HANG_UP = "visiondyno.hang_up"
"""An extension of the scope: a function that calls another when the client is gone, and answers
with one that takes that back. `connections.GuardedProtocol` has it."""


class FastLane:
    """ASGI middleware: a route's requests go to its endpoint without FastAPI's inner layers.

    For an endpoint that needs none of them (errors are the edge's to answer). They take a good part
    of the front's time where the work itself is in other processes.
    """

    def __init__(self, app: ASGIApp, route: "AsgiRoute") -> None:
        self._app = app
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._route
        if (
            scope["type"] == "http"
            and scope["path"] == route.path
            and route.methods is not None
            and scope["method"] in route.methods
            and not scope["root_path"]
        ):
            scope["route"] = route
            await route.endpoint(scope, receive, send)
            return
        await self._app(scope, receive, send)


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


async def unless_gone(
    work: Coroutine[Any, Any, T], receive: Receive, scope: Scope | None = None
) -> T:
    """What `work` returns; cancelled when the client hangs up: nobody would read the answer.

    Where the `scope` has the extension `HANG_UP`, no task has to wait for that.

    Raises:
        ClientDisconnect: it hung up.
    """
    on_hang_up = (scope or {}).get("extensions", {}).get(HANG_UP)
    if on_hang_up is not None:
        return await _unless_called(work, on_hang_up)
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


async def _unless_called(
    work: Coroutine[Any, Any, T],
    on_hang_up: Callable[[Callable[[], None]], Callable[[], None]],
) -> T:
    task = asyncio.current_task()
    assert task is not None
    gone = False

    def stop() -> None:
        nonlocal gone
        gone = True
        task.cancel()

    forget = on_hang_up(stop)
    try:
        return await work
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        forget()
