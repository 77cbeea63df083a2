"""The child process: answers one request from standard input over the pipe it was given."""

import importlib
import json
import os
import sys
import threading
import traceback
from typing import Any

from visiondyno.errors import VisionDynoError
from visiondyno.job import JobError


def main(write_fd: int) -> int:
    """Run the entry that the request names, confined first if it says so; the exit code."""
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        data = json.dumps(message, allow_nan=False).encode() + b"\n"
        with lock:
            view = memoryview(data)
            while view:
                view = view[os.write(write_fd, view) :]

    request = json.loads(sys.stdin.buffer.readline())
    try:
        if request["limits"] is not None:
            # Before the first thread: a namespace can't be left by a process that has several.
            send({"event": {"stage": "confined", "protections": _confine(request["limits"])}})
        threading.Thread(target=_die_with_parent, daemon=True).start()
        module, _, function = request["entry"].partition(":")
        run = getattr(importlib.import_module(module), function)
        send({"result": run(request["payload"], lambda event: send({"event": event}))})
    except Exception as error:
        trace = traceback.format_exc()
        send({"error": JobError.from_exception(error, trace).model_dump()})
        return 0 if isinstance(error, VisionDynoError) else 1
    return 0


def _confine(limits: dict[str, Any]) -> dict[str, Any]:
    from visiondyno.sandbox.confine import confine
    from visiondyno.sandbox.limits import Limits

    held = confine(Limits.model_validate(limits))
    return {name: protection.model_dump() for name, protection in held.items()}


def _die_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    code = main(int(sys.argv[1]))
    sys.stdout.flush()
    # Not sys.exit: the watching thread sits in a read, and native thread pools can hang at exit.
    os._exit(code)
