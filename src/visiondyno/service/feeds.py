"""Recorded events in memory, for the watchers in this process."""

import asyncio
from collections import deque
from collections.abc import Iterable

from visiondyno.store.records import JobRecord, RecordedEvent

_MOST_KEPT = 1000
"""Events kept of one job; a watcher further behind reads the store."""


class Feed:
    """One open job's newest events, and who waits for more.

    Attributes:
        first_number: of the first event since the job's last retry.
        is_live: this process follows the job's executor: what happens is heard at once.
        is_over: nothing comes here any more; the store knows how the job ended.
        looks: how often the store was found to have events that did not come through here.
        watchers: how many watch it.
    """

    def __init__(self, first_number: int, next_number: int) -> None:
        """`next_number` is of the first event that will come through here."""
        self.first_number = first_number
        self.is_live = False
        self.is_over = False
        self.looks = 0
        self.watchers = 0
        self._next = next_number
        self._events: deque[RecordedEvent] = deque(maxlen=_MOST_KEPT)
        self._waiters: set[asyncio.Future[None]] = set()

    def after(self, number: int) -> list[RecordedEvent] | None:
        """Events above `number`; None if some of them aren't here: read the store."""
        if number + 1 >= self._next:
            return []
        if not self._events or self._events[0].event.number > number + 1:
            return None
        skipped = number + 1 - self._events[0].event.number
        return [self._events[place] for place in range(skipped, len(self._events))]

    def publish(self, recorded: RecordedEvent) -> None:
        """Take the next event; one that isn't the next leaves a gap for the store to fill."""
        if recorded.event.number != self._next:
            self._events.clear()
        self._events.append(recorded)
        self._next = recorded.event.number + 1
        self.wake()

    def look(self) -> None:
        """Tell watchers that the store knows more than this feed."""
        self.looks += 1
        self.wake()

    def wake(self) -> None:
        """Wake whoever waits."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self, timeout_s: float) -> bool:
        """Wait for the next event or `look`; False if none came within `timeout_s`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)
        return waiter.done()


class Feeds:
    """The feeds of jobs that are open and watched or followed in this process."""

    def __init__(self) -> None:
        self._feeds: dict[str, Feed] = {}

    def get(self, job_id: str) -> Feed | None:
        """The job's feed, if it has one."""
        return self._feeds.get(job_id)

    def open(self, record: JobRecord, next_number: int | None = None) -> Feed:
        """The job's feed, made if there is none; by default from after the last event on."""
        feed = self._feeds.get(record.id)
        if feed is None:
            following = record.last_number + 1 if next_number is None else next_number
            feed = self._feeds[record.id] = Feed(record.first_number, following)
        return feed

    def publish(self, recorded: Iterable[RecordedEvent]) -> None:
        """Pass recorded events on."""
        for one in recorded:
            feed = self._feeds.get(one.event.job_id)
            if feed is not None:
                feed.publish(one)

    def look(self, job_id: str) -> None:
        """The store knows more of this job than its feed."""
        feed = self._feeds.get(job_id)
        if feed is not None:
            feed.look()

    def drop(self, job_id: str, feed: Feed) -> None:
        """Forget a feed; those who watch it have it still."""
        if self._feeds.get(job_id) is feed:
            del self._feeds[job_id]
        feed.is_live = False
        feed.is_over = True
        feed.wake()

    def close(self) -> None:
        """Let go of all watchers."""
        for job_id, feed in list(self._feeds.items()):
            self.drop(job_id, feed)
