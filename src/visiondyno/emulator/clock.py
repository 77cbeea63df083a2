"""The endpoint's time, which may run faster than ours."""

import math
import time
from collections.abc import Callable

from visiondyno.errors import SpecError


class ScaledClock:
    """Seconds since it was made, times `speed`.

    Args:
        speed: how many of its seconds pass in one of ours.
        clock: our seconds.

    Raises:
        SpecError: `speed` isn't above 0.
    """

    def __init__(self, speed: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        if not (math.isfinite(speed) and speed > 0):
            raise SpecError(f"The speed must be a number above 0; got {speed}.")
        self.speed = speed
        self._clock = clock
        self._began = clock()

    def __call__(self) -> float:
        return (self._clock() - self._began) * self.speed

    def real_s(self, seconds: float) -> float:
        """So many of its seconds in ours."""
        return seconds / self.speed
