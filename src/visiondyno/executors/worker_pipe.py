"""The supervisor's end of a worker process: its pipes, without ever blocking on them."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

_CHUNK_BYTES = 1 << 18
_LONGEST_LOG_LINE_BYTES = 4000


class Ending(NamedTuple):
    """How a process ended: in words, and whether somebody else ended it."""

    how: str
    by_kill: bool


class WorkerPipe:
    """One spawned worker process (never forked: CUDA and thread pools don't survive it)."""

    def __init__(self, entry: str, environ: Mapping[str, str]) -> None:
        """Start a process that serves `entry` (`package.module:function`)."""
        self.messages_fd, messages_w = os.pipe()
        self.log_fd, log_w = os.pipe()
        command = [sys.executable, "-m", "visiondyno.executors.worker_process"]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*command, str(messages_w), entry],
                stdin=subprocess.PIPE,
                stdout=log_w,
                stderr=log_w,
                pass_fds=(messages_w,),
                start_new_session=True,
                env=dict(environ),
            )
        except OSError:
            os.close(self.messages_fd)
            os.close(self.log_fd)
            raise
        finally:
            os.close(messages_w)
            os.close(log_w)
        assert self._process.stdin is not None
        self.stdin_fd = self._process.stdin.fileno()
        for fd in (self.messages_fd, self.log_fd, self.stdin_fd):
            os.set_blocking(fd, False)
        self._outgoing = bytearray()
        self._messages = _Lines()
        self._log = _Lines()

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    @property
    def has_outgoing(self) -> bool:
        """Whether something waits until the pipe takes more."""
        return bool(self._outgoing)

    def send(self, line: str) -> None:
        """Queue a line and write what the pipe takes."""
        self._outgoing += line.encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes now."""
        while self._outgoing:
            try:
                written = os.write(self.stdin_fd, self._outgoing[:_CHUNK_BYTES])
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._outgoing.clear()  # it died; the end of its messages says so
                return
            del self._outgoing[:written]

    def read_messages(self) -> tuple[list[bytes], bool]:
        """Whole lines that arrived, and whether the process closed its end."""
        return self._messages.read(self.messages_fd)

    def read_log(self) -> tuple[list[str], bool]:
        """Lines that the process printed, and whether it closed its end."""
        lines, ended = self._log.read(self.log_fd)
        if self._log.pending > _LONGEST_LOG_LINE_BYTES or ended:
            lines += self._log.take_rest()  # a progress bar without line ends
        return [line.decode(errors="replace").rstrip("\r") for line in lines], ended

    def end_input(self) -> None:
        """Close its standard input, at which the process ends by itself."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def kill(self) -> None:
        """SIGKILL the process and all it started in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def reap(self, grace_s: float = 0.0) -> Ending:
        """Leave nothing behind, after `grace_s` at the latest; how the process ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=grace_s)
        self.kill()
        code = self._process.wait()
        self.end_input()
        for fd in (self.messages_fd, self.log_fd):
            os.close(fd)
        if code >= 0:
            return Ending(f"ended with exit code {code}", by_kill=False)
        name = signal.Signals(-code).name
        hint = " (by the kernel for want of memory, or by hand)" if name == "SIGKILL" else ""
        return Ending(f"was killed by {name}{hint}", by_kill=name in {"SIGKILL", "SIGTERM"})


class _Lines:
    """Lines out of a pipe's chunks; a long line isn't copied again with every chunk."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.pending = 0

    def read(self, fd: int) -> tuple[list[bytes], bool]:
        try:
            chunk = os.read(fd, _CHUNK_BYTES)
        except BlockingIOError:
            return [], False
        if not chunk:
            return [], True
        if b"\n" not in chunk:
            self._parts.append(chunk)
            self.pending += len(chunk)
            return [], False
        *lines, rest = chunk.split(b"\n")
        lines[0] = b"".join((*self._parts, lines[0]))
        self._parts = [rest] if rest else []
        self.pending = len(rest)
        return lines, False

    def take_rest(self) -> list[bytes]:
        rest = b"".join(self._parts)
        self._parts, self.pending = [], 0
        return [rest] if rest else []
