"""Operations for a RunPod worker's tests: those that fail in every way, and some that tell."""

import os
import time
from pathlib import Path
from typing import Any

import faulty_operations
from visiondyno.operations.context import OperationContext


def run(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    match job_input["operation"]:
        case "nap" | "benchmark":
            return _nap(job_input, context)
        case "tell":
            for done in range(job_input["times"]):
                context.progress("step", done=done)
            return {"told": job_input["times"]}
        case "print":
            for line in job_input["lines"]:
                print(line)
            return {"printed": len(job_input["lines"])}
        case "large":
            return {"text": "x" * (job_input["megabytes"] * 1_000_000)}
        case "meet":
            return _meet(Path(job_input["folder"]), job_input["of"], context)
        case "crash":
            raise ZeroDivisionError("division by zero")
        case _:
            return faulty_operations.run(job_input, context)


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


def _meet(folder: Path, expected: int, context: OperationContext) -> dict[str, Any]:
    (folder / f"here-{os.getpid()}").touch()
    while len(list(folder.glob("here-*"))) < expected:
        context.check()
        time.sleep(0.01)
    return {"met": expected}
