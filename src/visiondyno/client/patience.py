"""How long a client asks again where a transport fails or wants fewer requests."""

import time
from collections.abc import Awaitable, Callable

from visiondyno.errors import RateLimited, TransportDown

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Between attempts; together a quarter of a minute."""
_LONGEST_WAIT_S = 60.0


class Patience:
    """One question's attempts: at most six, and none that begins after a quarter of a minute.

    An executor that asks again itself may take that long for one attempt. Time that a server asked
    to wait for doesn't count.

    Args:
        sleep: waits so many seconds.
        clock: seconds.
    """

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._clock = clock
        self._failures = 0
        self._since_s: float | None = clock()

    def renew(self) -> None:
        """It went well: what fails from now on is another trouble, that begins when it is seen."""
        self._failures, self._since_s = 0, None

    async def pause(self, error: TransportDown | RateLimited) -> None:
        """Wait before the next attempt.

        Raises:
            TransportDown, RateLimited: `error`, where it was asked for long enough.
        """
        now_s = self._clock()
        if self._since_s is None or isinstance(error, RateLimited):
            self._since_s = now_s
        if self._failures == len(PAUSES_S) or now_s - self._since_s >= sum(PAUSES_S):
            raise error
        asked_s = getattr(error, "retry_after_s", None) or 0.0
        await self._sleep(max(PAUSES_S[self._failures], min(asked_s, _LONGEST_WAIT_S)))
        self._failures += 1
