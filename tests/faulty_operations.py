"""Operations of worker processes that die, hang, print and are stopped."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from visiondyno.errors import InputError
from visiondyno.operations.context import OperationContext


def run(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    return _OPERATIONS[job_input["operation"]](job_input, context)


def _log(job_input: dict[str, Any], _: OperationContext) -> dict[str, Any]:
    for line in job_input["lines"]:
        print(line)
    return {}


def _mirror(job_input: dict[str, Any], _: OperationContext) -> dict[str, Any]:
    return {"text": job_input["text"]}


def _refuse(job_input: dict[str, Any], _: OperationContext) -> dict[str, Any]:
    raise InputError(job_input["text"])


def _until_stopped(_: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    context.progress("started", pid=os.getpid())
    while True:
        context.check()
        time.sleep(0.005)


def _until_file(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    attempt = _attempt(Path(job_input["path"] + "-attempts"))
    context.progress("started", pid=os.getpid())
    while not Path(job_input["path"]).exists():
        time.sleep(0.005)
    return {"attempt": attempt}


def _hang(_: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    context.progress("started", pid=os.getpid())
    # Holds the interpreter's lock: no Python code of this process runs any more.
    return {"slept": ctypes.PyDLL(None).sleep(3600)}


def _kill_yourself(_: dict[str, Any], __: OperationContext) -> dict[str, Any]:
    print("goodbye", file=sys.stderr, flush=True)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def _once_killed(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    attempt = _attempt(Path(job_input["marker"]))
    context.progress("started", pid=os.getpid())
    while attempt == 1:
        time.sleep(0.01)
    return {"attempt": attempt}


def _slow(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    attempt = _attempt(Path(job_input["marker"]))
    context.progress("started", pid=os.getpid())
    until_s = time.monotonic() + job_input["seconds"]
    while time.monotonic() < until_s:
        time.sleep(0.01)
    return {"attempt": attempt}


_OPERATIONS = {
    "log": _log,
    "mirror": _mirror,
    "refuse": _refuse,
    "until stopped": _until_stopped,
    "until file": _until_file,
    "hang": _hang,
    "kill yourself": _kill_yourself,
    "once killed": _once_killed,
    "slow": _slow,
}


def _attempt(marker: Path) -> int:
    with marker.open("a") as file:
        file.write("x")
    return len(marker.read_text())
