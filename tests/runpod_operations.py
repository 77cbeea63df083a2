"""Operations for a RunPod worker's tests: those that fail in every way, and some that tell."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import faulty_operations
from visiondyno.operations.context import OperationContext


def run(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    operation = _OPERATIONS.get(job_input["operation"], faulty_operations.run)
    return operation(job_input, context)


def _nap(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    from_s = time.monotonic()
    context.progress("napping", pid=os.getpid())
    time.sleep(job_input["seconds"])
    return {
        "number": job_input["number"],
        "pid": os.getpid(),
        "from_s": from_s,
        "to_s": time.monotonic(),
    }


def _tell(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    for done in range(job_input["times"]):
        context.progress("step", done=done)
    return {"told": job_input["times"]}


def _print(job_input: dict[str, Any], _: OperationContext) -> dict[str, Any]:
    for line in job_input["lines"]:
        print(line)
    return {"printed": len(job_input["lines"])}


def _print_later(job_input: dict[str, Any], _: OperationContext) -> dict[str, Any]:
    threading.Timer(0.2, print, [job_input["line"]], {"flush": True}).start()
    return {"printed": 0}


def _give(job_input: dict[str, Any], _: OperationContext) -> dict[str, Any]:
    return dict(job_input["output"])


def _large(job_input: dict[str, Any], _: OperationContext) -> dict[str, Any]:
    return {"text": "x" * (job_input["megabytes"] * 1_000_000)}


def _meet(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    folder = Path(job_input["folder"])
    (folder / f"here-{os.getpid()}").touch()
    while len(list(folder.glob("here-*"))) < job_input["of"]:
        context.check()
        time.sleep(0.01)
    return {"met": job_input["of"]}


def _crash(_: dict[str, Any], __: OperationContext) -> dict[str, Any]:
    raise ZeroDivisionError("division by zero")


_OPERATIONS = {
    "nap": _nap,
    "benchmark": _nap,
    "tell": _tell,
    "print": _print,
    "print later": _print_later,
    "give": _give,
    "large": _large,
    "meet": _meet,
    "crash": _crash,
}
