"""Run one function in a fresh, killable child process; JSON in, JSON lines out.

Why a process of its own: a peak of memory belongs to whoever made it, a crash in native code takes
only the child along, and a time limit can be kept by SIGKILL. The child is spawned, never forked
(CUDA and thread pools don't survive a fork). Messages have a pipe of their own, so that what
libraries print can't corrupt them; what they print is kept for the error's text.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any

from visiondyno.errors import ChildDied, OperationFailed, TimeLimitExceeded
from visiondyno.job import JobError
from visiondyno.sandbox.limits import Limits, scrubbed

Emit = Callable[[dict[str, Any]], None]
_POLL_S = 0.2
_KEPT_STDERR_BYTES = 4000
_LAST_WORDS = 300
_LONGEST_UNTRUSTED_BYTES = 1_000_000


def run_in_child(
    entry: str,
    payload: dict[str, Any],
    *,
    on_event: Emit = lambda _: None,
    check: Callable[[], None] = lambda: None,
    time_limit_s: float | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Call `entry(payload, emit)` in a fresh process and return its result.

    `payload` gets one more key, `started_ns`: the monotonic clock just before the process started.

    Args:
        entry: `package.module:function` inside `visiondyno`.
        payload: JSON-serialisable argument.
        on_event: called here with each thing the child emits; what it raises kills the child.
        check: called several times a second; what it raises kills the child.
        time_limit_s: the child is killed after so long.
        limits: for work that isn't trusted. The child is confined before it imports `entry`, sees
            a scrubbed environment, and its first event is `{"stage": "confined", "protections":
            {NAME: {"held": bool, "how": str}}}`; what it says later is to be judged as untrusted.

    Raises:
        VisionDynoError: whatever the child raised, with its traceback.
        ChildDied: the child ended without an answer.
        TimeLimitExceeded: it ran past `time_limit_s`, or used up its processor time.
    """
    read_fd, write_fd = os.pipe()
    with tempfile.TemporaryFile() as stderr, os.fdopen(read_fd, "rb", buffering=0) as messages:
        started_ns = time.monotonic_ns()
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            # -P: the working folder may hold anything, and is none of the child's business.
            [
                sys.executable,
                *(["-P"] if limits else []),
                "-m",
                "visiondyno.sandbox",
                str(write_fd),
            ],
            stdin=subprocess.PIPE,
            stdout=stderr,
            stderr=stderr,
            pass_fds=(write_fd,),
            start_new_session=True,
            env=scrubbed(os.environ) if limits else None,
            cwd="/" if limits else None,
        )
        os.close(write_fd)
        try:
            limited = None if limits is None else limits.model_dump()
            work = {"entry": entry, "payload": {**payload, "started_ns": started_ns}}
            _send(child, {**work, "limits": limited})
            deadline_s = None if time_limit_s is None else time.monotonic() + time_limit_s
            longest = None if limits is None else _LONGEST_UNTRUSTED_BYTES
            result = _await_result(messages, on_event, check, deadline_s, longest)
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
    longest_bytes: int | None,
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
            if longest_bytes is not None and len(buffer) > longest_bytes:
                raise ChildDied("The model's process was stopped: it said more than it may.")
            for line in lines:
                message = _parsed(line)
                if "event" in message:
                    on_event(message["event"])
                elif "error" in message:
                    raise JobError.model_validate(message["error"]).to_exception()
                else:
                    result: dict[str, Any] = message["result"]
                    return result


def _parsed(line: bytes) -> dict[str, Any]:
    """One message; a child that was taken over may write anything."""
    try:
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            JobError.model_validate(message["error"])
            return message
        if isinstance(message.get("event", message.get("result")), dict):
            return message
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    raise ChildDied("The model's process answered what can't be read.")


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


def _death(child: "subprocess.Popen[bytes]", stderr: IO[bytes]) -> OperationFailed:
    code = child.returncode
    if code == -signal.SIGXCPU:
        return TimeLimitExceeded(
            "The model's process used up its processor time and was killed; make the model "
            "smaller, or raise the limit."
        )
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    hint = " The kernel may have killed it for want of memory." if code == -signal.SIGKILL else ""
    stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, stderr.tell() - _KEPT_STDERR_BYTES))
    said = stderr.read().decode(errors="replace").strip()
    last = f" Its last words: {said.splitlines()[-1][-_LAST_WORDS:]}" if said else ""
    return ChildDied(
        f"The model's process ended {how} before it answered.{hint}{last}", traceback=said or None
    )
