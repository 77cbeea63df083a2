"""Recordings of rounds that never were, for what is made of them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from visiondyno.loadtest.recording import Outcome, Recording
from visiondyno.loadtest.starvation import STARVED

START_NS = 5_000_000_000_000


def a_recording(
    latencies_ms: list[float] | NDArray[np.float64],
    *,
    rate_per_s: float = 10.0,
    outcomes: dict[int, Outcome] | None = None,
    statuses: dict[int, int] | None = None,
    lag_ms: float | NDArray[np.float64] = 0.05,
    handshake_ms: float = 0.0,
    connected: Callable[[int], bool] = lambda index: index == 0,
    stages_ms: dict[str, NDArray[np.float64]] | None = None,
    errors: dict[str, int] | None = None,
    cpu_s: float = 0.1,
) -> Recording:
    """A round at a constant rate; request i took `latencies_ms[i]` from its scheduled moment.

    Args:
        latencies_ms: (n,) of each request; of a failure, until it was known.
        rate_per_s: of the schedule.
        outcomes: of the requests that weren't good.
        statuses: of the answers that weren't 200.
        lag_ms: from schedule to when it was taken up.
        handshake_ms: from then to sending.
        connected: which ones opened a connection.
        stages_ms: told by the target.
        errors: messages.
        cpu_s: of the generator.
    """
    latencies = np.asarray(latencies_ms, np.float64)
    n = len(latencies)
    scheduled = START_NS + (np.arange(n) * (1e9 / rate_per_s)).astype(np.int64)
    outcome = np.full(n, Outcome.GOOD, np.uint8)
    status = np.full(n, 200, np.int16)
    for index, one in (outcomes or {}).items():
        outcome[index] = one
        if one is not Outcome.BAD_BODY:
            status[index] = 0
    for index, one in (statuses or {}).items():
        status[index] = one
    done = scheduled + (latencies * 1e6).astype(np.int64)
    begun = scheduled + (np.broadcast_to(np.asarray(lag_ms), n) * 1e6).astype(np.int64)
    sent = begun + round(handshake_ms * 1e6)
    never = outcome == Outcome.NOT_SENT
    unanswered = np.isin(outcome, [Outcome.TIMEOUT, Outcome.CONNECT_FAILED, Outcome.CUT]) | never
    first = (sent + 0.9 * (done - sent)).astype(np.int64)
    return Recording(
        scheduled_ns=scheduled,
        sent_ns=np.where(never | (outcome == Outcome.CONNECT_FAILED), -1, sent),
        first_byte_ns=np.where(unanswered, -1, first),
        done_ns=done,
        status=status,
        outcome=outcome,
        answer_bytes=np.full(n, 100, np.int64),
        connected=np.array([connected(index) for index in range(n)], np.bool_),
        stages_ms=stages_ms or {},
        errors=errors or {},
        cpu_s=cpu_s,
        begun_ns=np.where(never, -1, begun),
        elapsed_s=float(done.max() - scheduled[0]) / 1e9,
    )


def notes_of(recording: Recording) -> dict[str, int]:
    """The notes, less the one that a busy machine adds to any round."""
    return {what: count for what, count in recording.notes.items() if what != STARVED}
