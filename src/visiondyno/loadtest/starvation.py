"""Did the generator wait for a processor? A closed loop has no schedule that would show it."""

import time
from pathlib import Path

STARVED = "the generator waited for a processor"

SHARE = 0.1
"""Of the round. Beside four busy programs on two cores 64 users waited for 28 % of it, and saw
11.7 ms where 5 were true; 4 users waited for 3 %, and saw 5.2."""

_SCHEDSTAT = Path("/proc/thread-self/schedstat")


def times_ns() -> tuple[int, int] | None:
    """What this thread ran, and what it could have run but waited for a processor, so far.

    None where the kernel doesn't tell (Documentation/scheduler/sched-stats.rst).
    """
    try:
        ran, waited, _ = _SCHEDSTAT.read_text(encoding="ascii").split()
        return int(ran), int(waited)
    except (OSError, ValueError):
        return None


class Starvation:
    """From when it is made on."""

    def __init__(self) -> None:
        self._before = times_ns()
        self._began_ns = time.monotonic_ns()

    def is_seen(self) -> bool:
        """Whether this thread waited for over a tenth of the time, so far."""
        now = times_ns()
        if now is None or self._before is None:
            return False
        return is_starved(now[1] - self._before[1], time.monotonic_ns() - self._began_ns)


def is_starved(waited_ns: int, elapsed_ns: int) -> bool:
    """Whether so much waiting is too much."""
    return elapsed_ns > 0 and waited_ns > SHARE * elapsed_ns
