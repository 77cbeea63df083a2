"""Bells between processes of one machine: named pipes in a folder.

A ring writes one byte into every pipe of a topic's folder. A pipe without a reader is somebody's
who died: it is removed. Why not sockets: a pipe's path may be longer than 108 bytes.
"""

import contextlib
import errno
import os
import uuid
from pathlib import Path

from visiondyno.executors.queue import Bell, Topic


class FifoBell(Bell):
    """One listener's pipe."""

    def __init__(self, folder: Path, topic: Topic) -> None:
        home = folder / topic
        home.mkdir(parents=True, exist_ok=True)
        self.path = home / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        os.mkfifo(self.path, 0o600)
        # Opened for writing too: without a writer the pipe would always be readable (at its end).
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._fd, 4096)) == 4096:
                pass

    def close(self) -> None:
        if self._fd < 0:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1


def ring(folder: Path, topic: Topic) -> None:
    """Wake every listener of the topic."""
    try:
        entries = os.listdir(folder / topic)  # noqa: PTH208 - rung for every job: half the time
    except OSError:
        return  # nobody ever listened; or what is committed must not fail for want of a descriptor
    for name in entries:
        path = folder / topic / name
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no reader: its owner died
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            continue
        try:
            os.write(fd, b"!")
        except OSError:
            pass  # full of rings already, or closed just now
        finally:
            os.close(fd)
