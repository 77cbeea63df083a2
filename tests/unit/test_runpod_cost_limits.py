"""How long a job may still run within a limit of cost, and a cost as it is written down."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import BudgetSpent
from visiondyno.executors.cost import Cost
from visiondyno.executors.runpod_cost import CostMeter
from visiondyno.probes.cost import Price

DOLLAR_A_SECOND = Price(3600.0, None, "given by the user")
TIMES = st.integers(0, 40_000).map(lambda milliseconds: milliseconds / 1000)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@given(
    st.floats(0.01, 2.0), st.lists(st.tuples(TIMES, TIMES), max_size=8), st.floats(0.001, 1000.0)
)
def test_as_long_as_is_affordable_is_admitted_and_a_second_more_is_not(
    max_cost_usd: float, ended: list[tuple[float, float]], usd_per_hour: float
) -> None:
    clock = Clock()
    price = Price(usd_per_hour, None, "given by the user")
    meter = CostMeter(price, max_cost_usd=max_cost_usd, clock=clock, start_s=60.0)
    for number, (delay_s, ran_s) in enumerate(ended):
        if not meter.affordable_s():
            break
        with_limit_ms = max(1, int((meter.affordable_s() or 0.0) * 1000))
        meter.accepted(meter.admit(with_limit_ms), str(number))
        clock.now_s += delay_s + ran_s
        meter.ended(
            str(number),
            worker_id="w",
            delay_ms=round(delay_s * 1000),
            execution_ms=round(ran_s * 1000),
        )
    left_s = meter.affordable_s()
    assert left_s is not None
    assert left_s >= 0.0
    with pytest.raises(BudgetSpent):
        meter.admit(int(left_s * 1000) + 2000)
    if left_s >= 1.0:
        meter.admit(int(left_s * 1000))
        assert (meter.affordable_s() or 0.0) < 2.0  # all of it is set aside


@given(
    st.floats(0.001, 5.0),
    st.lists(st.integers(5_000, 900_000), max_size=4),
    st.integers(5_000, 86_400_000),
    st.floats(0.01, 50.0),
)
def test_a_refusal_names_a_limit_that_is_enough(
    max_cost_usd: float, others_ms: list[int], wanted_ms: int, usd_per_hour: float
) -> None:
    def refused(limit_usd: float) -> str | None:
        price = Price(usd_per_hour, None, "given by the user")
        meter = CostMeter(price, max_cost_usd=limit_usd)
        try:
            for limit_ms in (*others_ms, wanted_ms):
                meter.admit(limit_ms)
        except BudgetSpent as error:
            return error.message
        return None

    told = refused(max_cost_usd)
    for _ in others_ms:  # it names what is enough for one more job
        found = re.search(r"--max-cost to ([0-9.]+) or more", told or "")
        told = refused(float(found[1])) if found else told
    if told is not None:
        found = re.search(r"--max-cost to ([0-9.]+) or more", told)
        assert found is not None
        assert refused(float(found[1])) is None


def test_without_a_limit_any_time_is_affordable() -> None:
    assert CostMeter(DOLLAR_A_SECOND).affordable_s() is None
    assert CostMeter(DOLLAR_A_SECOND, max_cost_usd=1.0).affordable_s() == 0.0


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0.001, 1000.0))
def test_a_cost_as_json_has_its_numbers_and_by_which_price(
    at_least_s: int, more_s: int, usd_per_hour: float
) -> None:
    cost = Cost(at_least_s, at_least_s + more_s, Price(usd_per_hour, "A4000", "a table, 2026-11"))
    told = json.loads(json.dumps(cost.to_json()))
    assert told == {
        "kind": "estimated",
        "worker_s_at_least": at_least_s,
        "worker_s_at_most": at_least_s + more_s,
        "usd_at_least": pytest.approx(at_least_s * usd_per_hour / 3600),
        "usd_at_most": pytest.approx((at_least_s + more_s) * usd_per_hour / 3600),
        "usd_per_hour": usd_per_hour,
        "gpu": "A4000",
        "price_source": "a table, 2026-11",
    }


def test_a_job_that_moved_between_two_looks_is_paid_from_its_arrival() -> None:
    clock = Clock()
    meter = CostMeter(DOLLAR_A_SECOND, clock=clock, start_s=10.0, stop_s=0.0)
    meter.accepted(meter.admit(None), "a")
    clock.now_s = 1.0
    meter.saw("a", "first", 1_000)
    clock.now_s = 300.0
    # Its first worker died; that it waited again wasn't seen. It ran there for 270 s.
    meter.ended("a", worker_id="second", delay_ms=271_000, execution_ms=29_000)
    for cost in (meter.of("a"), meter.total()):
        assert (cost.worker_s_at_least, cost.worker_s_at_most) == (29, 305)


def test_a_stopped_jobs_worker_is_paid_until_its_next_ping() -> None:
    clock = Clock()
    meter = CostMeter(DOLLAR_A_SECOND, clock=clock, stop_s=0.0)
    for job_id, has_run in (("ran", True), ("waited", False)):
        meter.accepted(meter.admit(None), job_id)
        clock.now_s += 30.0
        told = {"delay_ms": 10_000, "execution_ms": 20_000} if has_run else {}
        meter.ended(
            job_id, worker_id="w" if has_run else None, has_run=has_run, was_stopped=True, **told
        )
        clock.now_s += 100.0
    ran, waited = meter.of("ran"), meter.of("waited")
    assert (ran.worker_s_at_least, ran.worker_s_at_most) == (20, 30 + 12 + 5)
    assert (waited.worker_s_at_least, waited.worker_s_at_most) == (0, 30 + 5)
