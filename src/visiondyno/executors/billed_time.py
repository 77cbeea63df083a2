"""Time that is billed from a beginning to an end, in whole seconds."""

import math
from bisect import bisect_left, bisect_right


class BilledTime:
    """Spans of one worker's time, of which those that touch are one.

    Attributes:
        length_s: of all spans together, seconds.
        billed_s: the same with each span rounded up to whole seconds.
    """

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._ends: list[float] = []
        self.length_s = 0.0
        self.billed_s = 0

    def add(self, start_s: float, end_s: float) -> None:
        """Add a span; one without length adds nothing."""
        if end_s <= start_s:
            return
        first, last = bisect_left(self._ends, start_s), bisect_right(self._starts, end_s)
        touched = list(zip(self._starts[first:last], self._ends[first:last], strict=True))
        if touched:
            start_s, end_s = min(start_s, touched[0][0]), max(end_s, touched[-1][1])
        self.length_s += end_s - start_s - sum(end - start for start, end in touched)
        self.billed_s += rounded_up_s(end_s - start_s)
        self.billed_s -= sum(rounded_up_s(end - start) for start, end in touched)
        self._starts[first:last] = [start_s]
        self._ends[first:last] = [end_s]

    def copy(self) -> "BilledTime":
        """Another with the same spans."""
        other = BilledTime()
        other._starts, other._ends = self._starts.copy(), self._ends.copy()
        other.length_s, other.billed_s = self.length_s, self.billed_s
        return other


def rounded_up_s(length_s: float) -> int:
    """Whole seconds, as RunPod bills them; a microsecond too many doesn't count."""
    return math.ceil(round(length_s, 6))
