"""How often a job of RunPod's is looked at: in time for those who wait, and within quotas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.executors.runpod_job import SeenJob
from visiondyno.executors.throttle import RUNPOD_QUOTAS, WINDOW_S
from visiondyno.job import JobState


def looks_s(until_s: float, *, followed: int = 1) -> list[float]:
    """When a job is looked at of which nothing new is seen."""
    job, now_s, found = SeenJob("j", "j", 0.0), 0.0, [0.0]
    job.become(JobState.IN_PROGRESS)
    while now_s < until_s:
        job.plan_next_look(len(job.events), age_s=now_s, followed=followed)
        now_s += job.pause_s
        found.append(now_s)
    return found


@given(st.floats(0.0, 100.0))
def test_an_end_is_seen_soon(end_s: float) -> None:
    seen_s = next(at_s for at_s in looks_s(200.0) if at_s >= end_s)
    assert seen_s - end_s <= min(2.0, max(0.02, end_s / 2))


def test_a_quiet_job_is_left_in_peace() -> None:
    assert len(looks_s(0.5)) <= 16
    rare = looks_s(60.0)
    assert len(rare) < 60
    assert rare[-1] - rare[-2] == 2.0


@pytest.mark.parametrize("followed", [1, 10, 50, 199])
def test_many_jobs_together_keep_to_half_the_quota(followed: int) -> None:
    in_a_window = followed * (len(looks_s(WINDOW_S, followed=followed)) - 1)
    assert in_a_window <= RUNPOD_QUOTAS["status"].requests / 2 + followed


def test_news_bring_the_next_look_nearer() -> None:
    job = SeenJob("j", "j", 0.0)
    job.become(JobState.IN_PROGRESS)
    for age_s in (10.0, 12.0, 14.0, 16.0):
        job.plan_next_look(len(job.events), age_s=age_s, followed=1)
    before_s, seen = job.pause_s, len(job.events)
    job.tell([{"done": 1}])
    job.plan_next_look(seen, age_s=18.0, followed=1)
    assert job.pause_s == pytest.approx(0.1)
    assert before_s > 0.3
