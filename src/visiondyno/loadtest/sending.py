"""The connections of one round and the requests on them; when requests come is the loops' matter.

Every request that is taken up ends: with an answer, with a failure, or at its time limit. A
connection that the target closed while it was idle may not be known to be closed when the next
request is written to it; that request is sent once more on a new connection, as browsers do, and
the round's notes count it. A request that the target had for longer before it closed may have been
worked on (RFC 9110, section 9.2.2), so that one has failed.
"""

import abc
import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import dataclass

from visiondyno.loadtest.connection import KEPT_BODY_BYTES, Connection
from visiondyno.loadtest.dialling import Dialler, NoConnection
from visiondyno.loadtest.recording import Outcome
from visiondyno.loadtest.rows import Rows
from visiondyno.loadtest.targets import PreparedTarget
from visiondyno.loadtest.timer import Timer

NEVER_NS = sys.maxsize
RESENT = "sent again on a new connection, since the target had closed the idle one"
STOPPED = "the test was stopped before the answer"
CROSSED_NS = 20_000_000
"""A close that was on its way when a request was sent is here so soon, and a round trip later. The
opening of a connection took one at least."""
GRACE_S = 1.0
"""How long answers are waited for after a stop."""


@dataclass(frozen=True, slots=True)
class Share:
    """Which requests are this process's: every `count`-th one from `index` on."""

    index: int = 0
    count: int = 1


