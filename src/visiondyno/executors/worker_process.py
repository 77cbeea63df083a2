"""A worker's own process: it runs one operation after another, told over pipes.

Requests come as lines on standard input, answers go as lines over a pipe of their own, so that what
operations print can't corrupt them (that goes to standard output and becomes the job's log):

    J TOKEN LIMIT_MS JSON   run this input (LIMIT_MS 0: no limit)
    C TOKEN                 stop it
    H                       ready
    P TOKEN JSON            progress
    R TOKEN JSON            the output
    E TOKEN STATE JSON      the error, and the state it leads to

The end of standard input means that the supervisor is gone: the process ends at once, whatever it
does. Nothing here knows the queue or the store.
"""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from visiondyno.errors import Cancelled, TimeLimitExceeded
from visiondyno.job import JobError, JobState
from visiondyno.operations.context import OperationContext
from visiondyno.runtimes.trusted_code import distrust_code

if TYPE_CHECKING:
    from visiondyno.operations.model_source import ModelSource
    from visiondyno.runtimes.base import LoadedModel, LoadOptions

_WARM_BYTES = 2_000_000_000
_WARM_SHARE = 16
_SET_PDEATHSIG = 1
"""Models that a worker keeps loaded take at most so much memory: the less of 2 GB and 1/16 of the
machine's."""

Run = Callable[[dict[str, Any], OperationContext], dict[str, Any]]


def find_entry(entry: str) -> Run:
    """The function that `package.module:function` names."""
    module, _, function = entry.partition(":")
    found: Run = getattr(importlib.import_module(module), function)
    return found


class _Channel:
    """Answers to the supervisor, whole lines whatever thread sends them."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def send(self, line: str) -> None:
        data = line.encode() + b"\n"
        with self._lock:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]


class _Requests:
    """What the supervisor asks, read on a thread of its own: a cancel comes while a job runs."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[tuple[str, int, str]] = SimpleQueue()
        self._cancelled: set[str] = set()
        threading.Thread(target=self._read, daemon=True).start()

    def is_cancelled(self, token: str) -> bool:
        return token in self._cancelled

    def forget(self, token: str) -> None:
        self._cancelled.discard(token)

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            text = line.decode().rstrip("\n")
            if text.startswith("J "):
                _, token, limit_ms, input_json = text.split(" ", 3)
                self.jobs.put((token, int(limit_ms), input_json))
            elif text.startswith("C "):
                self._cancelled.add(text[2:])
        os._exit(0)


class _WarmModels:
    """`warm_models`, made at the first use: most jobs of some workers need none."""

    def __init__(self) -> None:
        self._models: ModelSource | None = None

    def open(
        self, reference: str, options: "LoadOptions", announce: Callable[[bool], None]
    ) -> "AbstractContextManager[LoadedModel]":
        if self._models is None:
            from visiondyno.operations.model_source import warm_models
            from visiondyno.probes.slots import host_memory

            total_bytes = host_memory().total_bytes
            share = _WARM_BYTES if total_bytes is None else total_bytes // _WARM_SHARE
            self._models = warm_models(min(_WARM_BYTES, share))
        return self._models.open(reference, options, announce)


def serve(run: Run, channel: _Channel, requests: _Requests) -> None:
    """Run jobs for ever."""
    models = _WarmModels()
    channel.send("H")
    while True:
        token, limit_ms, input_json = requests.jobs.get()
        deadline_s = time.monotonic() + limit_ms / 1000 if limit_ms else None

        def say(progress: dict[str, Any], token: str = token) -> None:
            channel.send(f"P {token} {json.dumps(progress, allow_nan=False)}")

        def is_cancelled(token: str = token) -> bool:
            return requests.is_cancelled(token)

        context = OperationContext(say, is_cancelled, deadline_s, models)
        answer = _answer(run, token, input_json, context)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()  # what the job printed belongs before its answer
        channel.send(answer)
        requests.forget(token)


def _answer(run: Run, token: str, input_json: str, context: OperationContext) -> str:
    state = JobState.FAILED
    caught: Exception
    try:
        output = run(json.loads(input_json), context)
        context.check()  # one that never looked must not end as COMPLETED
        return f"R {token} {json.dumps(output, allow_nan=False)}"
    except Cancelled as error:
        state, caught = JobState.CANCELLED, error
    except TimeLimitExceeded as error:
        state, caught = JobState.TIMED_OUT, error
    except Exception as error:
        caught = error
    trace = "".join(traceback.format_exception(caught))
    return f"E {token} {state} {JobError.from_exception(caught, trace).model_dump_json()}"


def main(arguments: list[str]) -> None:
    """`MESSAGES_FD ENTRY`."""
    _end_with_supervisor()
    # Whatever this machine's user trusts: jobs are other people's.
    distrust_code()
    channel = _Channel(int(arguments[0]))
    try:
        serve(find_entry(arguments[1]), channel, _Requests())
    except BaseException:
        # Not by leaving: the thread that reads would abort the interpreter, and hide the reason.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _end_with_supervisor() -> None:
    """Have the kernel kill this process when its supervisor ends, however stuck this one is.

    An operation that holds the interpreter's lock keeps the end of standard input from being seen.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
