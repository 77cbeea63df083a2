"""What the store promises (`visiondyno.store.base`), as one suite for every database.

A subclass gives the fixture `store`: an open, empty one whose clock always says `NOW`.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest

from contracts.store_machine import check_recording
from contracts.store_records_contract import StoreRecordsContract
from visiondyno.errors import Conflict
from visiondyno.job import JobAnswer, JobError, JobEvent, JobRequest, JobState, Policy
from visiondyno.store.records import (
    JobFilter,
    JobKind,
    NewJob,
    Observed,
)
from visiondyno.store.sql import SqlStore, open_store

NOW = 1_800_000_000.25
QUEUED, RUNNING, DONE, FAILED, CANCELLED, LATE = JobState
HOOK = "https://example.org/hook"


def new_job(job_id: str = "job", **changes: Any) -> NewJob:
    request = JobRequest(input={"operation": "noop"}, webhook=changes.pop("webhook", None))
    job = NewJob(job_id, "default", JobKind.RUN, request, created_at=100.0)
    return replace(job, **changes)


def answer(state: JobState, output: dict[str, Any] | None = None, job: str = "job.1") -> JobAnswer:
    if state is DONE:
        output = output or {"said": "ö\ud800\0"}
        return JobAnswer(id=job, status=state, worker_id="w7", execution_time_ms=5, output=output)
    error = JobError(code="operation_failed", message="It stopped.", traceback="line 1\nline 2")
    return JobAnswer(id=job, status=state, error=error)


def observed(
    number: int,
    state: JobState,
    progress: dict[str, Any] | None = None,
    *,
    job: str = "job",
    dispatch: int = 1,
    at: float = 101.0,
) -> Observed:
    said = answer(state, job=f"{job}.{dispatch}") if state.is_terminal else None
    event = JobEvent(
        job_id=f"{job}.{dispatch}", number=number, state=state, progress=progress, answer=said
    )
    return Observed(job, dispatch, event, at)


def run_to(store: SqlStore, end: JobState, job: str = "job", dispatch: int = 1) -> None:
    events = [observed(1, QUEUED), observed(2, RUNNING), observed(3, end)]
    store.jobs.record(
        [replace(one, job_id=job, dispatch=dispatch, at=100.0 + one.event.number) for one in events]
    )


class StoreContract(StoreRecordsContract):
    """The suite; `check_recording` holds `record` to its rules over random histories."""

    def test_a_new_job_waits_with_event_1(self, store: SqlStore) -> None:
        policy = Policy(execution_timeout_ms=1, ttl_ms=2, low_priority=True)
        text = {"\ud83d": "lone", "nul": "\0", "nested": {"none": None, "big": 2**70}}
        request = JobRequest(input=text, policy=policy, webhook=HOOK)
        store.jobs.add([new_job(request=request, owner="key_1", kind=JobKind.RUNSYNC)])
        job = store.jobs.get("job")
        assert job is not None
        assert (job.request, job.owner, job.kind) == (request, "key_1", JobKind.RUNSYNC)
        assert (job.state, job.dispatch, job.seen, job.attempts) == (QUEUED, 1, 0, 0)
        assert (job.first_number, job.last_number, job.transport_id) == (1, 1, "job.1")
        assert (job.created_at, job.started_at, job.ended_at) == (100.0, None, None)
        assert (job.answer, job.progress, job.cancel_requested) == (None, None, False)
        [first] = store.jobs.events("job")
        assert first.event == JobEvent(job_id="job", number=1, state=QUEUED)
        assert first.at == 100.0
        assert store.jobs.get("other") is None
        assert store.jobs.events("other") == []

    def test_adding_is_all_or_nothing(self, store: SqlStore) -> None:
        store.jobs.add([new_job("a")])
        with pytest.raises(Conflict):
            store.jobs.add([new_job("b"), new_job("a"), new_job("c")])
        assert [job.id for job in store.jobs.open_jobs()] == ["a"]
        store.jobs.add([])

    def test_the_row_follows_the_events(self, store: SqlStore) -> None:
        store.jobs.add([new_job()])
        recorded = store.jobs.record(
            [
                observed(1, QUEUED),
                observed(2, RUNNING, at=101.5),
                observed(3, RUNNING, {"stage": "warm-up"}),
                observed(4, DONE, at=103.5),
            ]
        )
        assert [one.event.number for one in recorded] == [2, 3, 4]
        assert recorded == store.jobs.events("job", after=1)
        job = store.jobs.get("job")
        assert job is not None
        assert job.answer == replace_id(answer(DONE), "job") == recorded[-1].event.answer
        assert (job.state, job.worker_id, job.attempts, job.seen) == (DONE, "w7", 1, 4)
        assert (job.started_at, job.ended_at) == (101.5, 103.5)
        assert job.progress == {"stage": "warm-up"}
        assert store.jobs.open_jobs() == []

    def test_what_was_seen_is_recorded_once_however_many_saw_it(self, store: SqlStore) -> None:
        ids = [f"job{number}" for number in range(20)]
        store.jobs.add([new_job(job_id) for job_id in ids])
        batch = [
            observed(number, state, job=job_id)
            for number, state in enumerate([QUEUED, RUNNING, DONE], 1)
            for job_id in ids
        ]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(store.jobs.record, [batch, batch, batch, batch]))
        assert sorted(map(len, answers)) == [0, 0, 0, 40]
        for job_id in ids:
            assert [one.event.number for one in store.jobs.events(job_id)] == [1, 2, 3]

    def test_progress_seen_twice_is_recorded_once(self, store: SqlStore) -> None:
        store.jobs.add([new_job()])
        seen = [observed(2, RUNNING), observed(3, RUNNING, {"stage": "warm-up"})]
        assert len(store.jobs.record(seen)) == 2
        assert store.jobs.record(seen) == []

    def test_overlapping_batches_of_two_servers_lose_nothing(self, store: SqlStore) -> None:
        other = open_store(store.database.url.render_as_string(hide_password=False))
        servers = cycle([store.jobs.record, other.jobs.record])
        ids = [f"job{number}" for number in range(12)]
        store.jobs.add([new_job(job_id) for job_id in ids])
        batches = [
            [observed(number, RUNNING, {"n": number}, job=job_id) for job_id in ids[shift:]]
            for number in range(2, 12)
            for shift in (0, 4, 8)
        ]
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda record, batch: record(batch), servers, batches))
        other.close()
        told = [(one.event.job_id, one.event.number) for events in answers for one in events]
        stored = [
            (job_id, one.event.number)
            for job_id in ids
            for one in store.jobs.events(job_id, after=1)
        ]
        assert sorted(told) == sorted(stored)
        assert len(set(told)) == len(told)

    def test_an_event_that_came_too_early_may_come_again(self, store: SqlStore) -> None:
        store.jobs.add([new_job()])
        assert store.jobs.record([observed(3, DONE)]) == []
        assert len(store.jobs.record([observed(2, RUNNING), observed(3, DONE)])) == 2

    def test_events_of_unknown_jobs_are_dropped(self, store: SqlStore) -> None:
        assert store.jobs.record([observed(1, QUEUED)]) == []
        assert store.jobs.record([]) == []

    def test_more_jobs_than_a_statement_has_parameters(self, store: SqlStore) -> None:
        ids = [f"{number:05}" for number in range(5_100)]
        store.jobs.add([new_job(job_id) for job_id in ids])
        assert len(store.jobs.record([observed(2, RUNNING, job=one) for one in ids])) == 5_100
        assert store.jobs.counts()[RUNNING] == 5_100

    def test_a_lost_job_waits_again_under_the_next_dispatch(self, store: SqlStore) -> None:
        store.jobs.add([new_job()])
        assert store.jobs.put_back("job", 1).dispatch == 2  # type: ignore[union-attr]
        assert len(store.jobs.events("job")) == 1, "it waited, and waits still"
        store.jobs.record([observed(2, RUNNING, {"done": 1}, dispatch=2)])
        assert store.jobs.put_back("job", 1) is None, "somebody did it already"
        job = store.jobs.put_back("job", 2)
        assert job is not None
        assert (job.state, job.dispatch, job.seen, job.started_at) == (QUEUED, 3, 0, None)
        [*_, last] = store.jobs.events("job")
        assert (last.event.state, last.event.number, last.at) == (QUEUED, 3, NOW)
        late = [observed(3, DONE, dispatch=2), observed(1, QUEUED, dispatch=3)]
        assert store.jobs.record(late) == []
        run_to(store, DONE, dispatch=3)
        assert store.jobs.get("job").attempts == 2  # type: ignore[union-attr]
        assert store.jobs.put_back("job", 3) is None
        assert store.jobs.put_back("other", 1) is None

    @pytest.mark.parametrize("end", [FAILED, LATE])
    def test_what_failed_may_be_tried_again(self, store: SqlStore, end: JobState) -> None:
        store.jobs.add([new_job()])
        store.jobs.request_cancel("job")
        run_to(store, end)
        job = store.jobs.retry("job", at=200.0)
        assert job is not None
        assert (job.state, job.dispatch, job.answer, job.ended_at) == (QUEUED, 2, None, None)
        assert (job.first_number, job.last_number, job.attempts) == (4, 4, 1)
        assert (job.cancel_requested, job.worker_id, job.progress) == (False, None, None)
        assert store.jobs.events("job")[-1].at == 200.0
        assert store.jobs.retry("job", at=201.0) is None
        run_to(store, DONE, dispatch=2)
        first_end = store.jobs.events("job")[2].event
        assert first_end.answer == replace_id(answer(end), "job"), "history keeps the first end"
        assert store.jobs.get("job").answer.status is DONE  # type: ignore[union-attr]

    @pytest.mark.parametrize("end", [DONE, CANCELLED])
    def test_what_ended_well_is_not_tried_again(self, store: SqlStore, end: JobState) -> None:
        store.jobs.add([new_job()])
        run_to(store, end)
        assert store.jobs.retry("job", at=200.0) is None
        assert store.jobs.retry("other", at=200.0) is None

    def test_a_wish_to_cancel_is_noted(self, store: SqlStore) -> None:
        store.jobs.add([new_job()])
        assert store.jobs.request_cancel("job").cancel_requested  # type: ignore[union-attr]
        assert store.jobs.get("job").cancel_requested  # type: ignore[union-attr]
        assert store.jobs.request_cancel("other") is None

    def test_a_waiting_job_ends_unsent(self, store: SqlStore) -> None:
        store.jobs.add([new_job(webhook=HOOK)])
        ended = store.jobs.end_unsent("job", LATE, "ttl", "It waited too long.", at=102.5)
        assert ended is not None
        job = store.jobs.get("job")
        assert job is not None
        assert job.answer is not None
        assert job.answer.error == JobError(code="ttl", message="It waited too long.")
        assert (job.state, job.answer.status, job.answer.delay_time_ms) == (LATE, LATE, 2500)
        assert (job.ended_at, job.attempts) == (102.5, 0)
        assert store.jobs.events("job", after=1) == [ended]
        assert store.jobs.end_unsent("job", LATE, "ttl", "Again.", at=103.0) is None
        assert len(store.webhooks.due(200.0)) == 1

    def test_only_a_waiting_job_ends_unsent(self, store: SqlStore) -> None:
        store.jobs.add([new_job()])
        store.jobs.record([observed(2, RUNNING)])
        assert store.jobs.end_unsent("job", CANCELLED, "cancelled", "No.", at=102.0) is None
        assert store.jobs.get("job").state is RUNNING  # type: ignore[union-attr]

    def test_jobs_are_found_newest_first(self, store: SqlStore) -> None:
        store.jobs.add(
            [
                new_job("a", created_at=1.0, owner="me"),
                new_job("b", created_at=2.0, endpoint="other", kind=JobKind.BENCHMARK),
                new_job("c", created_at=3.0),
                new_job("d", created_at=4.0, owner="me", kind=JobKind.BENCHMARK),
            ]
        )
        run_to(store, DONE, "c")

        def found(**wanted: Any) -> str:
            return "".join(job.id for job in store.jobs.find(JobFilter(**wanted)))

        assert found() == "dcba"
        assert found(limit=2) == "dc"
        assert found(before=3.0) == "ba"
        assert found(endpoint="other") == "b"
        assert found(kind=JobKind.BENCHMARK) == "db"
        assert found(state=DONE) == "c"
        assert found(owner="me", before=4.0) == "a"
        assert "".join(job.id for job in store.jobs.open_jobs()) == "abd"

    def test_counts_and_the_oldest_waiting(self, store: SqlStore) -> None:
        assert store.jobs.oldest_waiting() is None
        assert store.jobs.counts() == dict.fromkeys(JobState, 0)
        store.jobs.add([new_job("a", created_at=1.0), new_job("b", created_at=2.0)])
        store.jobs.add([new_job("c", created_at=3.0, endpoint="other")])
        run_to(store, DONE, "a")
        assert store.jobs.oldest_waiting() == 2.0
        assert store.jobs.counts() == dict.fromkeys(JobState, 0) | {QUEUED: 2, DONE: 1}
        store.jobs.put_back("b", 1)
        store.jobs.record([observed(2, RUNNING, job="b", dispatch=2)])
        assert store.jobs.count_retried("default") == 0
        store.jobs.put_back("b", 2)
        store.jobs.record([observed(2, RUNNING, job="b", dispatch=3)])
        assert store.jobs.count_retried("default") == 1
        assert store.jobs.count_retried("other") == 0
        assert store.jobs.counts("other") == dict.fromkeys(JobState, 0) | {QUEUED: 1}

    def test_an_idempotency_key_is_bound_once(self, store: SqlStore) -> None:
        bind = store.jobs.remember_request
        with ThreadPoolExecutor(4) as pool:
            bound = list(pool.map(lambda n: bind("s", "key", f"d{n}", f"id{n}", 10.0), range(8)))
        assert len(set(bound)) == 1
        assert bind("s", "other", "d9", "id9", 20.0) == ("d9", "id9")
        assert bind("t", "key", "d9", "id9", 20.0) == ("d9", "id9")
        assert store.jobs.forget_requests(before=15.0) == 1
        assert bind("s", "key", "new", "new", 30.0) == ("new", "new")

    def test_record_keeps_its_rules_over_random_histories(self, store: SqlStore) -> None:
        other = open_store(store.database.url.render_as_string(hide_password=False))
        check_recording(store, other)
        other.close()

    def test_a_webhook_is_due_with_the_terminal_event(self, store: SqlStore) -> None:
        store.jobs.add([new_job(webhook=HOOK), new_job("quiet")])
        run_to(store, FAILED)
        run_to(store, FAILED, "quiet")
        assert store.webhooks.due(102.9) == []
        [hook] = store.webhooks.due(103.0)
        assert (hook.id, hook.job_id, hook.url, hook.attempts) == ("msg_job_3", "job", HOOK, 0)
        assert JobAnswer.model_validate_json(hook.body) == replace_id(answer(FAILED), "job")
        assert "null" not in hook.body
        assert store.webhooks.due(162.9) == [], "claimed for a minute"
        [again] = store.webhooks.due(163.0)
        assert again.id == hook.id, "whoever had it died"
        store.webhooks.failed(hook.id, 500.0, "HTTP 503")
        assert store.webhooks.due(499.0) == []
        assert store.webhooks.due(500.0)[0].attempts == 1
        store.webhooks.delivered(hook.id)
        assert store.webhooks.due(1e12) == []
        store.jobs.retry("job", at=600.0)
        run_to(store, DONE, dispatch=2)
        assert [one.id for one in store.webhooks.due(1e12)] == ["msg_job_6"]
        store.webhooks.failed("msg_job_6", None, "gone")
        assert store.webhooks.due(1e13) == []

    def test_a_webhook_is_given_to_one_process(self, store: SqlStore) -> None:
        ids = [f"job{number}" for number in range(30)]
        store.jobs.add([new_job(job_id, webhook=HOOK) for job_id in ids])
        for job_id in ids:
            run_to(store, DONE, job_id)
        with ThreadPoolExecutor(4) as pool:
            given = list(pool.map(lambda _: store.webhooks.due(200.0, limit=5), range(12)))
        told = [hook.id for hooks in given for hook in hooks]
        told += [hook.id for hook in store.webhooks.due(200.0, limit=30)]
        assert len(told) == len(set(told)) == 30

    def test_check_of_a_sound_store(self, store: SqlStore) -> None:
        store.check()


def replace_id(given: JobAnswer, job_id: str) -> JobAnswer:
    return given.model_copy(update={"id": job_id})
