"""The part of the queue's contract that says who gets a job, and for how long."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from contracts.queue_bench import LEASE_S, LOW, Bench, OpenQueue, completed, job
from visiondyno.executors.queue import Claim, JobQueue, backoff_s
from visiondyno.job import JobEvent, JobState, Policy


class ClaimContract:
    @pytest.fixture
    def new_transport(self) -> Callable[[], OpenQueue]:
        raise NotImplementedError("the subclass gives it")

    @pytest.fixture
    def bench(self, new_transport: Callable[[], OpenQueue]) -> Iterator[Bench]:
        bench = Bench(new_transport())
        yield bench
        bench.close()

    # -- put ---------------------------------------------------------------------------------

    def test_a_put_job_waits_and_has_its_first_event(self, bench: Bench) -> None:
        bench.put("a", "b")
        assert bench.queue.events("a") == [
            JobEvent(job_id="a", number=1, state=JobState.IN_QUEUE),
        ]
        assert bench.states("b") == ["IN_QUEUE"]
        assert bench.queue.counts().jobs[JobState.IN_QUEUE] == 2

    def test_putting_nothing_does_nothing(self, bench: Bench) -> None:
        bench.queue.put([])
        assert bench.queue.counts().jobs == dict.fromkeys(JobState, 0)

    def test_a_known_id_is_left_as_it_is(self, bench: Bench) -> None:
        bench.queue.put([job("a", text='{"first": 1}'), job("a", text='{"second": 1}')])
        bench.put("a", text='{"third": 1}')
        assert bench.states("a") == ["IN_QUEUE"]
        claim = bench.claim()
        assert claim.input_json == '{"first": 1}'
        bench.put("a")
        assert bench.claimed_ids() == []
        bench.queue.finish([completed(claim)])
        bench.put("a", "b")
        assert bench.claimed_ids(2) == ["b"]
        assert bench.states("a") == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]

    def test_jobs_outlive_the_queue_object(self, bench: Bench) -> None:
        bench.put("a", text='{"x": 1}')
        bench.queue.close()
        bench.queue = bench.another()
        assert bench.claim().input_json == '{"x": 1}'

    # -- claim -------------------------------------------------------------------------------

    def test_jobs_are_claimed_in_the_order_they_came(self, bench: Bench) -> None:
        ids = [f"job-{number}" for number in range(30, 0, -1)]
        bench.put(*ids[:20])
        bench.put(*ids[20:])
        assert bench.claimed_ids(7) + bench.claimed_ids(30) == ids

    def test_a_job_that_was_put_back_keeps_its_place(self, bench: Bench) -> None:
        bench.put("first")
        first_at = bench.clock()
        bench.clock.advance(1.0)
        bench.put("second")
        bench.put("older", queued_at=first_at + 0.5)
        bench.put("oldest", queued_at=first_at - 3600)
        bench.put("old but low", queued_at=first_at - 7200, policy=LOW)
        bench.put("third")
        wanted = ["oldest", "first", "older", "second", "third", "old but low"]
        assert bench.claimed_ids(6) == wanted

    def test_low_priority_comes_last(self, bench: Bench) -> None:
        bench.put("low-1", "low-2", policy=LOW)
        bench.put("high-1", "high-2")
        assert bench.claimed_ids(3) == ["high-1", "high-2", "low-1"]
        bench.put("high-3")
        assert bench.claimed_ids(3) == ["high-3", "low-2"]

    def test_each_worker_gets_one_job_while_there_are_jobs(self, bench: Bench) -> None:
        bench.put("a", "b", "c")
        assert bench.queue.claim([], LEASE_S) == []
        first = bench.queue.claim(["v", "w"], LEASE_S)
        assert [(claim.job_id, claim.worker) for claim in first] == [("a", "v"), ("b", "w")]
        rest = bench.queue.claim(["x", "y"], LEASE_S)
        assert [(claim.job_id, claim.worker) for claim in rest] == [("c", "x")]
        assert bench.queue.claim(["y"], LEASE_S) == []

    def test_a_claim_says_what_to_run_and_is_an_event(self, bench: Bench) -> None:
        text = json.dumps({"text": "ä\u2028\n\"'\\/", "big": 2**70, "list": [], "float": 1e-300})
        bench.put("a", text=text, policy=Policy(execution_timeout_ms=12_345))
        bench.put("b")
        bench.clock.advance(2.5)
        first, second = bench.queue.claim(["v", "w"], LEASE_S)
        expected = Claim("a", first.token, "v", 1, text, 12_345, 2500)
        assert first == expected
        assert second.execution_timeout_ms is None
        assert first.token != second.token
        assert bench.states("a") == ["IN_QUEUE", "IN_PROGRESS"]

    def test_the_delay_ends_at_the_first_claim(self, bench: Bench) -> None:
        bench.put("a")
        bench.clock.advance(2)
        bench.queue.give_back(bench.claim(), "It died.")
        bench.clock.advance(60)
        again = bench.claim()
        assert (again.delay_ms, again.attempt) == (2000, 2)

    def test_claimers_at_once_never_get_the_same_job(self, bench: Bench) -> None:
        bench.put(*(f"job-{number}" for number in range(60)))
        claimed: list[str] = []

        def work(queue: JobQueue) -> None:
            while found := queue.claim(["v", "w"], LEASE_S):
                claimed.extend(claim.job_id for claim in found)

        bench.in_threads(4, work)
        assert sorted(claimed) == sorted(f"job-{number}" for number in range(60))

    # -- time to live ------------------------------------------------------------------------

    @pytest.mark.parametrize("how", ["claim", "sweep"])
    def test_a_job_past_its_ttl_is_timed_out_and_not_run(self, bench: Bench, how: str) -> None:
        bench.put("a", policy=Policy(ttl_ms=1500))
        bench.put("b", policy=Policy(ttl_ms=60_000))
        bench.clock.advance(2)
        if how == "claim":
            assert bench.claimed_ids(2) == ["b"]
        else:
            bench.queue.sweep()
        assert bench.states("a") == ["IN_QUEUE", "TIMED_OUT"]
        answer = bench.answer("a")
        assert answer.error is not None
        assert (answer.error.code, answer.delay_time_ms) == ("time_limit", 2000)
        assert "ttl" in answer.error.message
        assert answer.execution_time_ms is None
        assert bench.claimed_ids() == ([] if how == "claim" else ["b"])

    def test_a_ttl_ends_no_job_that_ran(self, bench: Bench) -> None:
        bench.put("a", "b", policy=Policy(ttl_ms=1500))
        running, died = bench.queue.claim(["v", "w"], 1000)
        bench.queue.give_back(died, "It died.")
        bench.clock.advance(60)
        bench.queue.sweep()
        assert bench.claim().job_id == "b"
        assert bench.queue.finish([completed(running)]) == [True]

    # -- leases and tokens -------------------------------------------------------------------

    def test_a_renewed_lease_holds(self, bench: Bench) -> None:
        bench.put("a")
        claim = bench.claim()
        for _ in range(5):
            bench.clock.advance(LEASE_S - 1)
            assert bench.queue.renew([claim], LEASE_S) == []
            bench.queue.sweep()
        assert bench.states("a") == ["IN_QUEUE", "IN_PROGRESS"]
        assert bench.queue.renew([], LEASE_S) == []

    def test_a_lapsed_lease_gives_the_job_to_another(self, bench: Bench) -> None:
        bench.put("a")
        first = bench.claim("v")
        bench.clock.advance(LEASE_S + 1)
        bench.queue.sweep()
        assert bench.claimed_ids() == []
        bench.clock.advance(backoff_s(1) + 0.1)
        second = bench.claim("w")
        assert (second.job_id, second.worker, second.attempt) == ("a", "w", 2)
        assert second.token != first.token
        assert bench.states("a") == ["IN_QUEUE", "IN_PROGRESS", "IN_QUEUE", "IN_PROGRESS"]

    def test_a_stale_claim_writes_nothing(self, bench: Bench) -> None:
        bench.put("a")
        stale = bench.claim()
        bench.lapse()

        def assert_writes_nothing() -> None:
            before = bench.queue.events("a")
            assert bench.queue.renew([stale], LEASE_S) == [stale]
            bench.queue.report([(stale, '{"stage": "late"}')])
            assert bench.queue.finish([completed(stale)]) == [False]
            bench.queue.give_back(stale, "It died.")
            bench.queue.give_back(stale, "It stops.", blameless=True)
            assert bench.queue.events("a") == before

        assert_writes_nothing()
        held = bench.claim()
        assert_writes_nothing()
        assert bench.queue.renew([held, stale], LEASE_S) == [stale]
        assert bench.queue.finish([completed(stale), completed(held)]) == [False, True]
        assert_writes_nothing()

    def test_a_claim_of_a_job_that_is_unknown_is_stale(self, bench: Bench) -> None:
        ghost = Claim("ghost", "", "w", 1, "{}", None, 0)
        bench.put("a")
        never_claimed = replace(ghost, job_id="a")
        for claim in (ghost, never_claimed):
            assert bench.queue.renew([claim], LEASE_S) == [claim]
            assert bench.queue.finish([completed(claim)]) == [False]
            bench.queue.report([(claim, "{}")])
            bench.queue.give_back(claim, "It died.")
        assert bench.states("a") == ["IN_QUEUE"]

    # -- give back ---------------------------------------------------------------------------

    def test_a_job_given_back_waits_for_its_pause_and_keeps_its_place(self, bench: Bench) -> None:
        bench.put("a", "b", "c")
        bench.queue.give_back(bench.claim(), "It died.")
        assert bench.states("a") == ["IN_QUEUE", "IN_PROGRESS", "IN_QUEUE"]
        assert bench.queue.counts().claimable == 2
        assert bench.claimed_ids() == ["b"]
        bench.clock.advance(backoff_s(1) + 0.1)
        assert bench.queue.counts().claimable == 2
        assert bench.claimed_ids(2) == ["a", "c"]

    @pytest.mark.parametrize("how", ["give back", "lapse"])
    def test_pauses_grow_with_attempts(self, bench: Bench, how: str) -> None:
        bench.put("a", max_attempts=6)
        for attempt in range(1, 6):
            claim = bench.claim()
            if how == "give back":
                bench.queue.give_back(claim, "It died.")
            else:
                bench.clock.advance(LEASE_S + 1)
                bench.queue.sweep()
            bench.clock.advance(backoff_s(attempt) - 0.1)
            assert bench.claimed_ids() == []
            bench.clock.advance(0.2)
        assert bench.claim().attempt == 6

    def test_a_job_fails_when_its_last_attempt_dies(self, bench: Bench) -> None:
        bench.put("a", max_attempts=2)
        bench.clock.advance(1)
        bench.queue.give_back(bench.claim(), "It died.")
        bench.clock.advance(60)
        last = bench.claim("host-7-0")
        bench.clock.advance(3)
        bench.queue.give_back(last, 'Worker "0" was killed (SIGKILL).')
        assert bench.states("a")[2:] == ["IN_QUEUE", "IN_PROGRESS", "FAILED"]
        answer = bench.answer("a")
        assert answer.error is not None
        assert answer.error.code == "child_died"
        assert 'Worker "0" was killed (SIGKILL).' in answer.error.message
        assert "2 of 2" in answer.error.message
        times = answer.delay_time_ms, answer.execution_time_ms, answer.worker_id
        assert times == (1000, 3000, "host-7-0")
        assert bench.claimed_ids() == []

    def test_a_job_fails_when_its_last_lease_lapses(self, bench: Bench) -> None:
        bench.put("a", max_attempts=1)
        bench.claim("host-7-0")
        bench.lapse()
        answer = bench.answer("a")
        assert answer.status == JobState.FAILED
        assert answer.error is not None
        assert answer.error.code == "child_died"
        assert "host-7-0" in answer.error.message

    def test_a_blameless_return_costs_neither_attempt_nor_pause(self, bench: Bench) -> None:
        bench.put("a", max_attempts=1)
        for _ in range(3):
            claim = bench.claim()
            assert claim.attempt == 1
            bench.queue.give_back(claim, "The supervisor stops.", blameless=True)
        assert bench.states("a") == ["IN_QUEUE", *["IN_PROGRESS", "IN_QUEUE"] * 3]

    def test_a_ttl_still_ends_a_job_whose_attempt_did_not_count(self, bench: Bench) -> None:
        bench.put("a", policy=Policy(ttl_ms=1500))
        bench.queue.give_back(bench.claim(), "The supervisor stops.", blameless=True)
        bench.clock.advance(2)
        assert bench.claimed_ids() == []
        assert bench.states("a") == ["IN_QUEUE", "IN_PROGRESS", "IN_QUEUE", "TIMED_OUT"]

    def test_of_many_jobs_past_their_ttl_none_runs(self, bench: Bench) -> None:
        ids = [f"late-{number}" for number in range(1500)]
        bench.put(*ids, policy=Policy(ttl_ms=1000))
        bench.put("in time")
        bench.clock.advance(2)
        claimed = [*bench.claimed_ids(), *bench.claimed_ids(), *bench.claimed_ids()]
        assert claimed == ["in time"]
        assert {bench.states(job_id)[-1] for job_id in ids} == {"TIMED_OUT"}

    def test_a_clock_set_back_holds_no_waiting_job_up(self, bench: Bench) -> None:
        bench.put("a")
        bench.clock.advance(-3600)
        assert bench.queue.claimable(9) == 1
        assert bench.claimed_ids() == ["a"]

    def test_claimable_jobs_are_counted_up_to_a_number(self, bench: Bench) -> None:
        assert bench.queue.claimable(3) == 0
        bench.put("a", "b", "c", "d", "paused")
        bench.queue.cancel("a")
        assert bench.queue.claimable(9) == 4
        assert bench.queue.claimable(3) == 3
