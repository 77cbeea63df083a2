"""A small synchronous face of any executor, for scripts, notebooks and the command line."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from visiondyno.errors import OperationFailed
from visiondyno.executors.base import Executor
from visiondyno.job import JobAnswer, JobEvent, JobRequest

OnEvent = Callable[[JobEvent], None]


def run_job(
    make_executor: Callable[[], Executor], request: JobRequest, on_event: OnEvent = lambda _: None
) -> dict[str, Any]:
    """Submit one job, wait for it, and return its output.

    An interrupt (Ctrl-C) cancels the job and waits until it has stopped. Works inside a running
    event loop too (notebooks): there it runs on a thread of its own.

    Raises:
        VisionDynoError: the job's own error.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_run_job(make_executor, request, on_event)).result()
    with ThreadPoolExecutor(max_workers=1) as thread:
        job = _run_job(make_executor, request, on_event)
        return thread.submit(asyncio.run, job).result().result()


async def _run_job(
    make_executor: Callable[[], Executor], request: JobRequest, on_event: OnEvent
) -> JobAnswer:
    async with make_executor() as executor:
        job_id = await executor.submit(request)
        try:
            async for event in executor.watch(job_id):
                on_event(event)
                if event.answer is not None:
                    return event.answer
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await executor.cancel(job_id)
            raise
    raise OperationFailed("The executor ended the job without an answer; run it again.")
