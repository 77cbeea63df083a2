"""The two kinds of load: an open loop sends by its schedule, a closed one after each answer."""

import heapq
import time
from typing import Any

from visiondyno.loadtest.recording import Outcome
from visiondyno.loadtest.schedule import MOST_REQUESTS
from visiondyno.loadtest.sending import NEVER_NS, Sender
from visiondyno.specs.load_test import ClosedLoad

AFTER_NO_CONNECTION_S = 0.1
"""A user who got no connection pauses: a target that refuses would be asked without a break."""

TOO_MANY = f"the round ended early: it holds {MOST_REQUESTS:,} requests"
_MOST_AT_ONCE = 32
"""Requests sent before answers are looked at again, where many are late."""


class OpenLoop(Sender):
    """Sends each row at its `scheduled_ns`, whatever became of those before."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._due_ns: list[int] = self.rows.scheduled_ns[: self.rows.count].tolist()
        self._next = 0

    def _send_due(self, now_ns: int) -> None:
        due_ns, row = self._due_ns, self._next
        end = min(row + _MOST_AT_ONCE, len(due_ns))
        while row < end and due_ns[row] <= now_ns:
            self._next = row + 1
            self.take_up(row)
            row += 1
            if row < end and due_ns[row] > now_ns:
                now_ns = time.monotonic_ns()

    def _next_due_ns(self) -> int:
        return self._due_ns[self._next] if self._next < len(self._due_ns) else NEVER_NS

    def _last_due_ns(self) -> int:
        return self._due_ns[-1]

    def _ended(self, row: int, outcome: Outcome) -> None:
        """Nothing depends on answers."""

    def _is_over(self) -> bool:
        return self._next == len(self._due_ns)

    def _drop_the_rest(self) -> None:
        del self._due_ns[self._next :]


class ClosedLoop(Sender):
    """So many users, each sending its next request some time after the answer to its last.

    Args:
        load: users, pauses, duration and number of requests of this process.
        start_ns: when all users begin.
        args, options: those of `Sender`.
    """

    def __init__(self, load: ClosedLoad, start_ns: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._users = load.concurrency
        self._think_ns = round(load.think_time_s * 1e9)
        self._end_ns = start_ns + round(load.duration_s * 1e9)
        self._left = MOST_REQUESTS if load.requests is None else load.requests
        self._is_bounded = load.requests is not None
        self._pausing = [start_ns] * load.concurrency
        """When users who pause send their next request: a heap."""

    def _send_due(self, now_ns: int) -> None:
        if now_ns >= self._end_ns:
            self._drop_the_rest()
        at_once = 0
        while self._pausing and self._pausing[0] <= now_ns and at_once < _MOST_AT_ONCE:
            heapq.heappop(self._pausing)
            at_once += 1
            self._next_request()

    def _next_request(self) -> None:
        if not self._left and not self._is_bounded:
            self.rows.note(TOO_MANY)
        now_ns = time.monotonic_ns()
        if self._is_stopped or not self._left or now_ns >= self._end_ns:
            self._users -= 1
            return
        self._left -= 1
        self.take_up(self.rows.add(now_ns))

    def _ended(self, row: int, outcome: Outcome) -> None:  # noqa: ARG002 - the base's
        if self._is_stopped:
            self._users -= 1
            return
        pause_ns = self._think_ns
        if outcome is Outcome.CONNECT_FAILED:
            pause_ns = max(pause_ns, round(AFTER_NO_CONNECTION_S * 1e9))
        if not pause_ns:
            self._next_request()
            return
        moment_ns = time.monotonic_ns() + pause_ns
        heapq.heappush(self._pausing, moment_ns)
        if moment_ns < self._armed_ns:
            self._arm()

    def _next_due_ns(self) -> int:
        if not self._users:
            return NEVER_NS
        return min(self._pausing[0], self._end_ns) if self._pausing else self._end_ns

    def _last_due_ns(self) -> int:
        return self._end_ns

    def _is_over(self) -> bool:
        return not self._users

    def _drop_the_rest(self) -> None:
        self._users -= len(self._pausing)
        self._pausing.clear()
