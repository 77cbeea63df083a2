"""The emulated endpoint's rules, one by one, with time made up."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.emulator.billing import billed_seconds
from visiondyno.emulator.clock import ScaledClock
from visiondyno.emulator.config import EndpointConfig, Kind, Quota, Scaler
from visiondyno.emulator.endpoint import Endpoint, JobEnded, new_worker_id
from visiondyno.emulator.faults import AnswerStatus, CutAnswer, FaultBook
from visiondyno.emulator.fleet import KillWorker, StartWorker, TerminateWorker
from visiondyno.emulator.quotas import RequestQuotas
from visiondyno.emulator.submission import read_json
from visiondyno.errors import NotFound, SpecError, TooLarge
from visiondyno.job import JobState


def an_endpoint(**options: Any) -> Endpoint:
    names = (f"w{n}" for n in range(100))
    return Endpoint(EndpointConfig(**options), lambda: next(names))


def submit(endpoint: Endpoint, now_s: float, **policy: Any) -> str:
    return endpoint.submit({"input": {"x": 1}, "policy": policy}, Kind.RUN, now_s).id


def take(endpoint: Endpoint, worker: str, now_s: float, most: int = 1) -> list[str]:
    jobs = endpoint.take(worker, most, now_s, says_busy=False)
    return [job["id"] for job in jobs]


def state(endpoint: Endpoint, job_id: str) -> JobState:
    return endpoint.jobs.find(job_id).state


# ---- scaling


def test_the_first_job_starts_a_worker_and_others_only_after_the_delay() -> None:
    endpoint = an_endpoint()
    assert endpoint.advance(0.0) == []
    for _ in range(5):
        submit(endpoint, 0.0)
    assert endpoint.advance(0.0) == [StartWorker("w0")]
    assert endpoint.advance(3.9) == []
    assert endpoint.next_deadline_s(3.9) == 4.0
    assert endpoint.advance(4.0) == [StartWorker("w1"), StartWorker("w2")]


def test_by_request_count_there_is_a_worker_for_every_so_many_jobs() -> None:
    endpoint = an_endpoint(scaler=Scaler.REQUEST_COUNT, scaler_value=2.0)
    for _ in range(3):
        submit(endpoint, 0.0)
    assert endpoint.advance(0.0) == [StartWorker("w0"), StartWorker("w1")]
    assert endpoint.advance(100.0) == []
    submit(endpoint, 100.0)
    submit(endpoint, 100.0)
    assert endpoint.advance(100.0) == [StartWorker("w2")]


def test_jobs_of_low_priority_start_no_worker_and_come_last() -> None:
    endpoint = an_endpoint()
    low = submit(endpoint, 0.0, lowPriority=True)
    assert endpoint.advance(50.0) == []
    high = submit(endpoint, 50.0)
    assert endpoint.advance(50.0) == [StartWorker("w0")]
    assert take(endpoint, "w0", 51.0, most=5) == [high, low]


def test_an_idle_worker_is_told_to_end_and_killed_if_it_does_not() -> None:
    endpoint = an_endpoint(workers_min=0, stop_grace_s=10.0)
    job = submit(endpoint, 0.0)
    endpoint.advance(0.0)
    take(endpoint, "w0", 1.0)
    endpoint.finish("w0", job, {"output": 1}, 1, 3.0)
    assert [type(order) for order in endpoint.advance(7.9)] == [JobEnded]
    assert endpoint.advance(8.0) == [TerminateWorker("w0")]
    assert take(endpoint, "w0", 8.0) == []
    assert endpoint.has_ended("w0")
    assert endpoint.advance(17.9) == []
    assert endpoint.advance(18.0) == [KillWorker("w0")]
    endpoint.worker_left("w0", 18.2)
    assert endpoint.bill(100.0).billed_s == 19
    with pytest.raises(NotFound, match="w0"):
        endpoint.heard_ping("w0", [], 19.0)


def test_workers_at_the_least_stay_however_idle() -> None:
    endpoint = an_endpoint(workers_min=1)
    assert endpoint.advance(0.0) == [StartWorker("w0")]
    take(endpoint, "w0", 1.0)
    for now_s in range(5, 500, 5):
        endpoint.heard_ping("w0", [], float(now_s))
        assert endpoint.advance(float(now_s)) == []


def test_crashes_at_the_start_are_met_with_growing_pauses() -> None:
    endpoint = an_endpoint(workers_min=1)
    endpoint.advance(0.0)
    now_s, pauses = 0.0, []
    for n in range(9):
        endpoint.worker_left(f"w{n}", now_s)
        assert endpoint.advance(now_s) == []
        at_s = endpoint.next_deadline_s(now_s)
        pauses.append(at_s - now_s)
        now_s = at_s
        assert endpoint.advance(now_s) == [StartWorker(f"w{n + 1}")]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    take(endpoint, "w9", now_s)
    endpoint.worker_left("w9", now_s)
    assert endpoint.advance(now_s) == [StartWorker("w10")], "this one had begun"


# ---- deaths


def test_a_silent_worker_is_killed_and_its_job_goes_to_another() -> None:
    endpoint = an_endpoint(ping_interval_s=10.0, missed_pings=3)
    job = submit(endpoint, 0.0)
    endpoint.advance(0.0)
    assert take(endpoint, "w0", 1.0) == [job]
    endpoint.heard_ping("w0", [job], 11.0)
    assert endpoint.advance(40.9) == []
    assert endpoint.advance(41.0) == [KillWorker("w0")]
    assert endpoint.health()["workers"]["unhealthy"] == 1
    endpoint.worker_left("w0", 41.5)
    assert endpoint.advance(41.5) == [StartWorker("w1")]
    assert state(endpoint, job) == JobState.IN_QUEUE
    assert not endpoint.finish("w0", job, {"output": "late"}, 1, 42.0)
    assert take(endpoint, "w1", 43.0) == [job]
    endpoint.worker_left("w1", 44.0)
    found = endpoint.jobs.find(job).status()
    assert [found["status"], found["retries"]] == ["FAILED", 1]
    assert found["error"] == "job timed out after 1 retries"


def test_a_worker_that_never_asks_for_a_job_is_killed() -> None:
    endpoint = an_endpoint(init_timeout_s=420.0)
    submit(endpoint, 0.0)
    endpoint.advance(0.0)
    assert KillWorker("w0") not in endpoint.advance(419.9)
    assert KillWorker("w0") in endpoint.advance(420.0)


def test_jobs_that_are_put_back_keep_their_order_before_the_others() -> None:
    endpoint = an_endpoint()
    jobs = [submit(endpoint, 0.0) for _ in range(4)]
    endpoint.advance(0.0)
    assert take(endpoint, "w0", 1.0, most=2) == jobs[:2]
    endpoint.worker_left("w0", 2.0)
    assert [job.id for job in endpoint.jobs.waiting()] == jobs


# ---- stopping jobs


def with_a_running_job(**options: Any) -> tuple[Endpoint, str]:
    endpoint = an_endpoint(ping_interval_s=10.0, **options)
    job = submit(endpoint, 0.0, executionTimeout=20_000)
    endpoint.advance(0.0)
    take(endpoint, "w0", 0.0)
    endpoint.heard_ping("w0", [job], 5.0)
    return endpoint, job


def cancelled(endpoint: Endpoint, job: str) -> float:
    endpoint.cancel(job, 6.0)
    return 6.0


def timed_out(endpoint: Endpoint, _: str) -> float:
    endpoint.heard_ping("w0", [_], 15.0)
    assert endpoint.next_deadline_s(15.0) == 20.0
    endpoint.advance(20.0)
    return 20.0


@pytest.mark.parametrize("end", [cancelled, timed_out], ids=["cancelled", "timed-out"])
@pytest.mark.parametrize("stops", [True, False], ids=["stops", "stuck"])
def test_who_runs_an_ended_job_is_told_and_killed_if_it_goes_on(
    end: Callable[[Endpoint, str], float], stops: bool
) -> None:
    endpoint, job = with_a_running_job()
    told_s = end(endpoint, job)
    assert endpoint.jobs_to_stop("w0") == [job]
    assert endpoint.jobs_to_stop("w0") == [], "told once"
    endpoint.heard_ping("w0", [], told_s + 0.5)  # may have been sent before
    assert endpoint.health()["workers"]["running"] == 1
    endpoint.heard_ping("w0", [] if stops else [job], told_s + 9.0)
    assert endpoint.health()["workers"]["running"] == (0 if stops else 1)
    orders = endpoint.advance(told_s + 12.0)
    assert (KillWorker("w0") in orders) != stops
    assert state(endpoint, job) == (JobState.CANCELLED if end is cancelled else JobState.TIMED_OUT)


def test_a_job_whose_time_to_live_ends_while_it_runs_is_forgotten() -> None:
    endpoint = an_endpoint()
    waits, runs = submit(endpoint, 0.0, ttl=10_000), submit(endpoint, 0.0, ttl=10_000)
    endpoint.advance(0.0)
    endpoint.cancel(waits, 0.0)
    assert take(endpoint, "w0", 1.0) == [runs]
    late = submit(endpoint, 1.0, ttl=10_000)
    endpoint.advance(11.0)
    with pytest.raises(NotFound):
        endpoint.jobs.find(runs)
    assert endpoint.jobs_to_stop("w0") == [runs]
    assert state(endpoint, late) == JobState.TIMED_OUT, "it had not begun"
    assert not endpoint.finish("w0", runs, {"output": 1}, 1, 12.0)
    assert endpoint.jobs.health()["inProgress"] == 0


@pytest.mark.parametrize(
    ("kind", "kept_s"), [(Kind.RUN, 1800.0), (Kind.RUNSYNC, 60.0)], ids=["run", "runsync"]
)
def test_what_became_of_a_job_is_kept_for_so_long(kind: Kind, kept_s: float) -> None:
    endpoint = an_endpoint()
    job = endpoint.submit({"input": 1, "webhook": "http://h/"}, kind, 0.0)
    endpoint.cancel(job.id, 5.0)
    orders = endpoint.advance(5.0)
    assert orders == [JobEnded(job.status(), "http://h/")]
    endpoint.advance(5.0 + kept_s - 0.001)
    assert endpoint.jobs.find(job.id) is job
    assert endpoint.next_deadline_s(5.0 + kept_s - 0.001) == 5.0 + kept_s
    endpoint.advance(5.0 + kept_s)
    with pytest.raises(NotFound):
        endpoint.jobs.find(job.id)


# ---- faults


def test_a_job_delivered_twice_has_the_first_answer_and_outlives_one_worker() -> None:
    endpoint = an_endpoint(workers_min=2)
    endpoint.deliver_again(1)
    job = submit(endpoint, 0.0)
    endpoint.advance(0.0)
    assert take(endpoint, "w0", 1.0) == [job]
    assert take(endpoint, "w1", 1.0) == [job]
    endpoint.worker_left("w0", 2.0)
    assert state(endpoint, job) == JobState.IN_PROGRESS
    assert endpoint.finish("w1", job, {"output": 1}, 1, 3.0)
    assert not endpoint.finish("w1", job, {"output": 2}, 1, 3.0)
    assert endpoint.jobs.find(job).status()["output"] == 1
    assert endpoint.jobs.find(job).status()["executionTime"] == 2000


def test_a_dropped_result_leaves_the_job_to_its_time_limit() -> None:
    endpoint, job = with_a_running_job(workers_min=1)
    endpoint.drop_results(1)
    assert not endpoint.finish("w0", job, {"output": 1}, 1, 6.0)
    assert endpoint.health()["workers"]["idle"] == 1
    endpoint.heard_ping("w0", [], 15.0)
    endpoint.advance(20.0)
    assert state(endpoint, job) == JobState.TIMED_OUT


def test_a_result_above_the_limit_is_refused_and_changes_nothing() -> None:
    endpoint, job = with_a_running_job()
    with pytest.raises(TooLarge, match="10 MB"):
        endpoint.finish("w0", job, {"output": 1}, 10_000_001, 6.0)
    assert state(endpoint, job) == JobState.IN_PROGRESS


def test_faults_meet_their_operation_in_order() -> None:
    book = FaultBook()
    first = AnswerStatus(kind="status", status=502, operation="run", count=2)
    book.arm(first)
    book.arm(CutAnswer(kind="reset"))
    assert isinstance(book.meet("status"), CutAnswer)
    assert book.meet("status") is None
    assert [isinstance(book.meet("run"), AnswerStatus) for _ in range(3)] == [True, True, False]
    assert first.count == 2, "what was asked for stays as it was"
    assert book.armed() == []


# ---- arithmetic


@given(st.floats(0, 1e6), st.integers(0, 10**6))
def test_whole_seconds_are_billed_as_they_are_and_parts_as_whole(
    start_s: float, seconds: int
) -> None:
    assert billed_seconds(start_s, start_s + seconds) == seconds
    assert billed_seconds(start_s, start_s + seconds + 0.01) == seconds + 1


@given(st.lists(st.floats(0, 100), max_size=60).map(sorted), st.integers(1, 5))
def test_no_ten_seconds_have_more_requests_than_the_quota(times: list[float], most: int) -> None:
    quotas = RequestQuotas({"run": Quota(most)})
    let_in = [at_s for at_s in times if quotas.enter("run", at_s)]
    for at_s in let_in:
        assert sum(at_s - 10.0 < other <= at_s for other in let_in) <= most
    for at_s in set(times) - set(let_in):
        assert sum(at_s - 10.0 < other <= at_s for other in let_in) == most


def test_requests_at_once_are_counted_until_they_leave() -> None:
    quotas = RequestQuotas({"run": Quota(100, 2)})
    assert [quotas.enter("run", 0.0) for _ in range(3)] == [True, True, False]
    quotas.leave("run")
    assert quotas.enter("run", 0.0)
    assert all(quotas.enter("health", 0.0) for _ in range(1000))


@given(st.floats(0.001, 1e4), st.floats(0, 1e6))
def test_the_clock_runs_as_fast_as_it_is_told(speed: float, passed_s: float) -> None:
    times = iter([5.0, 5.0 + passed_s])
    clock = ScaledClock(speed, lambda: next(times))
    assert math.isclose(clock(), passed_s * speed, rel_tol=1e-6, abs_tol=1e-6 * speed)
    assert math.isclose(clock.real_s(passed_s * speed), passed_s, rel_tol=1e-9, abs_tol=1e-300)


@pytest.mark.parametrize(
    "options",
    [
        {"workers_min": 2, "workers_max": 1},
        {"workers_max": 0},
        {"endpoint_id": ""},
        {"endpoint_id": "a/b"},
        {"idle_timeout_s": 0.0},
        {"ttl_s": math.inf},
        {"scaler_value": math.nan},
    ],
    ids=["least", "none", "empty", "slash", "idle", "ttl", "nan"],
)
def test_an_endpoint_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        EndpointConfig(**options)


def test_numbers_that_json_has_not_are_refused() -> None:
    assert read_json(b'{"x": [1, "\xc3\xa9"]}') == {"x": [1, "é"]}
    for body in (b"NaN", b"1e999", b'"\\ud800"', b"", b"\xff"):
        with pytest.raises(SpecError):
            read_json(body)


def test_workers_have_names_of_their_own() -> None:
    names = {new_worker_id() for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) == 14 and name.isalnum() for name in names)
