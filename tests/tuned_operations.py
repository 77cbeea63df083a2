"""Operations of studies' workers: one worker that fails everything, and trials that hang."""

import ctypes
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from visiondyno.errors import OperationFailed
from visiondyno.operations.context import OperationContext


def run(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    return _OPERATIONS[job_input["operation"]](job_input, context)


def _choosy(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    """Fails on the worker that came first, and works on all others.

    The bad one waits until another is ahead: three failures in a row would end the study.
    """
    folder, pid = Path(job_input["folder"]), str(os.getpid())
    with suppress(FileExistsError), (folder / "bad").open("x") as file:
        file.write(pid)
    own = folder / f"runs-{pid}"
    with own.open("a") as runs:
        runs.write("x")
    if (folder / "bad").read_text() != pid:
        time.sleep(0.1)
        return {"value": job_input["x"], "pid": os.getpid()}
    while not any(one.stat().st_size > own.stat().st_size for one in folder.glob("runs-*")):
        context.check()
        time.sleep(0.005)
    raise OperationFailed(f"This worker has no luck with {job_input['x']}.")


def _hang(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    context.progress("hanging", pid=os.getpid())
    # Holds the interpreter's lock: no Python code of this process runs any more.
    return {"slept": ctypes.PyDLL(None).sleep(3600)}


def _nap(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    time.sleep(0.1)
    return {"value": job_input["x"], "pid": os.getpid()}


_OPERATIONS = {"choosy": _choosy, "hang": _hang, "nap": _nap}
