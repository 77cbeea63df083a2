"""How many jobs ended lately, counted as they end."""

import time
from collections import deque
from collections.abc import Callable

from visiondyno.store.records import JobRecord, RecordedEvent

BUCKET_S = 10
"""One bar of the chart, seconds."""

BUCKETS = 60
"""Bars: the last ten minutes."""


class Throughput:
    """Jobs that ended in each `BUCKET_S` of the last `BUCKET_S * BUCKETS`.

    Counts what this server process recorded since it started, and says since when: of earlier
    times nothing is known, which is not 0.

    Attributes:
        since: when counting began, seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._counts: deque[tuple[int, int]] = deque(maxlen=BUCKETS + 1)
        self.since = clock()

    async def note(self, job: JobRecord, event: RecordedEvent) -> None:  # noqa: ARG002 - any listener's
        """Count one ended job (a listener of `JobService.on_recorded`)."""
        bucket = int(self._clock() // BUCKET_S)
        if self._counts and self._counts[-1][0] == bucket:
            self._counts[-1] = (bucket, self._counts[-1][1] + 1)
        else:
            self._counts.append((bucket, 1))

    def bars(self) -> list[int | None]:
        """The counts of the `BUCKETS` last whole buckets, oldest first; None before `since`."""
        last = int(self._clock() // BUCKET_S) - 1
        first_known = int(self.since // BUCKET_S)
        counts = dict(self._counts)
        return [
            counts.get(bucket, 0) if bucket >= first_known else None
            for bucket in range(last - BUCKETS + 1, last + 1)
        ]

    def counted_s(self) -> float:
        """How many seconds of the window were counted."""
        return min(self._clock() - self.since, BUCKET_S * BUCKETS)

    def ended(self) -> int:
        """Jobs that ended inside the window, the running bucket too."""
        oldest = int(self._clock() // BUCKET_S) - BUCKETS
        return sum(count for bucket, count in self._counts if bucket >= oldest)
