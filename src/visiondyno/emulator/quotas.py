"""RunPod's limits on requests: so many in 10 s, and so many at once, for each operation."""

from collections import defaultdict, deque
from collections.abc import Mapping

from visiondyno.executors.throttle import WINDOW_S, Quota


class RequestQuotas:
    """Counts requests by operation. Those that are refused don't count.

    Whether RunPod's window slides or jumps isn't documented; this one slides, which is the
    stricter: what passes here passes there.
    """

    def __init__(self, quotas: Mapping[str, Quota]) -> None:
        self._quotas = quotas
        self._taken: dict[str, deque[float]] = defaultdict(deque)
        self._open: dict[str, int] = defaultdict(int)

    def enter(self, operation: str, now_s: float) -> bool:
        """Whether one more request may begin; if so, `leave` must follow."""
        quota = self._quotas.get(operation)
        if quota is None:
            self._open[operation] += 1
            return True
        taken = self._taken[operation]
        while taken and taken[0] <= now_s - WINDOW_S:
            taken.popleft()
        is_crowded = quota.at_once is not None and self._open[operation] >= quota.at_once
        if is_crowded or len(taken) >= quota.requests:
            return False
        taken.append(now_s)
        self._open[operation] += 1
        return True

    def leave(self, operation: str) -> None:
        """A request that was let in has ended."""
        self._open[operation] -= 1
