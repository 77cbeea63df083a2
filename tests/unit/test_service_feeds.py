"""Feeds hand on what they have, and say when the store must be read."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from visiondyno.job import JobEvent, JobState
from visiondyno.service.feeds import Feed
from visiondyno.service.job_events import to_record
from visiondyno.store.records import RecordedEvent


def recorded(number: int) -> RecordedEvent:
    return RecordedEvent(JobEvent(job_id="j", number=number, state=JobState.IN_PROGRESS), 0.0)


@given(
    start=st.integers(1, 5),
    gaps=st.lists(st.sampled_from([1, 1, 1, 2, 5]), max_size=30),
    after=st.integers(0, 80),
)
def test_a_feed_never_skips_an_event(start: int, gaps: list[int], after: int) -> None:
    feed, number, published = Feed(1, start), start - 1, []
    for gap in gaps:
        number += gap
        published.append(number)
        feed.publish(recorded(number))
    found = feed.after(after)
    if found is None:
        assert number > after  # something is there, and the store knows what
    else:
        assert [one.event.number for one in found] == list(range(after + 1, number + 1))
        assert {one.event.number for one in found} <= set(published)


def test_a_feed_keeps_the_newest_events_only() -> None:
    feed = Feed(1, 1)
    for number in range(1, 1502):
        feed.publish(recorded(number))
    assert feed.after(0) is None
    assert feed.after(500) is None
    assert [one.event.number for one in feed.after(501) or []] == list(range(502, 1502))


def test_waiting_ends_with_a_change_or_with_the_time() -> None:
    async def main() -> None:
        feed = Feed(1, 1)
        assert not await feed.changed(0.001)
        waiting = asyncio.create_task(feed.changed(60))
        await asyncio.sleep(0)
        feed.publish(recorded(1))
        assert await waiting
        waiting = asyncio.create_task(feed.changed(60))
        await asyncio.sleep(0)
        feed.look()
        assert await waiting

    asyncio.run(main())


def test_the_first_event_of_a_dispatch_is_the_stores_own() -> None:
    first = JobEvent(job_id="j", number=1, state=JobState.IN_QUEUE)
    later = JobEvent(job_id="j", number=3, state=JobState.IN_QUEUE)
    assert to_record(first, None) is None
    assert to_record(later, None) == later  # its worker died
