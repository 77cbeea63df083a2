"""The emulated endpoint as a state machine, driven at random against a model of its promises."""

import math
from collections.abc import Iterable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from visiondyno.emulator.config import EndpointConfig, Kind, Scaler
from visiondyno.emulator.endpoint import Endpoint
from visiondyno.emulator.fleet import KillWorker, StartWorker, TerminateWorker
from visiondyno.emulator.records import ABSENT, WorkerState
from visiondyno.errors import Conflict, NotFound
from visiondyno.job import JobState

MOST_WORKERS = 3
GRACE_S = 10.0


class EndpointMachine(RuleBasedStateMachine):
    jobs = Bundle("jobs")
    workers = Bundle("workers")

    @initialize(
        scaler=st.sampled_from(Scaler), least=st.integers(0, 2), max_retries=st.integers(0, 2)
    )
    def make(self, scaler: Scaler, least: int, max_retries: int) -> None:
        names = (f"worker-{n}" for n in range(10_000))
        config = EndpointConfig(
            workers_min=least,
            workers_max=MOST_WORKERS,
            scaler=scaler,
            max_retries=max_retries,
            stop_grace_s=GRACE_S,
            ttl_s=900.0,
        )
        self.endpoint = Endpoint(config, lambda: next(names))
        self.now_s = 0.0
        self.seen: dict[str, tuple[JobState, Any, int]] = {}
        self.started_s: dict[str, float] = {}
        self.ended_s: dict[str, float] = {}
        self.to_end: dict[str, float] = {}
        self.advance()

    def advance(self) -> None:
        for order in self.endpoint.advance(self.now_s):
            match order:
                case StartWorker(worker_id):
                    self.started_s[worker_id] = self.now_s
                case TerminateWorker(worker_id):
                    assert worker_id not in self.to_end, "told to end once"
                    self.to_end[worker_id] = self.now_s
                case KillWorker(worker_id):
                    self.leave(worker_id)
        assert self.endpoint.next_deadline_s(self.now_s) > self.now_s

    def leave(self, worker_id: str) -> None:
        if worker_id not in self.ended_s:
            self.ended_s[worker_id] = self.now_s
            self.endpoint.worker_left(worker_id, self.now_s)

    @rule(
        target=jobs,
        kind=st.sampled_from(Kind),
        low=st.booleans(),
        timeout_ms=st.sampled_from([None, 5000, 20_000]),
        ttl_ms=st.sampled_from([None, 10_000, 60_000]),
    )
    def submit(self, kind: Kind, low: bool, timeout_ms: int | None, ttl_ms: int | None) -> str:
        policy = {"executionTimeout": timeout_ms, "ttl": ttl_ms, "lowPriority": low}
        job = self.endpoint.submit({"input": {}, "policy": policy}, kind, self.now_s)
        self.advance()
        return job.id

    @rule(target=workers)
    def see_workers(self) -> Any:
        return multiple(*(set(self.started_s) - set(self.ended_s)))

    @rule(worker=workers, most=st.integers(1, 3), says_busy=st.booleans())
    def ask(self, worker: str, most: int, says_busy: bool) -> None:
        waiting = [job.id for job in self.endpoint.jobs.waiting()]
        try:
            given = self.endpoint.take(worker, most, self.now_s, says_busy=says_busy)
        except NotFound:
            assert worker in self.ended_s
            return
        assert len(given) <= most
        assert [job["id"] for job in given] == waiting[: len(given)], "in order, and once"
        assert not (given and worker in self.to_end), "who is to end gets nothing more"
        self.advance()

    @rule(worker=workers, job=jobs, fails=st.booleans(), stops=st.booleans())
    def answer(self, worker: str, job: str, fails: bool, stops: bool) -> None:
        held = self.state_of(job) is JobState.IN_PROGRESS and (
            worker in self.endpoint.jobs.find(job).holders
        )
        said = {"error" if fails else "output": f"by {worker}", "stopPod": stops}
        assert self.endpoint.finish(worker, job, said, 10, self.now_s) == held
        if held:
            assert self.state_of(job) == (JobState.FAILED if fails else JobState.COMPLETED)
        self.advance()

    @rule(worker=workers, job=jobs)
    def tell(self, worker: str, job: str) -> None:
        self.endpoint.tell_progress(worker, job, "progress")
        self.endpoint.tell_stream(worker, job, "item", 6)
        self.advance()

    @rule(worker=workers, job=jobs)
    def ping(self, worker: str, job: str) -> None:
        if worker not in self.ended_s:
            self.endpoint.heard_ping(worker, [job], self.now_s)
            self.endpoint.jobs_to_stop(worker)
            self.advance()

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        if self.state_of(job) is not None:
            before = self.state_of(job)
            assert before is not None
            self.endpoint.cancel(job, self.now_s)
            assert self.state_of(job) == (before if before.is_terminal else JobState.CANCELLED)
            self.advance()

    @rule(job=jobs)
    def retry(self, job: str) -> None:
        state = self.state_of(job)
        if state is None:
            return
        try:
            self.endpoint.jobs.retry(self.endpoint.jobs.find(job), self.now_s)
        except Conflict:
            assert state not in (JobState.FAILED, JobState.TIMED_OUT)
        else:
            assert state in (JobState.FAILED, JobState.TIMED_OUT)
            self.seen.pop(job, None)
        self.advance()

    @rule()
    def purge(self) -> None:
        waiting = len(self.endpoint.jobs.waiting())
        assert self.endpoint.jobs.purge(self.now_s) == waiting
        assert not self.endpoint.jobs.waiting()
        self.advance()

    @rule(worker=consumes(workers))
    def die(self, worker: str) -> None:
        self.leave(worker)
        self.advance()

    @rule(seconds=st.sampled_from([0.001, 0.5, 4.0, 7.0, 61.0, 700.0]))
    def wait(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while (at_s := self.endpoint.next_deadline_s(self.now_s)) <= until_s:
            self.now_s = at_s
            for worker in [w for w in self.to_end if w not in self.ended_s]:
                assert self.now_s <= self.to_end[worker] + GRACE_S, "who lingers is killed"
            self.advance()
        self.now_s = until_s
        self.advance()

    def state_of(self, job: str) -> JobState | None:
        try:
            return self.endpoint.jobs.find(job).state
        except NotFound:
            return None

    @invariant()
    def nothing_leaves_a_terminal_state(self) -> None:
        for job in self.all_jobs():
            before = self.seen.get(job.id)
            if before is not None and before[0].is_terminal:
                assert (job.state, job.output, job.starts) == before, "one end, one output"
            self.seen[job.id] = (job.state, job.output, job.starts)
            assert (job.ended_s is not None) == job.state.is_terminal
            assert job.retries <= self.endpoint.config.max_retries
            if job.state is JobState.COMPLETED:
                assert job.output is not ABSENT

    @invariant()
    def what_runs_has_one_living_holder_and_what_waits_none(self) -> None:
        alive = {worker.id for worker in self.endpoint.fleet.alive()}
        waiting = [job.id for job in self.endpoint.jobs.waiting()]
        assert len(set(waiting)) == len(waiting)
        for job in self.all_jobs():
            assert (job.state is JobState.IN_QUEUE) == (job.id in waiting)
            if job.state is JobState.IN_PROGRESS:
                assert job.holders == {job.worker_id}
                assert job.worker_id in alive

    @invariant()
    def counts_are_those_of_the_jobs(self) -> None:
        states = [job.state for job in self.all_jobs()]
        health = self.endpoint.health()
        assert health["jobs"]["inQueue"] == states.count(JobState.IN_QUEUE)
        assert health["jobs"]["inProgress"] == states.count(JobState.IN_PROGRESS)

    @invariant()
    def there_are_never_more_workers_than_allowed(self) -> None:
        alive = self.endpoint.fleet.alive()
        assert len(alive) <= MOST_WORKERS
        assert {worker.id for worker in alive} == set(self.started_s) - set(self.ended_s)
        for worker in alive:
            assert (worker.state is WorkerState.STOPPING) == (worker.id in self.to_end)

    @invariant()
    def the_bill_is_the_sum_of_whole_seconds(self) -> None:
        bill = self.endpoint.bill(self.now_s)
        expected = [
            math.ceil(round(self.ended_s.get(worker, self.now_s) - start_s, 6))
            for worker, start_s in self.started_s.items()
        ]
        assert [worker.billed_s for worker in bill.workers] == expected
        assert bill.billed_s == sum(expected)
        assert math.isclose(bill.usd, sum(expected) * bill.usd_per_s, abs_tol=1e-9)

    def all_jobs(self) -> Iterable[Any]:
        return list(self.endpoint.jobs._jobs.values())

    def teardown(self) -> None:
        """Left alone, every job ends and every worker above the least."""
        if not hasattr(self, "endpoint"):
            return
        self.wait(3600.0)
        assert not list(self.all_jobs())


TestEndpointMachine = EndpointMachine.TestCase
TestEndpointMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
