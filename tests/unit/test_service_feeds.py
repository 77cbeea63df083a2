"""Feeds hand on what they have, and say when the store must be read."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.executor_contract import request
from visiondyno.job import JobEvent, JobState
from visiondyno.service import feeds as feeds_module
from visiondyno.service.feeds import Feed, Feeds
from visiondyno.service.job_events import new_record, to_record
from visiondyno.store.records import JobKind, NewJob, RecordedEvent


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


def test_waiting_ends_with_a_change() -> None:
    async def main() -> None:
        feed = Feed(1, 1)
        for change in (lambda: feed.publish(recorded(1)), feed.look, feed.wake):
            assert not feed.is_awaited
            waiting = asyncio.create_task(feed.changed())
            await asyncio.sleep(0)
            assert feed.is_awaited
            change()
            await waiting

    asyncio.run(main())


def test_feeds_of_ended_jobs_are_kept_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds_module, "_TICK_S", 0.001)
    monkeypatch.setattr(feeds_module, "_ENDED_KEPT_S", 0.0)
    monkeypatch.setattr(feeds_module, "_ENDED_KEPT", 3)

    async def main() -> None:
        feeds = Feeds()
        feeds.publish([recorded(1)])  # of a job that nobody watches
        for number in range(5):
            job = NewJob(f"job {number}", "default", JobKind.RUN, request("echo"), 0.0)
            feed = feeds.open(new_record(job))
            assert feeds.get(job.id) is feed
            feeds.drop(job.id, feed)
        assert [feeds.get(f"job {number}") is None for number in range(5)] == [True] * 2 + [
            False
        ] * 3
        while feeds.get("job 4") is not None:
            await asyncio.sleep(0.001)
        await feeds.close()

    asyncio.run(main())


def test_the_first_event_of_a_dispatch_is_the_stores_own() -> None:
    first = JobEvent(job_id="j", number=1, state=JobState.IN_QUEUE)
    later = JobEvent(job_id="j", number=3, state=JobState.IN_QUEUE)
    assert to_record(first, None) is None
    assert to_record(later, None) == later  # its worker died
