"""The roofline model (Williams, Waterman, Patterson 2009): what a machine allows an operator.

An operator does `flop` operations on `bytes` of memory traffic; their ratio is its arithmetic
intensity. It can't be faster than the processor computes, nor than memory delivers:
attainable = min(peak, intensity × bandwidth).
"""

from dataclasses import dataclass
from typing import Literal

Limit = Literal["compute", "memory"]


@dataclass(frozen=True, slots=True)
class Roofline:
    """A machine's two limits.

    Attributes:
        flop_per_s: operations a second, > 0.
        bytes_per_s: memory traffic, > 0.
    """

    flop_per_s: float
    bytes_per_s: float

    @property
    def ridge(self) -> float:
        """Operations a byte from which on computing is the limit."""
        return self.flop_per_s / self.bytes_per_s

    def attainable_flop_per_s(self, intensity: float) -> float:
        """The most at this intensity, operations a byte."""
        return min(self.flop_per_s, intensity * self.bytes_per_s)

    def limit(self, intensity: float) -> Limit:
        """Which of the two binds."""
        return "compute" if intensity >= self.ridge else "memory"


@dataclass(frozen=True, slots=True)
class Attained:
    """How near an operator came to what binds it; None for what can't be known.

    Attributes:
        intensity: operations a byte.
        flop_per_s: operations a second.
        bytes_per_s: the least traffic that it needs, a second.
        limit: what binds it.
        share: of that limit. Above 1 where data came from a cache and not from memory.
    """

    intensity: float | None = None
    flop_per_s: float | None = None
    bytes_per_s: float | None = None
    limit: Limit | None = None
    share: float | None = None


def attained(
    flop: int | None, moved_bytes: int | None, seconds: float, roofline: Roofline | None
) -> Attained:
    """What an operator reached, and of which limit.

    Args:
        flop: of it; None: not counted.
        moved_bytes: of it; None: unknown.
        seconds: it took.
        roofline: of the machine in the operator's own precision; None where it wasn't measured.
    """
    if seconds <= 0:
        return Attained()
    flop_rate = None if flop is None else flop / seconds
    byte_rate = None if moved_bytes is None else moved_bytes / seconds
    if flop is None or not moved_bytes:
        return Attained(None, flop_rate, byte_rate)
    intensity = flop / moved_bytes
    if roofline is None:
        return Attained(intensity, flop_rate, byte_rate)
    limit = roofline.limit(intensity)
    least_s = max(flop / roofline.flop_per_s, moved_bytes / roofline.bytes_per_s)
    return Attained(intensity, flop_rate, byte_rate, limit, least_s / seconds)
