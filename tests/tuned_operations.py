"""Operations of studies' workers: one worker that fails everything, and trials that hang."""

import ctypes
import os
import time
from pathlib import Path
from typing import Any

from visiondyno.errors import OperationFailed
from visiondyno.operations.context import OperationContext


def run(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    return _OPERATIONS[job_input["operation"]](job_input, context)


def _choosy(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    """Fails on the worker that came first, and works on all others."""
    bad = Path(job_input["folder"]) / "bad"
    try:
        with bad.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        pass
    time.sleep(job_input.get("seconds", 0.1))
    if bad.read_text() == str(os.getpid()):
        raise OperationFailed(f"This worker has no luck with {job_input['x']}.")
    return {"value": job_input["x"], "pid": os.getpid()}


def _hang(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    context.progress("hanging", pid=os.getpid())
    # Holds the interpreter's lock: no Python code of this process runs any more.
    return {"slept": ctypes.PyDLL(None).sleep(3600)}


def _nap(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    time.sleep(0.1)
    return {"value": job_input["x"], "pid": os.getpid()}


_OPERATIONS = {"choosy": _choosy, "hang": _hang, "nap": _nap}
