"""A command that is started for a measurement, and ended with all that it started."""

import asyncio
import os
import shlex
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from visiondyno.errors import OperationFailed, SpecError
from visiondyno.loadtest.watching.process_tree import ProcessTree

_LOOK_EVERY_S = 0.05
_NOTE_EVERY_S = 0.5
_KILLED_WITHIN_S = 10.0
_LAST_BYTES = 2000


class StartedCommand:
    """A running command in a session of its own, so that Ctrl-C is ours to hand on.

    Attributes:
        began_ns: just before its process was made; monotonic clock.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, began_ns: int, log: Path, log_begins: int
    ) -> None:
        self.began_ns = began_ns
        self._process = process
        self._log = log
        self._log_begins = log_begins
        self._tree = ProcessTree(process.pid, leads_session=True)
        self._looked_s = time.monotonic()

    @classmethod
    async def start(cls, command: str, log: Path) -> Self:
        """Start it; what it writes is appended to `log`.

        Raises:
            SpecError: the command line isn't one, the program can't be run, or the log not written.
        """
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise SpecError(f"The command '{command}' can't be read ({error}).") from None
        if not words:
            raise SpecError("The command is empty; give the one that starts the target.")
        try:
            file = log.open("ab")
        except OSError as error:
            raise SpecError(
                f"The log of the command can't be written to {log}: {error.strerror}."
            ) from None
        with file:
            began_ns = time.monotonic_ns()
            try:
                process = await asyncio.create_subprocess_exec(
                    *words,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=file,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise SpecError(
                    f"The command can't be started: '{words[0]}': {error.strerror}."
                ) from None
            return cls(process, began_ns, log, file.tell())

    @property
    def pid(self) -> int:
        """Of its first process."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status (below 0: the signal that ended it); None while it runs."""
        return self._process.returncode

    def look(self) -> None:
        """Take note, now and then, of what it has started: that may leave its session later."""
        if time.monotonic() - self._looked_s >= _NOTE_EVERY_S:
            self._tree.alive()
            self._looked_s = time.monotonic()

    def last_words(self) -> str:
        """The end of what it wrote this time, as a sentence for a message."""
        with suppress(OSError), self._log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_begins, size - _LAST_BYTES))
            text = file.read().decode(errors="replace").strip()
            if text:
                return f"It wrote last: {text.splitlines()[-1][:300]} (all of it: {self._log})"
        return f"It wrote nothing to {self._log}."

    async def end(self, stop_s: float) -> None:
        """Ask it and all that it started to end, and kill what is left after `stop_s`.

        Raises:
            OperationFailed: something is left even so.
        """
        try:
            self._ask_to_end()
            if await self._is_gone_within(stop_s):
                return
        finally:
            # Reached too where this waiting itself was cancelled.
            self._kill()
        if not await self._is_gone_within(_KILLED_WITHIN_S):
            raise OperationFailed(
                f"Processes of the command can't be killed: {self._tree.alive()}.", "cold_start"
            )

    def _kill(self) -> None:
        for pid in self._tree.alive():
            # The number is that of a process of ours which is there just now.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _ask_to_end(self) -> None:
        alive = self._tree.alive()
        if self.status is None:
            # Nobody has taken its status, so the number is still its own, and its group's.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            return
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    async def _is_gone_within(self, seconds: float) -> bool:
        deadline_s = time.monotonic() + seconds
        while True:
            if not self._tree.alive():
                # Its exit status is to be taken, or a zombie is left.
                await self._process.wait()
                return True
            if time.monotonic() >= deadline_s:
                return False
            await asyncio.sleep(_LOOK_EVERY_S)
