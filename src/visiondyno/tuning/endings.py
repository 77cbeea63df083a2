"""Ends tasks, whatever comes in between."""

import asyncio
from collections.abc import Collection
from typing import Any


async def end_all(tasks: Collection["asyncio.Task[Any]"]) -> None:
    """Cancel tasks once, and wait for their ends, however often this is cancelled meanwhile.

    What a task does at its end, such as cancelling its job, isn't cut short by somebody who is in a
    hurry: a study's time that is over, or its trial's, while it stops already.

    Raises:
        asyncio.CancelledError: this was cancelled; all have ended.
    """
    for task in tasks:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while open_tasks := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(open_tasks)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in tasks:
        if not task.cancelled():
            task.exception()  # whoever wants it has seen it
    if cancelled is not None:
        raise cancelled
