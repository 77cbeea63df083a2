"""What is mended in the loop of RunPod's SDK, so that short jobs don't wait for it."""

import asyncio
import inspect
from typing import Any

_LOOK_S = 0.05
_COUNTED = frozenset({"jobs_queue", "qsize", "job_progress", "get_job_count"})
"""What `current_occupancy` adds up."""


def mend_loop(scaler: type[Any]) -> None:
    """Have the SDK's loop ask for the next job as soon as it has room for one.

    Two things keep it from that. A job that it has fetched is in its queue and in its
    list of jobs in progress until it is begun, up to 0.1 s later, and it adds up both: so it takes
    itself for full with one of two jobs. And while it is full it looks again only every second. So
    two jobs of no length, one after the other, take 1 s each.

    So it is from runpod 1.9 to 1.12. Where a later one counts or waits otherwise, nothing is
    changed: a slow loop is better than a broken one.

    Args:
        scaler: the SDK's `JobScaler`.
    """
    if not _is_known(scaler):
        return
    set_scale = scaler.set_scale

    def current_occupancy(self: Any) -> int:
        return max(int(self.jobs_queue.qsize()), int(self.job_progress.get_job_count()))

    async def set_scale_and_wait_for_room(self: Any) -> None:
        await set_scale(self)
        while self.is_alive() and self.current_occupancy() >= self.current_concurrency:
            await asyncio.sleep(_LOOK_S)

    scaler.current_occupancy = current_occupancy
    scaler.set_scale = set_scale_and_wait_for_room


def _is_known(scaler: type[Any]) -> bool:
    """Whether its methods are those that are replaced."""
    counts = getattr(scaler, "current_occupancy", None)
    set_scale = getattr(scaler, "set_scale", None)
    return (
        inspect.isfunction(counts)
        and inspect.iscoroutinefunction(set_scale)
        and hasattr(scaler, "is_alive")
        and list(inspect.signature(set_scale).parameters) == ["self"]
        and list(inspect.signature(counts).parameters) == ["self"]
        and set(counts.__code__.co_names) >= _COUNTED
    )
