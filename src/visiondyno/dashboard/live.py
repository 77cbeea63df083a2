"""What keeps a page fresh: server-sent events with the regions that changed.

Each event's data is JSON. `regions`: `{"at": seconds, "regions": {name: html}}`, sent when a
region changed and else every few seconds, so that silence means a lost connection; `events` adds
`"rows": html` (a job's new events) and carries the last one's number as its id; `trouble`:
`{"message": sentence}` when the server can't read its own state just now; `end`: nothing follows.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from sse_starlette import EventSourceResponse, ServerSentEvent

from visiondyno.errors import VisionDynoError

LOOK_S = 1.0
"""Between two looks at the service."""

HEARTBEAT_S = 3.0
"""Longest silence on a healthy stream."""

LONGEST_S = 600.0
"""A stream ends after so long and the browser opens another: a revoked key is noticed."""

GATHER_S = 0.2
"""New events of a job are gathered for so long: a busy operation says thousands a second."""

_RECONNECT_MS = 2000

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Regions:
    """A page's live parts.

    Attributes:
        html: by region name.
        ended: nothing will change any more.
    """

    html: dict[str, str]
    ended: bool = False


def stream(
    events: AsyncGenerator[ServerSentEvent, None], *, longest_s: float = LONGEST_S
) -> EventSourceResponse:
    """`events` as a response that no proxy buffers and that ends after `longest_s`."""

    async def bounded() -> AsyncIterator[ServerSentEvent]:
        started_s = time.monotonic()
        try:
            async for found in events:
                yield found
                if time.monotonic() - started_s > longest_s:
                    return
        except VisionDynoError as error:
            yield event("trouble", {"message": error.message})
        finally:
            await events.aclose()

    return EventSourceResponse(bounded(), headers={"X-Accel-Buffering": "no"})


async def follow_regions(
    read: Callable[[], Awaitable[Regions]],
    *,
    look_s: float = LOOK_S,
    heartbeat_s: float = HEARTBEAT_S,
) -> AsyncGenerator[ServerSentEvent, None]:
    """The regions that changed, from now on; all of them first."""
    sent: dict[str, str] = {}
    said_s = -math.inf
    while True:
        try:
            found = await read()
        except VisionDynoError as error:
            yield event("trouble", {"message": error.message})
        else:
            changed = {name: html for name, html in found.html.items() if sent.get(name) != html}
            if changed or time.monotonic() - said_s >= heartbeat_s:
                said_s = time.monotonic()
                yield event("regions", {"at": time.time(), "regions": changed})
            sent.update(changed)
            if found.ended:
                yield event("end", {})
                return
        await asyncio.sleep(look_s)


async def batches(
    items: AsyncIterator[Item], *, gather_s: float = GATHER_S, silence_s: float = HEARTBEAT_S
) -> AsyncIterator[list[Item]]:
    """`items` in lists of what came within `gather_s`; an empty one after each silence.

    An error of `items` is raised after what came before it.
    """
    gathered: list[Item] = []
    came = asyncio.Event()

    async def pump() -> None:
        try:
            async for item in items:
                gathered.append(item)
                came.set()
        finally:
            came.set()

    task = asyncio.create_task(pump())
    try:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(came.wait(), silence_s)
            if came.is_set() and not task.done():
                await asyncio.wait({task}, timeout=gather_s)
            came.clear()
            is_over = task.done()
            if gathered or not is_over:
                batch, gathered[:] = list(gathered), []
                yield batch
            if is_over:
                task.result()
                return
    finally:
        task.cancel()
        await asyncio.wait({task})


def event(name: str, data: dict[str, Any], number: int | None = None) -> ServerSentEvent:
    """One event; `number` comes back in `Last-Event-ID` when the browser reconnects."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    identity = None if number is None else str(number)
    return ServerSentEvent(data=text, event=name, id=identity, retry=_RECONNECT_MS)
