"""A worker for the emulator's tests: `python emulated_handler.py KIND`, one of `HANDLERS`.

Runs under the `runpod` package as it is.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import runpod

from visiondyno.errors import OperationFailed


def plain(job: dict[str, Any]) -> Any:
    """What its input asks for; blocks the worker's loop."""
    given = job["input"]
    if given.get("sleep_s"):
        time.sleep(given["sleep_s"])
    match given.get("do", "echo"):
        case "fail":
            return {"error": "images/7.jpg is empty"}
        case "raise":
            raise ValueError("a defect")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "tell":
            runpod.serverless.progress_update(job, {"done": 1})
            while not Path(given["until_file"]).exists():
                time.sleep(0.005)
        case "refresh":
            return {"refresh_worker": True, "said": "bye"}
        case "many":
            return {"said": "x" * given["bytes"]}
    return {"said": given.get("say"), "worker": os.environ["RUNPOD_POD_ID"]}


async def without_blocking(job: dict[str, Any]) -> Any:
    await asyncio.sleep(job["input"].get("sleep_s", 0))
    return plain({**job, "input": {**job["input"], "sleep_s": 0}})


async def forever(_: dict[str, Any]) -> None:
    await asyncio.sleep(600)


async def stream(job: dict[str, Any]) -> AsyncIterator[Any]:
    for step in range(job["input"].get("steps", 3)):
        yield {"step": step}
        await asyncio.sleep(job["input"].get("sleep_s", 0))


def refuse(_: object, __: object) -> None:
    """An operation of our own handler's worker processes."""
    raise OperationFailed("Nothing is trained here.")


HANDLERS: dict[str, Any] = {
    "plain": plain,
    "async": without_blocking,
    "forever": forever,
    "stream": stream,
    "steps": stream,
}

if __name__ == "__main__":
    kind = sys.argv.pop()
    runpod.serverless.start(
        {
            "handler": HANDLERS[kind],
            "return_aggregate_stream": True,
            "concurrency_modifier": lambda _: 2 if kind in ("async", "steps") else 1,
        }
    )
