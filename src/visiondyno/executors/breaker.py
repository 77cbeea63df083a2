"""A circuit breaker: an endpoint that fails again and again gets no new work for a while."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from visiondyno.errors import TransportDown

FAILURES_TO_OPEN = 3
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 60.0


class Unreachable(TransportDown):
    """An endpoint can't be reached, and nothing of what was asked has come to it."""

    code = "unreachable"


class BreakerOpen(Unreachable):
    """An endpoint failed several times in a row and is left alone for a moment."""

    code = "breaker_open"


class BreakerState(StrEnum):
    """CLOSED: requests pass. OPEN: none does. HALF_OPEN: one is under way to try."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerReading:
    """How a breaker stands.

    Attributes:
        state: see there.
        failures: in a row, up to now.
        reason: of the last of them; None where there was none.
        tried_again_in_s: while OPEN, seconds until the next request may try, at least 0.
    """

    state: BreakerState
    failures: int
    reason: str | None
    tried_again_in_s: float | None


class Breaker:
    """Says whether an endpoint gets new work.

    It opens after several failures in a row, and then lets one request at a time try, after a pause
    that doubles with each try in vain. Each pause is drawn evenly from its second half, so that
    many clients don't come back together. Any success closes it. What counts as a failure is the
    caller's to say. Not for use from several threads.

    Args:
        endpoint: its URL, for messages.
        failures_to_open: in a row, at least 1.
        first_pause_s: seconds.
        longest_pause_s: seconds.
        clock: seconds.
        draw: an even number from low to high.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        failures_to_open: int = FAILURES_TO_OPEN,
        first_pause_s: float = _FIRST_PAUSE_S,
        longest_pause_s: float = _LONGEST_PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._endpoint = endpoint
        self._failures_to_open = failures_to_open
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._draw = draw
        self._state = BreakerState.CLOSED
        self._failures = 0
        self._pause_s = first_pause_s
        self._tried_again_s = 0.0
        self._reason: str | None = None
        self._trial = object()

    def reading(self) -> BreakerReading:
        """How it stands now, for displays."""
        in_s = None
        if self._state is BreakerState.OPEN:
            in_s = max(0.0, self._tried_again_s - self._clock())
        return BreakerReading(self._state, self._failures, self._reason, in_s)

    @contextmanager
    def admitted(self) -> Iterator[bool]:
        """Around one request of new work; gives whether it is the one that tries.

        One that tries and ends without a success or a failure leaves the next one to try.

        Raises:
            BreakerOpen: it may not pass.
        """
        if self._state is BreakerState.CLOSED:
            yield False
            return
        wait_s = self._tried_again_s - self._clock()
        if self._state is BreakerState.HALF_OPEN or wait_s > 0:
            raise self._refusal(wait_s)
        self._state = BreakerState.HALF_OPEN
        trial = self._trial = object()
        try:
            yield True
        finally:
            if self._is_trying(trial):
                self._state = BreakerState.OPEN

    def succeeded(self) -> None:
        """The endpoint answered."""
        self._state = BreakerState.CLOSED
        self._failures = 0
        self._pause_s = self._first_pause_s
        self._reason = None

    def failed(self, reason: str) -> None:
        """The endpoint can't be reached or can't serve; `reason` is a sentence."""
        self._failures += 1
        self._reason = reason
        if self._state is BreakerState.OPEN:
            return  # a request from before: no news
        if self._state is BreakerState.HALF_OPEN:
            self._pause_s = min(2 * self._pause_s, self._longest_pause_s)
        elif self._failures < self._failures_to_open:
            return
        self._state = BreakerState.OPEN
        pause_s = self._draw(self._pause_s / 2, self._pause_s)
        self._tried_again_s = self._clock() + pause_s

    def _is_trying(self, trial: object) -> bool:
        return self._state is BreakerState.HALF_OPEN and self._trial is trial

    def _refusal(self, wait_s: float) -> BreakerOpen:
        when = f"in {wait_s:.0f} s" if wait_s >= 1 else "now"
        return BreakerOpen(
            f"{self._endpoint} failed {self._failures} times in a row and gets no new jobs; it is "
            f"tried again {when}. The last failure: {self._reason}"
        )