class Sender(abc.ABC):
    """Takes up requests by their row, and sees each of them to its end.

    Args:
        target: whom to ask.
        rows: where what becomes of requests is written.
        dialler: of new connections.
        timeout_s: from the sending (or the begin of connecting) to the whole answer.
        connections: the most at once; None: no limit.
        share: of the requests.
        loop: the running loop.

    Attributes:
        finished: done when the last request has ended.
        begun: requests taken up and not waiting for a connection.
        stopped_ns: when it was stopped; None: it wasn't.
    """

    def __init__(
        self,
        target: PreparedTarget,
        rows: Rows,
        dialler: Dialler,
        *,
        timeout_s: float,
        connections: int | None,
        share: Share,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.rows = rows
        self.finished: asyncio.Future[None] = loop.create_future()
        self.timer = Timer(self._tick, loop)
        self._target, self._dialler, self._loop = target, dialler, loop
        self._timeout_s, self._timeout_ns = timeout_s, round(timeout_s * 1e9)
        self._limit, self._share = connections, share
        self._keeps_body = target.expect_json_key is not None
        self._open: set[Connection] = set()
        """Connections, and those that are being opened."""
        self._dials: dict[Connection, asyncio.Task[None]] = {}
        self._idle: dict[Connection, None] = {}
        self._active: dict[int, Connection] = {}
        self._waiting: deque[int] = deque()
        self._deadlines: deque[tuple[int, int]] = deque()
        """(moment, row) in order; rows that have ended since are passed over."""
        self._resent: set[int] = set()
        self._armed_ns = NEVER_NS
        self.begun = 0
        self.stopped_ns: int | None = None

    # What a loop says.

    @abc.abstractmethod
    def _send_due(self, now_ns: int) -> None:
        """Take up what is due."""

    @abc.abstractmethod
    def _next_due_ns(self) -> int:
        """When something is due next; `NEVER_NS` if nothing will be."""

    @abc.abstractmethod
    def _last_due_ns(self) -> int:
        """When the last request is due; what waits for a connection so much later isn't sent."""

    @abc.abstractmethod
    def _ended(self, row: int, outcome: Outcome) -> None:
        """A request has its end."""

    @abc.abstractmethod
    def _is_over(self) -> bool:
        """Whether no more requests will come."""

    @abc.abstractmethod
    def _drop_the_rest(self) -> None:
        """Never take up what wasn't."""

    @property
    def _is_stopped(self) -> bool:
        return self.stopped_ns is not None

    # What the round does.

    def begin(self) -> None:
        """Wait for the first request's moment."""
        self._arm()
        self._look_whether_finished()

    def stop(self) -> None:
        """Send nothing more; wait a little for answers, and finish."""
        if self._is_stopped:
            return
        self.stopped_ns = time.monotonic_ns()
        self._waiting.clear()
        self._drop_the_rest()
        self._loop.call_later(min(GRACE_S, self._timeout_s), self._abandon)
        self._look_whether_finished()

    def fail(self, error: Exception) -> None:
        """End the round with an error."""
        if not self.finished.done():
            self.finished.set_exception(error)

    async def close(self) -> None:
        """Close every connection, and wait until they are."""
        self.timer.close()
        for connection in tuple(self._open):
            self._give_up(connection)
        if self._dials:
            await asyncio.gather(*self._dials.values(), return_exceptions=True)
        for _ in range(100):
            if not self._open:
                break
            await asyncio.sleep(0)

    def take_up(self, row: int) -> None:
        """Send a request now, on an idle connection, a new one, or when one comes free."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.is_open:
                self._send(connection, row)
                return
        if self._limit is None or len(self._open) < self._limit:
            self._begin(row)
            self._dial(row)
        else:
            self._waiting.append(row)

    def _send(self, connection: Connection, row: int) -> None:
        self._begin(row)
        self._active[row] = connection
        connection.send(row, self._request(row))

    def _request(self, row: int) -> bytes:
        requests = self._target.requests
        number = self._share.index + row * self._share.count
        return requests[number % len(requests)]

    def _begin(self, row: int) -> None:
        self.begun += 1
        now_ns = time.monotonic_ns()
        self.rows.begun_ns[row] = now_ns
        deadlines, active = self._deadlines, self._active
        while deadlines and deadlines[0][1] not in active:
            deadlines.popleft()
        deadlines.append((now_ns + self._timeout_ns, row))
        if self._armed_ns > now_ns + self._timeout_ns:
            self._arm()

    def _dial(self, row: int) -> None:
        connection = Connection(
            self, head_only=self._target.answers_head, keeps_body=self._keeps_body
        )
        connection.row = row
        connection.connect_ns = -time.monotonic_ns()
        self._active[row] = connection
        self._open.add(connection)
        self._dials[connection] = self._loop.create_task(self._dialled(connection))

    async def _dialled(self, connection: Connection) -> None:
        try:
            await self._dialler.dial(connection)
        except NoConnection as error:
            if connection in self._dials:
                row, connection.row = connection.row, -1
                self._end(row, Outcome.CONNECT_FAILED, str(error), connection)
        finally:
            # A connection that was made tells itself when it is lost.
            if self._dials.pop(connection, None) is not None:
                self._open.discard(connection)
                self._serve_waiting()

    # What connections tell.

    def connected(self, connection: Connection) -> None:
        del self._dials[connection]
        row = connection.row
        if row < 0:  # given up a moment ago
            connection.give_up()
            return
        connection.connect_ns += time.monotonic_ns()
        self.rows.connected[row] = True
        connection.send(row, self._request(row))

    def answered(self, connection: Connection) -> None:
        row = connection.row
        del self._active[row]
        outcome, why = self._judged(connection)
        self.rows.answer(connection, outcome, why)
        connection.row = -1
        if not connection.is_reusable or self._target.closes:
            connection.give_up()
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle[connection] = None
        self._after(row, outcome)

    def broke(self, connection: Connection, why: str) -> None:
        row, connection.row = connection.row, -1
        if _was_stale(connection) and row not in self._resent and not self._is_stopped:
            self._resent.add(row)
            self.rows.note(RESENT)
            self._dial(row)
        else:
            self._end(row, Outcome.CUT, why, connection)

    def lost(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        self._open.discard(connection)
        self._serve_waiting()

    # Ends.

    def _judged(self, connection: Connection) -> tuple[Outcome, str | None]:
        expected = self._target.expect_status
        status = connection.status
        if not (200 <= status < 300 if expected is None else status in expected):
            return Outcome.BAD_STATUS, f"HTTP {status}"
        why = self._wrong_body(connection) if self._keeps_body else None
        return (Outcome.BAD_BODY, why) if why else (Outcome.GOOD, None)

    def _wrong_body(self, connection: Connection) -> str | None:
        key = self._target.expect_json_key
        if connection.body_bytes > KEPT_BODY_BYTES:
            return f"the body is over {KEPT_BODY_BYTES >> 20} MiB, so '{key}' wasn't looked for"
        try:
            found = json.loads(connection.body)
        except (ValueError, RecursionError):
            return "the body is no JSON"
        if isinstance(found, dict) and key in found:
            return None
        return f"the body is no JSON object with the key '{key}'"

    def _end(self, row: int, outcome: Outcome, why: str, connection: Connection | None) -> None:
        self._active.pop(row, None)
        self.rows.end(row, outcome, why, connection)
        self._after(row, outcome)

    def _after(self, row: int, outcome: Outcome) -> None:
        self._ended(row, outcome)
        self._look_whether_finished()

    def _look_whether_finished(self) -> None:
        idle = not self._active and not self._waiting
        if idle and self._is_over() and not self.finished.done():
            self.finished.set_result(None)

    def _give_up(self, connection: Connection) -> None:
        connection.give_up()
        dial = self._dials.get(connection)
        if dial is not None:
            dial.cancel()

    def _serve_waiting(self) -> None:
        while self._waiting and (self._limit is None or len(self._open) < self._limit):
            row = self._waiting.popleft()
            self._begin(row)
            self._dial(row)

    def _abandon(self) -> None:
        for row, connection in tuple(self._active.items()):
            self._end(row, Outcome.NOT_SENT, STOPPED, connection)
            self._give_up(connection)

    # Time.

    def _tick(self) -> None:
        now_ns = time.monotonic_ns()
        self._armed_ns = 0  # armed below, once
        self._send_due(now_ns)
        self._expire(now_ns)
        self._arm()
        self._look_whether_finished()

    def _arm(self) -> None:
        moment_ns = self._next_due_ns()
        if self._deadlines:
            moment_ns = min(moment_ns, self._deadlines[0][0])
        if self._waiting:
            moment_ns = min(moment_ns, self._last_due_ns() + self._timeout_ns)
        self._armed_ns = moment_ns
        if moment_ns < NEVER_NS:
            self.timer.arm(moment_ns)

    def _expire(self, now_ns: int) -> None:
        deadlines, active = self._deadlines, self._active
        while deadlines and (deadlines[0][0] <= now_ns or deadlines[0][1] not in active):
            row = deadlines.popleft()[1]
            connection = active.get(row)
            if connection is not None:
                what = "connection" if connection in self._dials else "whole answer"
                why = f"no {what} within {self._timeout_s:g} s"
                self._end(row, Outcome.TIMEOUT, why, connection)
                self._give_up(connection)
        if self._waiting and now_ns >= self._last_due_ns() + self._timeout_ns:
            why = f"none of the {self._limit} connections came free within {self._timeout_s:g} s"
            while self._waiting:
                self._end(self._waiting.popleft(), Outcome.TIMEOUT, why, None)


def _was_stale(connection: Connection) -> bool:
    """Whether the target closed the connection before it can have had the request for long."""
    if connection.answers == 0 or connection.first_byte_ns >= 0:
        return False
    since_ns = 0 if connection.sent_ns < 0 else time.monotonic_ns() - connection.sent_ns
    return since_ns <= CROSSED_NS + connection.connect_ns
