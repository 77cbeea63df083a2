"""The columns that a round fills, one row a request."""

import time

import numpy as np
from numpy.typing import NDArray

from visiondyno.loadtest.connection import Connection, server_timing_ms
from visiondyno.loadtest.recording import Outcome, Recording

_MOST_MESSAGES = 30
_OTHER = "other failures"
_MOST_STAGES = 32
_FIRST_ROWS = 4096


class Rows:
    """Rows that are there before the round begins (open loop), or come with it (closed loop).

    Args:
        scheduled_ns: (n,) int64; empty for a closed loop.
    """

    def __init__(self, scheduled_ns: NDArray[np.int64]) -> None:
        self.count = len(scheduled_ns)
        room = self.count or _FIRST_ROWS
        self.scheduled_ns = np.zeros(room, np.int64)
        self.scheduled_ns[: self.count] = scheduled_ns
        self.begun_ns = np.full(room, -1, np.int64)
        self.sent_ns = np.full(room, -1, np.int64)
        self.first_byte_ns = np.full(room, -1, np.int64)
        self.done_ns = np.full(room, -1, np.int64)
        self.status = np.zeros(room, np.int16)
        self.outcome = np.full(room, int(Outcome.NOT_SENT), np.uint8)
        self.answer_bytes = np.zeros(room, np.int64)
        self.connected = np.zeros(room, np.bool_)
        self.stages_ms: dict[str, NDArray[np.float64]] = {}
        self.errors: dict[str, int] = {}
        self.notes: dict[str, int] = {}
        self.good = self.failed = 0
        self.latest_ms: list[float] | None = None
        """Latencies of good answers since somebody took them; None: nobody will."""

    def add(self, now_ns: int) -> int:
        """A row for a request that is sent now."""
        if self.count == len(self.scheduled_ns):
            self._grow()
        row = self.count
        self.count += 1
        self.scheduled_ns[row] = now_ns
        return row

    def answer(self, connection: Connection, outcome: Outcome, why: str | None) -> None:
        """The row of a request whose whole answer is there."""
        row = connection.row
        self.sent_ns[row] = connection.sent_ns
        self.first_byte_ns[row] = connection.first_byte_ns
        self.done_ns[row] = connection.done_ns
        self.status[row] = connection.status
        self.outcome[row] = outcome
        self.answer_bytes[row] = connection.body_bytes
        if outcome is Outcome.GOOD:
            self.good += 1
            if self.latest_ms is not None:
                self.latest_ms.append((connection.done_ns - int(self.scheduled_ns[row])) / 1e6)
        else:
            self.failed += 1
        if connection.server_timing:
            self._told(row, connection.server_timing)
        if why:
            self._count(why)

    def end(self, row: int, outcome: Outcome, why: str, connection: Connection | None) -> None:
        """The row of a request that has no whole answer, ended now."""
        self.failed += 1
        self.done_ns[row] = time.monotonic_ns()
        self.outcome[row] = outcome
        if connection is not None:
            self.sent_ns[row] = connection.sent_ns
            self.first_byte_ns[row] = connection.first_byte_ns
            self.answer_bytes[row] = connection.body_bytes
        self._count(why)

    def note(self, what: str) -> None:
        """Something a reader must know that is no failure."""
        self.notes[what] = self.notes.get(what, 0) + 1

    def recording(self, cpu_s: float, stopped_ns: int | None = None) -> Recording:
        """What was recorded.

        Args:
            cpu_s: that it took.
            stopped_ns: when it was stopped: rows that were due and never began end then. None: it
                wasn't, so all rows have their end.
        """
        n = self.count
        scheduled_ns, done_ns, outcome = self.scheduled_ns[:n], self.done_ns[:n], self.outcome[:n]
        never = done_ns < 0
        done_ns[never] = np.maximum(stopped_ns or 0, scheduled_ns[never])
        last_ns = max(int(done_ns[~never].max(initial=0)), stopped_ns or 0)
        return Recording(
            scheduled_ns=scheduled_ns,
            sent_ns=self.sent_ns[:n],
            first_byte_ns=self.first_byte_ns[:n],
            done_ns=done_ns,
            status=self.status[:n],
            outcome=outcome,
            answer_bytes=self.answer_bytes[:n],
            connected=self.connected[:n],
            stages_ms={stage: column[:n] for stage, column in self.stages_ms.items()},
            errors=dict(sorted(self.errors.items(), key=lambda item: -item[1])),
            cpu_s=cpu_s,
            elapsed_s=max(0, last_ns - int(scheduled_ns[0])) / 1e9 if n else 0.0,
            begun_ns=self.begun_ns[:n],
            notes=self.notes,
        )

    def _told(self, row: int, header: bytes) -> None:
        for stage, duration_ms in server_timing_ms(header).items():
            column = self.stages_ms.get(stage)
            if column is None:
                if len(self.stages_ms) == _MOST_STAGES:
                    continue
                column = self.stages_ms[stage] = np.full(len(self.scheduled_ns), np.nan)
            column[row] = duration_ms

    def _count(self, why: str) -> None:
        if why not in self.errors and len(self.errors) >= _MOST_MESSAGES:
            why = _OTHER
        self.errors[why] = self.errors.get(why, 0) + 1

    def _grow(self) -> None:
        """Twice the room; new rows are as those of the beginning."""
        blank = Rows(np.zeros(len(self.scheduled_ns), np.int64))
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray):
                setattr(self, name, np.concatenate([column, getattr(blank, name)]))
        more = np.full(len(blank.scheduled_ns), np.nan)
        self.stages_ms = {
            stage: np.concatenate([column, more]) for stage, column in self.stages_ms.items()
        }
