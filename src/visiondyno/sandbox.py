"""Run one function in a fresh, killable child process; JSON in, JSON lines out.

Why a process of its own: a peak of memory belongs to whoever made it, a crash in native code takes
only the child along, and a time limit can be kept by SIGKILL. The child is spawned, never forked
(CUDA and thread pools don't survive a fork). Messages have a pipe of their own, so that what
libraries print can't corrupt them; what they print is kept for the error's text.

Limits of memory, processes and network for untrusted models are not covered here yet.
"""

import contextlib
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from typing import IO, Any

from visiondyno.errors import ChildDied, TimeLimitExceeded, VisionDynoError
from visiondyno.job import JobError

Emit = Callable[[dict[str, Any]], None]
_POLL_S = 0.2
_KEPT_STDERR_BYTES = 4000


def run_in_child(
    entry: str,
    payload: dict[str, Any],
    *,
    on_event: Emit = lambda _: None,
    check: Callable[[], None] = lambda: None,
    time_limit_s: float | None = None,
) -> dict[str, Any]:
    """Call `entry(payload, emit)` in a fresh process and return its result.

    `payload` gets one more key, `started_ns`: the monotonic clock just before the process started.

    Args:
        entry: `package.module:function` inside `visiondyno`.
        payload: JSON-serialisable argument.
        on_event: called here with each thing the child emits; what it raises kills the child.
        check: called several times a second; what it raises kills the child.
        time_limit_s: the child is killed after so long.

    Raises:
        VisionDynoError: whatever the child raised, with its traceback.
        ChildDied: the child ended without an answer.
        TimeLimitExceeded: it ran past `time_limit_s`.
    """
    read_fd, write_fd = os.pipe()
    with tempfile.TemporaryFile() as stderr, os.fdopen(read_fd, "rb", buffering=0) as messages:
        started_ns = time.monotonic_ns()
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "visiondyno.sandbox", str(write_fd)],
            stdin=subprocess.PIPE,
            stdout=stderr,
            stderr=stderr,
            pass_fds=(write_fd,),
            start_new_session=True,
        )
        os.close(write_fd)
        try:
            _send(child, {"entry": entry, "payload": {**payload, "started_ns": started_ns}})
            deadline_s = None if time_limit_s is None else time.monotonic() + time_limit_s
            result = _await_result(messages, on_event, check, deadline_s)
        finally:
            _end(child, gently=sys.exc_info()[0] is None)
        if result is None:
            raise _death(child, stderr)
        return result


def _send(child: "subprocess.Popen[bytes]", request: dict[str, Any]) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()  # left open: its end tells the child that we are gone
    except BrokenPipeError:
        pass  # it died at once; the missing answer says so


def _await_result(
    messages: IO[bytes],
    on_event: Emit,
    check: Callable[[], None],
    deadline_s: float | None,
) -> dict[str, Any] | None:
    """The child's result, or None if its pipe closed without one."""
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(messages, selectors.EVENT_READ)
        while True:
            check()
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise TimeLimitExceeded(
                    "The model's process ran past its time limit and was killed; "
                    "raise the limit or use fewer images."
                )
            if not selector.select(_POLL_S):
                continue
            chunk = os.read(messages.fileno(), 1 << 20)
            if not chunk:
                return None
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "event" in message:
                    on_event(message["event"])
                elif "error" in message:
                    raise JobError.model_validate(message["error"]).to_exception()
                else:
                    result: dict[str, Any] = message["result"]
                    return result


def _end(child: "subprocess.Popen[bytes]", *, gently: bool) -> None:
    """Leave no process behind: the child and all it started."""
    if gently:
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            gently = False
    if not gently or child.returncode != 0:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()


def _death(child: "subprocess.Popen[bytes]", stderr: IO[bytes]) -> ChildDied:
    code = child.returncode
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    hint = " The kernel may have killed it for want of memory." if code == -signal.SIGKILL else ""
    stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, stderr.tell() - _KEPT_STDERR_BYTES))
    said = stderr.read().decode(errors="replace").strip()
    last = f" Its last words: {said.splitlines()[-1]}" if said else ""
    return ChildDied(
        f"The model's process ended {how} before it answered.{hint}{last}", traceback=said or None
    )


def _child_main(write_fd: int) -> int:
    """Answer one request from standard input over `write_fd`."""
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        data = json.dumps(message, allow_nan=False).encode() + b"\n"
        with lock:
            view = memoryview(data)
            while view:
                view = view[os.write(write_fd, view) :]

    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    module, _, function = request["entry"].partition(":")
    try:
        run = getattr(importlib.import_module(module), function)
        send({"result": run(request["payload"], lambda event: send({"event": event}))})
    except Exception as error:
        trace = traceback.format_exc()
        send({"error": JobError.from_exception(error, trace).model_dump()})
        return 0 if isinstance(error, VisionDynoError) else 1
    return 0


def _die_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    code = _child_main(int(sys.argv[1]))
    sys.stdout.flush()
    # Not sys.exit: the watching thread sits in a read, and native thread pools can hang at exit.
    os._exit(code)
