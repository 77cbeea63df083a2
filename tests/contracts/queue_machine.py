"""A queue beside a small model of it: whatever is asked in whatever order, both say the same."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from visiondyno.executors.queue import Claim, JobQueue, Outcome, QueuedJob, backoff_s
from visiondyno.job import JobState, Policy

LEASE_S, TTL_S, MOST = 3.5, 2.5, 2
"""No sum of whole seconds: the model needn't say what happens at the very moment of a limit."""

IDS = [f"job-{number}" for number in range(6)]


@dataclass
class Modelled:
    """One job as the model has it; `events` are (state, progress)."""

    place: int
    is_low: bool
    ttl_at: float
    events: list[tuple[JobState, Any]] = field(default_factory=list)
    ready_at: float = 0.0
    attempt: int = 0
    token: str | None = None
    lease_until: float = 0.0

    @property
    def state(self) -> JobState:
        return self.events[-1][0]

    def move(self, state: JobState, progress: Any = None) -> None:
        self.events.append((state, progress))

    def end(self, state: JobState) -> None:
        self.token = None
        self.move(state)

    def give_back(self, now_s: float, *, blameless: bool = False) -> None:
        if self.attempt >= MOST and not blameless:
            self.end(JobState.FAILED)
            return
        self.ready_at = now_s + (0.0 if blameless else backoff_s(self.attempt))
        self.attempt -= int(blameless)
        self.token = None
        self.move(JobState.IN_QUEUE)


class QueueMachine(RuleBasedStateMachine):
    """Rules ask the queue and the model; the invariant compares them."""

    open_queue: Callable[[Any], JobQueue]
    make_clock: Callable[[], Any]

    @initialize()
    def start(self) -> None:
        self.clock = type(self).make_clock()
        self.queue = type(self).open_queue(self.clock)
        self.jobs: dict[str, Modelled] = {}
        self.claims: list[Claim] = []
        self.places = 0
        _, self.cursor = self.queue.feed(None)
        self.fed: dict[str, int] = {}

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            self.queue.close()

    @rule(ids=st.lists(st.sampled_from(IDS), max_size=3), low=st.booleans(), mortal=st.booleans())
    def put(self, ids: list[str], low: bool, mortal: bool) -> None:
        policy = Policy(low_priority=low, ttl_ms=round(TTL_S * 1000) if mortal else None)
        self.queue.put([QueuedJob(job_id, "{}", policy, MOST) for job_id in ids])
        for job_id in ids:
            if job_id not in self.jobs:
                self.places += 1
                ttl_at = self.clock() + TTL_S if mortal else float("inf")
                self.jobs[job_id] = Modelled(self.places, low, ttl_at)
                self.jobs[job_id].move(JobState.IN_QUEUE)

    @rule(seconds=st.integers(1, 4))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(count=st.integers(1, 3))
    def claim(self, count: int) -> None:
        found = self.queue.claim([f"w{number}" for number in range(count)], LEASE_S)
        if self.waiting():
            self.expire()
        ready = [(job_id, job) for job_id, job in self.waiting() if job.ready_at <= self.clock()]
        ready.sort(key=lambda pair: (pair[1].is_low, pair[1].place))
        assert [claim.job_id for claim in found] == [job_id for job_id, _ in ready[:count]]
        for claim in found:
            job = self.jobs[claim.job_id]
            job.attempt += 1
            job.token = claim.token
            job.lease_until = self.clock() + LEASE_S
            job.move(JobState.IN_PROGRESS)
            assert claim.attempt == job.attempt
        self.claims += found

    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        if not self.claims:
            return
        chosen = data.draw(st.lists(st.sampled_from(self.claims), unique=True))
        stale = self.queue.renew(chosen, LEASE_S)
        assert stale == [claim for claim in chosen if not self.holds(claim)]
        for claim in chosen:
            if self.holds(claim):
                self.jobs[claim.job_id].lease_until = self.clock() + LEASE_S

    @rule(data=st.data(), number=st.integers())
    def report(self, data: st.DataObject, number: int) -> None:
        if self.claims:
            claim = data.draw(st.sampled_from(self.claims))
            self.queue.report([(claim, json.dumps({"n": number}))])
            if self.holds(claim):
                self.jobs[claim.job_id].move(JobState.IN_PROGRESS, {"n": number})

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        if self.claims:
            claim = data.draw(st.sampled_from(self.claims))
            written = self.queue.finish([(claim, Outcome(JobState.COMPLETED, 1, "{}"))])
            assert written == [self.holds(claim)]
            if self.holds(claim):
                self.jobs[claim.job_id].end(JobState.COMPLETED)

    @rule(data=st.data(), blameless=st.booleans())
    def give_back(self, data: st.DataObject, blameless: bool) -> None:
        if self.claims:
            claim = data.draw(st.sampled_from(self.claims))
            self.queue.give_back(claim, "It died.", blameless=blameless)
            if self.holds(claim):
                self.jobs[claim.job_id].give_back(self.clock(), blameless=blameless)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.jobs:
            job_id = data.draw(st.sampled_from(sorted(self.jobs)))
            self.queue.cancel(job_id)
            if not self.jobs[job_id].state.is_terminal:
                self.jobs[job_id].end(JobState.CANCELLED)

    @rule()
    def sweep(self) -> None:
        self.queue.sweep()
        self.expire()
        for job in self.jobs.values():
            if job.token is not None and job.lease_until < self.clock():
                job.give_back(self.clock())

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "queue"):
            return
        for job_id, job in self.jobs.items():
            events = self.queue.events(job_id)
            assert [event.number for event in events] == list(range(1, len(events) + 1))
            assert [(event.state, event.progress) for event in events] == job.events
            assert [event.answer is not None for event in events] == [
                event.state.is_terminal for event in events
            ]
        counts = self.queue.counts()
        states = [job.state for job in self.jobs.values()]
        assert counts.jobs == {state: states.count(state) for state in JobState}
        assert self.queue.known(IDS) == set(self.jobs)
        self.follow()

    def follow(self) -> None:
        """The feed has each job's events once, in order, and none is left out."""
        events, self.cursor = self.queue.feed(self.cursor)
        for event in events:
            assert event.number == self.fed.get(event.job_id, 0) + 1
            self.fed[event.job_id] = event.number
        assert self.fed == {job_id: len(job.events) for job_id, job in self.jobs.items()}

    def holds(self, claim: Claim) -> bool:
        return self.jobs[claim.job_id].token == claim.token

    def waiting(self) -> list[tuple[str, Modelled]]:
        return [pair for pair in self.jobs.items() if pair[1].state == JobState.IN_QUEUE]

    def expire(self) -> None:
        for _, job in self.waiting():
            if job.attempt == 0 and job.ttl_at < self.clock():
                job.end(JobState.TIMED_OUT)


def check_against_model(
    open_new: Callable[[Any], JobQueue], make_clock: Callable[[], Any], examples: int = 40
) -> None:
    """Raise where the queue and the model differ. `open_new(clock)` opens an empty queue."""

    class Machine(QueueMachine):
        pass

    Machine.open_queue = staticmethod(open_new)  # type: ignore[assignment]
    Machine.make_clock = staticmethod(make_clock)  # type: ignore[assignment]
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=examples, stateful_step_count=30, deadline=None),
    )
