"""Many items of one request: a few with the replicas at a time, so that others are served too."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar

from visiondyno.serving.config import ServingConfig
from visiondyno.serving.pool import Pool

_LOOK_EVERY_S = 0.02
_MOST_AHEAD = 8
T = TypeVar("T")


def most_ahead(config: ServingConfig) -> int:
    """Enough to keep the replicas busy, and at most a quarter of the queue."""
    wanted = config.replicas_most * (config.max_batch or 1) + 1
    return max(1, min(wanted, config.queue // 4, _MOST_AHEAD))


async def in_order(
    works: AsyncIterator[Coroutine[Any, Any, T]], most: int
) -> AsyncGenerator[T, None]:
    """What `works` return, in their order, `most` of them running at a time.

    What one raises ends it. Those that still run when it ends are cancelled.
    """
    running: deque[asyncio.Task[T]] = deque()
    try:
        async for work in works:
            running.append(asyncio.create_task(work))
            if len(running) == most:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def room_in_queue(pool: Pool, limit_s: float) -> None:
    """Until another may wait; after the time limit the pool itself is asked, and refuses."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + limit_s
    while pool.depth >= pool.limits.queue and loop.time() < end_s:
        await asyncio.sleep(_LOOK_EVERY_S)
