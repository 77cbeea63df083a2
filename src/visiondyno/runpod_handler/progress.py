"""A job's progress as items of its stream: in order, and none after the answer."""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

_log = logging.getLogger(__name__)

Json = dict[str, Any]
Post = Callable[[Json], Awaitable[None]]
OpenStream = Callable[[], AbstractAsyncContextManager[Post]]
"""Opens what takes one job's items, each of them posted when its awaitable returns."""

MAX_ITEM_BYTES = 900_000
"""RunPod takes 1 MB for an item of a stream, its envelope counted."""
MOST_WAITING = 1000
_FLUSH_S = 10.0
_MOST_JOINED_CHARACTERS = 100_000


def read_json(text: str) -> Any:
    """The value of JSON text, without the lone surrogates that no wire takes."""
    value = json.loads(text)
    if "\\ud" in text or "\\uD" in text:
        clean = json.dumps(value, ensure_ascii=False).encode(errors="replace")
        value = json.loads(clean)
    return value


class ProgressStream:
    """One job's items, posted one after another by a task of its own.

    What the SDK offers for progress posts each item from a thread of its own: items overtake each
    other, and the answer overtakes them. Here the next one is sent when the one before arrived.

    While items wait, lines of the log are joined. Of more than 1000 that wait the oldest are left
    out, and an item of more than 900 kB is; the stream says so.

    Args:
        open_stream: called once, at the first item.
        flush_s: how long `flush` waits at most.
    """

    def __init__(self, open_stream: OpenStream, flush_s: float = _FLUSH_S) -> None:
        self._open_stream = open_stream
        self._flush_s = flush_s
        self._waiting: deque[Json] = deque()
        self._left_out = 0
        self._sender: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._is_closed = False

    def tell(self, progress_json: str) -> None:
        """Send this, JSON text of an object, after all before it."""
        if self._is_closed:
            return
        item = _fitting(progress_json)
        if not self._joined(item):
            self._waiting.append(item)
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self._left_out += 1
        self._changed.set()
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())

    async def flush(self) -> None:
        """Wait until all of it has arrived, or the time is over; nothing is sent after that."""
        self._is_closed = True
        self._changed.set()
        if self._sender is None:
            return
        await asyncio.wait([self._sender], timeout=self._flush_s)
        if not self._sender.done():
            _log.warning("%d items of progress were too slow to send", len(self._waiting) + 1)
        await self.abandon()

    async def abandon(self) -> None:
        """Send nothing any more."""
        self._is_closed = True
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait([self._sender])

    async def _send(self) -> None:
        try:
            async with self._open_stream() as post:
                while self._waiting or not self._is_closed:
                    if self._waiting:
                        await post(self._next())
                    else:
                        self._changed.clear()
                        await self._changed.wait()
        except Exception:  # whatever the network does, it is not the job's failure
            _log.exception("progress can't be sent")
            self._is_closed = True

    def _next(self) -> Json:
        if self._left_out:
            item = {"stage": "progress was left out", "left_out": self._left_out}
            self._left_out = 0
            return item
        return self._waiting.popleft()

    def _joined(self, item: Json) -> bool:
        """Whether it went into the last item that waits: lines of a log come by the thousand."""
        last = self._waiting[-1] if self._waiting else {}
        if not (item.keys() == last.keys() == {"log"}):
            return False
        joined = f"{last['log']}\n{item['log']}"
        if len(joined) > _MOST_JOINED_CHARACTERS:
            return False
        last["log"] = joined
        return True


def _fitting(progress_json: str) -> Json:
    item: Json = read_json(progress_json)
    if len(progress_json) <= MAX_ITEM_BYTES:
        return item
    size_mb = len(progress_json) / 1e6
    return {
        "stage": str(item.get("stage", "progress"))[:100],
        "log": f"This item of progress has {size_mb:.1f} MB; a stream of RunPod takes 1 MB.",
    }
