"""How many worker processes there should be: pure arithmetic."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScaleLimits:
    """From `--workers 0-3 --idle-timeout 5`."""

    least: int
    most: int
    idle_timeout_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or self.most < 1:
            raise ValueError("0 <= least <= most and most >= 1")


def processes_to_start(
    limits: ScaleLimits, *, alive: int, idle_or_starting: int, claimable: int
) -> int:
    """Processes to start now: one for each job that none of the free ones will take.

    `alive` counts every process, busy, idle or starting; the result never takes it above `most`,
    and always up to `least`.
    """
    unserved = max(0, claimable - idle_or_starting)
    wanted = max(limits.least, alive + unserved)
    return max(0, min(limits.most, wanted) - alive)


def processes_to_stop(limits: ScaleLimits, *, alive: int, idle_s: list[float]) -> list[int]:
    """Places in `idle_s` (how long each idle process has been idle) of processes to stop.

    The longest idle first, never below `least`.
    """
    spare = max(0, alive - limits.least)
    over = [place for place, idle in enumerate(idle_s) if idle >= limits.idle_timeout_s]
    return sorted(over, key=lambda place: -idle_s[place])[:spare]
