"""The local queue's connection: transactions, rings after commits, errors as ours."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visiondyno.errors import StorageFull, TransportDown, VisionDynoError
from visiondyno.executors.fifo_bell import FifoBell, ring
from visiondyno.executors.queue import Bell, Topic
from visiondyno.executors.sqlite_schema import open_queue_file

_PATIENCE_S = 10.0
_TRY_AGAIN_S = 0.0001


class SqliteFile:
    """One connection to the queue's file, used from one thread."""

    def __init__(self, path: Path, boot_id: str | None = None) -> None:
        """Open the file, or make it.

        Raises:
            TransportDown: it can't be opened.
        """
        self._bells = Path(f"{path}.bells")
        self.patience_s = _PATIENCE_S
        self._depth = 0
        self._rings: set[Topic] = set()
        try:
            self.connection = open_queue_file(path, boot_id)
            self.connection.execute("PRAGMA busy_timeout = 0")
        except (sqlite3.Error, OSError) as error:
            raise TransportDown(
                f"The queue {path} can't be opened ({error}). Is its folder writable?"
            ) from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """One transaction; inside another, a part of it. Bells ring when it is committed."""
        if self._depth:
            yield
            return
        try:
            self._execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
            finally:
                self._depth = 0
            self.connection.execute("COMMIT")
        except BaseException as error:
            self._rings.clear()
            if self.connection.in_transaction:  # SQLite may have rolled back itself, e.g. when full
                self.connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise _explained(error) from error
            raise
        rings, self._rings = self._rings, set()
        for topic in rings:
            ring(self._bells, topic)

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Execute what may find the file locked, again and again for `patience_s`.

        SQLite's own handler sleeps 1 to 100 ms between its tries, and others hold the lock for a
        tenth of a millisecond: a busy dispatcher would spend its time in that.
        """
        deadline_s = time.monotonic() + self.patience_s
        while True:
            try:
                return self.connection.execute(statement, values)
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline_s:
                    raise
                time.sleep(_TRY_AGAIN_S)

    def ring(self, *topics: Topic) -> None:
        """Ring these bells once the transaction is committed."""
        self._rings.update(topics)

    def bell(self, topic: Topic) -> Bell:
        """Listen for rings of other processes and of this one.

        Raises:
            TransportDown: its pipe can't be made.
        """
        try:
            return FifoBell(self._bells, topic)
        except OSError as error:
            raise TransportDown(
                f"The queue's bells in {self._bells} don't work: {error}."
            ) from error

    def read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query."""
        try:
            return self._execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _explained(error) from error


def _explained(error: sqlite3.Error) -> VisionDynoError:
    text = str(error)
    if "full" in text:
        return StorageFull(
            "The disk of the job queue is full; nothing that was accepted is lost. "
            "Free some space and submit again."
        )
    return TransportDown(f"The job queue can't be read or written just now ({text}).")
