"""What one round of a load test recorded: one row a request, nothing averaged yet."""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Outcome(IntEnum):
    """How a request ended."""

    GOOD = 0
    """A whole answer with an expected status (and body, where one is expected)."""
    BAD_STATUS = 1
    """A whole answer with another status."""
    BAD_BODY = 2
    """The status was good, the body wasn't what was expected."""
    TIMEOUT = 3
    """No whole answer within the time limit. Its latency is at least the limit: censored."""
    CONNECT_FAILED = 4
    """No connection: refused, unreachable, no such name, a TLS failure."""
    CUT = 5
    """The connection ended or broke HTTP before the whole answer."""
    NOT_SENT = 6
    """The test was stopped before it was sent, or (then it has a `sent_ns`) before its answer was
    whole."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One row a request, in order of schedule. Times in ns on one monotonic clock.

    Attributes:
        scheduled_ns: (n,) int64: when it was meant to be sent (closed loop: when it was sent).
        sent_ns: (n,) int64: when its last byte was handed to the system; -1: never.
        first_byte_ns: (n,) int64: when the answer's first byte came; -1: none came.
        done_ns: (n,) int64: when the answer was whole, or the failure was known; of what was never
            sent: when the test was stopped, or `scheduled_ns` if it wasn't due by then.
        status: (n,) int16: HTTP status; 0: none.
        outcome: (n,) uint8: `Outcome`.
        answer_bytes: (n,) int64: of the answer's body.
        connected: (n,) bool: it opened a new connection.
        stages_ms: what the target told of its own time (`Server-Timing`), by stage; each (n,)
            float64 with NaN where it wasn't told.
        errors: some messages of failures with how often each came.
        cpu_s: processor time of the generator over the round.
        elapsed_s: of the round, from the first scheduled moment to the last end, or to the stop if
            that was later.
        begun_ns: (n,) int64: when the generator took it up: wrote it, or began to open a connection
            for it; -1: never. None: not known.
        notes: what a reader must know that is no failure, with how often it happened.
    """

    scheduled_ns: NDArray[np.int64]
    sent_ns: NDArray[np.int64]
    first_byte_ns: NDArray[np.int64]
    done_ns: NDArray[np.int64]
    status: NDArray[np.int16]
    outcome: NDArray[np.uint8]
    answer_bytes: NDArray[np.int64]
    connected: NDArray[np.bool_]
    stages_ms: dict[str, NDArray[np.float64]]
    errors: dict[str, int]
    cpu_s: float
    elapsed_s: float
    begun_ns: NDArray[np.int64] | None = None
    notes: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scheduled_ns)

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """(n,) from the scheduled moment to the whole answer (or the failure)."""
        return (self.done_ns - self.scheduled_ns) / 1e6

    @property
    def lag_ms(self) -> NDArray[np.float64]:
        """(n,) from the scheduled moment to when it was taken up; NaN: never.

        The generator's error, and the wait for one of a limited number of connections. How long
        the target takes to accept a connection is no part of it.
        """
        begun_ns = self.sent_ns if self.begun_ns is None else self.begun_ns
        return np.where(begun_ns < 0, np.nan, (begun_ns - self.scheduled_ns) / 1e6)

    @property
    def unanswered(self) -> NDArray[np.bool_]:
        """(n,) whether it was due and had no answer when the test was stopped.

        Its latency is at least that until the stop, as a timeout's is at least the limit.
        """
        return self.having(Outcome.NOT_SENT) & (self.done_ns > self.scheduled_ns)

    def having(self, *outcomes: Outcome) -> NDArray[np.bool_]:
        """(n,) whether the request ended in one of these ways."""
        return np.isin(self.outcome, [int(outcome) for outcome in outcomes])
