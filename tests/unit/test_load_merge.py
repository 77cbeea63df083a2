"""Recordings of several generator processes put together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.loadtest.connection import Connection
from visiondyno.loadtest.processes import merged
from visiondyno.loadtest.recording import Outcome, Recording
from visiondyno.loadtest.rows import Rows


def ended(rows: Rows, row: int, done_ns: int) -> None:
    rows.done_ns[row] = done_ns
    rows.outcome[row] = Outcome.GOOD


def recorded(scheduled_ns: list[int], stage: str | None, cpu_s: float) -> Recording:
    rows = Rows(np.array(scheduled_ns, np.int64))
    for row, moment_ns in enumerate(scheduled_ns):
        ended(rows, row, moment_ns + 7)
        rows.status[row] = moment_ns % 600
        if stage:
            rows._told(row, f"{stage};dur={moment_ns}".encode())
    rows.note("noted")
    rows.errors["failed"] = len(scheduled_ns)
    return rows.recording(cpu_s)


moments = st.lists(st.integers(0, 10**6), max_size=30, unique=True)


@given(moments, st.integers(1, 4), st.booleans())
def test_what_was_divided_comes_together_in_order(all_ns: list[int], k: int, told: bool) -> None:
    all_ns = sorted(all_ns)
    parts = [
        recorded(all_ns[index::k], f"stage{index % 2}" if told else None, 0.5) for index in range(k)
    ]
    whole = merged(parts)
    assert whole.scheduled_ns.tolist() == all_ns
    assert whole.done_ns.tolist() == [moment_ns + 7 for moment_ns in all_ns]
    assert whole.status.tolist() == [moment_ns % 600 for moment_ns in all_ns]
    assert whole.cpu_s == 0.5 * k
    assert whole.errors == {"failed": len(all_ns)}
    assert whole.notes == {"noted": k}
    assert whole.elapsed_s * 1e9 == (
        np.float64(all_ns[-1] + 7 - all_ns[0]) if all_ns else 0
    ) or np.isclose(whole.elapsed_s * 1e9, all_ns[-1] + 7 - all_ns[0])
    if told and all_ns:
        told_ms = np.nanmax(np.stack(list(whole.stages_ms.values())), axis=0)
        assert told_ms.tolist() == all_ns


def test_messages_and_stages_are_bounded() -> None:
    rows = Rows(np.zeros(100, np.int64))
    for number in range(100):
        rows.end(number, Outcome.CUT, f"failure {number}", None)
        rows._told(number, f"stage{number};dur=1".encode())
    recording = rows.recording(0.0)
    assert len(recording.errors) == 31
    assert recording.errors["other failures"] == 70
    assert next(iter(recording.errors)) == "other failures"
    assert len(recording.stages_ms) == 32


def test_a_connection_that_is_given_up_before_it_was_made_has_nothing_to_close() -> None:
    class Nobody:
        def connected(self, connection: Connection) -> None: ...
        def answered(self, connection: Connection) -> None: ...
        def broke(self, connection: Connection, why: str) -> None: ...
        def lost(self, connection: Connection) -> None: ...

    connection = Connection(Nobody())
    assert not connection.is_open
    connection.give_up()
    assert connection.row == -1
