"""What every queue promises (`visiondyno.executors.queue.JobQueue`), as one suite.

A subclass gives the fixture `new_transport`: each call makes an empty transport and returns how to
open it, once or more often. Time is the suite's: nothing here waits for it.
"""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from contracts.queue_bench import (
    LEASE_S,
    LOW,
    RETENTION_S,
    Bench,
    Clock,
    OpenQueue,
    completed,
    of,
    rings,
    whole_feed,
)
from contracts.queue_claims import ClaimContract
from contracts.queue_machine import check_against_model
from visiondyno.errors import NotFound, VisionDynoError
from visiondyno.executors.base import JobLost
from visiondyno.executors.queue import WORKER_EXPIRY_S, Claim, JobQueue, Outcome, answer_json
from visiondyno.executors.workers import WorkerCommand, WorkerInfo, WorkerState
from visiondyno.job import JobAnswer, JobError, JobState


class QueueContract(ClaimContract):
    # -- reports and answers -----------------------------------------------------------------

    def test_progress_becomes_numbered_events(self, bench: Bench) -> None:
        bench.put("a", "b")
        first, second = bench.queue.claim(["v", "w"], LEASE_S)
        bench.queue.report([(first, '{"stage": "ä/b", "done": 1}'), (second, "{}")])
        bench.queue.report([(first, '{"stage": "c"}')])
        bench.queue.report([])
        events = bench.queue.events("a", after=2)
        assert [(event.number, event.state) for event in events] == [
            (3, JobState.IN_PROGRESS),
            (4, JobState.IN_PROGRESS),
        ]
        assert [event.progress for event in events] == [
            {"stage": "ä/b", "done": 1},
            {"stage": "c"},
        ]
        assert bench.queue.events("b")[-1].progress == {}

    def test_numbers_have_no_gap_with_reporters_at_once(self, bench: Bench) -> None:
        bench.put("a")
        claim = bench.claim()
        _, cursor = bench.queue.feed(None)

        def work(queue: JobQueue) -> None:
            for number in range(25):
                queue.report([(claim, json.dumps({"n": number}))])

        bench.in_threads(4, work)
        events = bench.queue.events("a")
        assert [event.number for event in events] == list(range(1, 103))
        assert whole_feed(bench.queue, cursor)[0] == events[2:]
        told = [event.progress["n"] for event in events if event.progress]
        assert sorted(told) == sorted(list(range(25)) * 4)

    def test_an_answer_is_written_once_and_as_it_was(self, bench: Bench) -> None:
        bench.put("a")
        bench.clock.advance(1.5)
        claim = bench.claim("host-7-0")
        output = json.dumps({"text": "ä\u2028\"'\\/", "deep": [[{}]], "number": 0.1})
        assert bench.queue.finish([completed(claim, output, 77)]) == [True]
        assert bench.answer("a") == JobAnswer(
            id="a",
            status=JobState.COMPLETED,
            delay_time_ms=1500,
            execution_time_ms=77,
            worker_id="host-7-0",
            output=json.loads(output),
        )
        assert bench.queue.finish([completed(claim)]) == [False]
        assert bench.states("a") == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
        assert bench.queue.finish([]) == []

    @pytest.mark.parametrize("state", [JobState.FAILED, JobState.TIMED_OUT, JobState.CANCELLED])
    def test_an_error_is_an_answer(self, bench: Bench, state: JobState) -> None:
        error = JobError(code="bad_model", message="ä is no model.", stage="load", traceback="…")
        bench.put("a")
        claim = bench.claim()
        assert bench.queue.finish([(claim, Outcome(state, 5, error=error))]) == [True]
        assert bench.answer("a").error == error
        assert bench.answer("a") == JobAnswer.model_validate_json(
            answer_json(claim, Outcome(state, 5, error=error))
        )

    def test_an_answer_that_cannot_be_read_stops_no_other_jobs_events(self, bench: Bench) -> None:
        _, cursor = bench.queue.feed(None)
        bench.put("odd", "unreadable", "after")
        odd, unreadable, after = bench.queue.claim(["u", "v", "w"], LEASE_S)
        text = json.dumps({"name": "half a character \ud800"})
        bench.queue.finish([completed(odd, text), completed(unreadable, "7"), completed(after)])
        last = {event.job_id: event for event in whole_feed(bench.queue, cursor)[0]}
        assert bench.answer("odd").output == {"name": "half a character \ud800"}
        assert last["unreadable"].state == JobState.FAILED
        with pytest.raises(VisionDynoError, match="can't be read"):
            bench.answer("unreadable").result()
        assert last["after"].state == JobState.COMPLETED

    def test_nothing_follows_the_terminal_event(self, bench: Bench) -> None:
        bench.put("a")
        claim = bench.claim()
        bench.queue.finish([completed(claim)])
        before = bench.queue.events("a")
        bench.queue.cancel("a")
        bench.queue.report([(claim, "{}")])
        bench.queue.give_back(claim, "It died.")
        bench.lapse()
        assert bench.queue.renew([claim], LEASE_S) == [claim]
        assert bench.queue.events("a") == before

    # -- cancel ------------------------------------------------------------------------------

    def test_a_cancelled_waiting_job_never_runs(self, bench: Bench) -> None:
        bench.put("a", "b")
        bench.put("low", policy=LOW)
        bench.clock.advance(1)
        bench.queue.cancel("a")
        bench.queue.cancel("low")
        assert bench.claimed_ids(3) == ["b"]
        assert bench.states("a") == ["IN_QUEUE", "CANCELLED"]
        answer = bench.answer("a")
        assert answer.error is not None
        assert (answer.error.code, answer.delay_time_ms) == ("cancelled", 1000)
        assert (answer.execution_time_ms, answer.worker_id) == (None, None)

    def test_a_cancelled_running_job_ends_at_once_and_its_claim_is_stale(
        self, bench: Bench
    ) -> None:
        bench.put("a")
        claim = bench.claim("host-7-0")
        bench.clock.advance(2)
        bench.queue.cancel("a")
        assert bench.queue.renew([claim], LEASE_S) == [claim]
        assert bench.queue.finish([completed(claim)]) == [False]
        assert bench.states("a") == ["IN_QUEUE", "IN_PROGRESS", "CANCELLED"]
        answer = bench.answer("a")
        assert (answer.execution_time_ms, answer.worker_id) == (2000, "host-7-0")
        bench.lapse()
        assert bench.claimed_ids() == []

    def test_a_job_cancelled_in_its_pause_never_runs_again(self, bench: Bench) -> None:
        bench.put("a")
        bench.queue.give_back(bench.claim(), "It died.")
        bench.queue.cancel("a")
        bench.clock.advance(60)
        assert bench.claimed_ids() == []
        assert bench.states("a")[-1] == "CANCELLED"

    def test_cancel_of_an_unknown_job_is_refused(self, bench: Bench) -> None:
        with pytest.raises(JobLost, match="nope"):
            bench.queue.cancel("nope")

    # -- reading -----------------------------------------------------------------------------

    def test_events_after_a_number(self, bench: Bench) -> None:
        bench.put("a")
        bench.queue.finish([completed(bench.claim())])
        assert [event.number for event in bench.queue.events("a", after=1)] == [2, 3]
        assert bench.queue.events("a", after=3) == []
        with pytest.raises(JobLost, match="nope"):
            bench.queue.events("nope")

    def test_the_feed_has_all_jobs_events_in_order(self, bench: Bench) -> None:
        bench.put("before")
        reader = bench.another()
        events, cursor = reader.feed(None)
        assert events == []
        assert reader.feed(cursor) == ([], cursor)
        bench.put("a", "b")
        bench.queue.cancel("before")
        claim = bench.claim()
        bench.queue.report([(claim, '{"done": 1}')])
        bench.queue.finish([completed(claim)])
        fed, later = whole_feed(reader, cursor)
        assert of(fed, "a") == bench.queue.events("a")
        assert of(fed, "b") == bench.queue.events("b")
        assert [event.state for event in of(fed, "before")] == [JobState.CANCELLED]
        assert len(fed) == 6
        assert whole_feed(reader, later)[0] == []
        assert whole_feed(reader, cursor)[0] == fed

    def test_a_feed_longer_than_one_answer_is_read_to_its_end(self, bench: Bench) -> None:
        _, cursor = bench.queue.feed(None)
        bench.put(*(f"job-{number}" for number in range(5500)))
        fed, _ = whole_feed(bench.queue, cursor)
        assert [event.job_id for event in fed] == [f"job-{number}" for number in range(5500)]

    def test_known_ids(self, bench: Bench) -> None:
        bench.put("waiting", "running", "ended")
        bench.queue.cancel("ended")
        bench.claim()
        asked = ["waiting", "running", "ended", "nope"]
        assert bench.queue.known(asked) == {"waiting", "running", "ended"}
        assert bench.queue.known([]) == set()

    def test_counts(self, bench: Bench) -> None:
        assert bench.queue.counts().oldest_waiting_s is None
        bench.put("a")
        bench.clock.advance(3)
        bench.put("b", "c", "d")
        bench.put("e", policy=LOW)
        bench.clock.advance(2)
        assert bench.queue.counts().oldest_waiting_s == pytest.approx(5)
        bench.queue.finish([completed(bench.claim())])
        bench.queue.give_back(bench.claim(), "It died.")
        bench.claim()
        bench.queue.cancel("d")
        counts = bench.queue.counts()
        assert counts.jobs == {
            JobState.IN_QUEUE: 2,
            JobState.IN_PROGRESS: 1,
            JobState.COMPLETED: 1,
            JobState.FAILED: 0,
            JobState.CANCELLED: 1,
            JobState.TIMED_OUT: 0,
        }
        assert counts.claimable == 1
        assert counts.oldest_waiting_s == pytest.approx(2)

    def test_ended_jobs_are_forgotten_after_a_while_and_open_ones_never(self, bench: Bench) -> None:
        bench.put("cancelled", "completed", "running", "waiting")
        bench.queue.cancel("cancelled")
        done = bench.claim()
        bench.queue.claim(["w"], 10 * RETENTION_S)
        bench.queue.finish([completed(done)])
        bench.clock.advance(RETENTION_S - 1)
        bench.queue.sweep()
        everything = {"cancelled", "completed", "running", "waiting"}
        assert bench.queue.known(everything) == everything
        bench.clock.advance(2)
        bench.queue.sweep()
        assert bench.queue.known(everything) == {"running", "waiting"}
        assert bench.queue.counts().jobs[JobState.COMPLETED] == 0
        with pytest.raises(JobLost, match="completed"):
            bench.queue.events("completed")
        bench.put("completed")
        assert bench.states("completed") == ["IN_QUEUE"]

    # -- workers -----------------------------------------------------------------------------

    def test_workers_are_listed_as_they_were_told_of(self, bench: Bench) -> None:
        first = WorkerInfo("a-1-0", WorkerState.BUSY, 5.0, "a", 7, "job", "GPU ä", 0.5, 1, 2, 3, 4)
        second = WorkerInfo("b-1-0", WorkerState.IDLE, 6.0, "b", extra={"slots": [1]})
        bench.queue.announce([])
        assert bench.queue.workers() == []
        bench.queue.announce([second, first])
        assert bench.another().workers() == [first, second]
        drained = replace(second, state=WorkerState.DRAINED)
        bench.queue.announce([drained])
        assert bench.queue.workers() == [first, drained]
        bench.queue.withdraw(["a-1-0", "nobody"])
        bench.queue.withdraw([])
        assert bench.queue.workers() == [drained]

    def test_a_worker_that_is_not_told_of_is_forgotten(self, bench: Bench) -> None:
        silent, told = (
            WorkerInfo(name, WorkerState.IDLE, bench.clock(), "a") for name in ("silent", "told")
        )
        bench.queue.announce([silent, told])
        bench.clock.advance(WORKER_EXPIRY_S - 1)
        assert bench.queue.workers() == [silent, told]
        bench.queue.announce([told])
        bench.clock.advance(2)
        for _ in range(2):
            assert bench.queue.workers() == [told]
            with pytest.raises(NotFound, match="silent"):
                bench.queue.command("silent", WorkerCommand.DRAIN)
            bench.queue.sweep()

    def test_a_command_is_given_once_to_whom_it_is_for(self, bench: Bench) -> None:
        infos = [WorkerInfo(name, WorkerState.IDLE, bench.clock(), "a") for name in ("v", "w")]
        bench.queue.announce(infos)
        bench.queue.command("v", WorkerCommand.DRAIN)
        supervisor = bench.another()
        assert supervisor.take_commands(["w", "other"]) == []
        assert supervisor.take_commands([]) == []
        assert supervisor.take_commands(["w", "v"]) == [("v", WorkerCommand.DRAIN)]
        assert supervisor.take_commands(["w", "v"]) == []
        with pytest.raises(NotFound, match="nobody"):
            bench.queue.command("nobody", WorkerCommand.DRAIN)

    # -- bells -------------------------------------------------------------------------------

    def test_the_bell_for_work_rings_for_jobs_cancels_and_commands(self, bench: Bench) -> None:
        supervisor = bench.another()
        bell = supervisor.bell("work")

        def look() -> list[Claim]:
            bell.drain()
            return supervisor.claim(["v", "w"], LEASE_S)

        try:
            assert look() == []
            assert not rings(bell, 0)
            for job_id in ("b", "a"):
                bench.put(job_id)
                assert rings(bell)
                assert [claim.job_id for claim in look()] == [job_id]
                assert not rings(bell, 0)
            bench.queue.cancel("a")
            assert rings(bell)
            look()
            bench.queue.announce([WorkerInfo("v", WorkerState.IDLE, bench.clock(), "a")])
            bench.queue.command("v", WorkerCommand.RESTART)
            assert rings(bell)
        finally:
            bell.close()
            bell.close()

    def test_the_bell_for_events_rings_for_every_listener_that_looked(self, bench: Bench) -> None:
        readers = [bench.another(), bench.another()]
        bells = [reader.bell("events") for reader in readers]
        cursors = [reader.feed(None)[1] for reader in readers]
        try:
            for number in range(3):
                bench.put(f"job-{number}")
                for place, (reader, bell) in enumerate(zip(readers, bells, strict=True)):
                    assert rings(bell)
                    bell.drain()
                    events, cursors[place] = reader.feed(cursors[place])
                    assert [event.job_id for event in events] == [f"job-{number}"]
        finally:
            for bell in bells:
                bell.close()

    # -- together ----------------------------------------------------------------------------

    def test_what_is_asked_together_is_done(self, bench: Bench) -> None:
        with bench.queue.together():
            bench.put("a", "b")
            claims = bench.queue.claim(["v", "w"], LEASE_S)
            bench.queue.report([(claims[0], "{}")])
            written = bench.queue.finish([completed(claim) for claim in claims])
        assert written == [True, True]
        assert bench.another().counts().jobs[JobState.COMPLETED] == 2

    # -- everything --------------------------------------------------------------------------

    def test_any_course_of_events_is_the_models(
        self, new_transport: Callable[[], OpenQueue]
    ) -> None:
        def open_new(clock: Clock) -> JobQueue:
            return new_transport()(clock)

        check_against_model(open_new, Clock)
