"""Recorded events in memory, for the watchers in this process."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable

from visiondyno.store.records import JobRecord, RecordedEvent

_MOST_KEPT = 1000
"""Events kept of one job; a watcher further behind reads the store."""
_TICK_S = 0.5
"""How often the store is read for a watched job that another process follows."""
_TICKS_LIVE = 60
"""Ticks between two such reads for a job that is followed here, should a wake have been missed."""
_ENDED_KEPT = 2000
_ENDED_KEPT_S = 1.0
"""An ended job's events are kept so long for the watcher that comes right after its submission."""


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

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiters)

    async def changed(self) -> None:
        """Wait for the next event or `look`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)


class Feeds:
    """The feeds of jobs that are open and watched or followed in this process."""

    def __init__(self) -> None:
        self._feeds: dict[str, Feed] = {}
        self._ended: OrderedDict[str, tuple[Feed, float]] = OrderedDict()
        self._ticking: asyncio.Task[None] | None = None

    def get(self, job_id: str) -> Feed | None:
        """The job's feed: of an open job, or of one that has just ended."""
        feed = self._feeds.get(job_id)
        if feed is None and job_id in self._ended:
            return self._ended[job_id][0]
        return feed

    def open(self, record: JobRecord, next_number: int | None = None) -> Feed:
        """The job's feed, made if there is none; by default from after the last event on."""
        feed = self._feeds.get(record.id)
        if feed is None:
            following = record.last_number + 1 if next_number is None else next_number
            feed = self._feeds[record.id] = Feed(record.first_number, following)
            self._ended.pop(record.id, None)
        return feed

    def publish(self, recorded: Iterable[RecordedEvent]) -> None:
        """Pass recorded events on."""
        for one in recorded:
            feed = self._feeds.get(one.event.job_id)
            if feed is not None:
                feed.publish(one)

    def wake(self) -> None:
        """Wake all watchers."""
        for feed in self._feeds.values():
            feed.wake()

    def look(self, job_id: str) -> None:
        """The store knows more of this job than its feed."""
        feed = self._feeds.get(job_id)
        if feed is not None:
            feed.look()

    def drop(self, job_id: str, feed: Feed) -> None:
        """Forget a feed a moment later; those who watch it have it still."""
        feed.is_live = False
        feed.is_over = True
        feed.wake()
        if self._feeds.get(job_id) is feed:
            del self._feeds[job_id]
            self._ended[job_id] = feed, asyncio.get_running_loop().time()
            if len(self._ended) > _ENDED_KEPT:
                self._ended.popitem(last=False)
            self.tick()

    def tick(self) -> None:
        """Let waiting watchers look at the store now and then, as long as there is any feed."""
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick_always())

    async def close(self) -> None:
        """Let go of all watchers."""
        for job_id, feed in list(self._feeds.items()):
            self.drop(job_id, feed)
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)

    async def _tick_always(self) -> None:
        ticks = 0
        while self._feeds or self._ended:
            await asyncio.sleep(_TICK_S)
            ticks += 1
            for feed in list(self._feeds.values()):
                if feed.is_awaited and (not feed.is_live or ticks % _TICKS_LIVE == 0):
                    feed.look()
            old = asyncio.get_running_loop().time() - _ENDED_KEPT_S
            while self._ended and next(iter(self._ended.values()))[1] < old:
                self._ended.popitem(last=False)
        self._ticking = None
