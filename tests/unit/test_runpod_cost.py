"""The bounds of a cost hold the bill; no job is admitted that could pass the limit."""

import math
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import BudgetSpent, NotFound, SpecError
from visiondyno.executors.billed_time import BilledTime, rounded_up_s
from visiondyno.executors.runpod_cost import Cost, CostMeter
from visiondyno.probes.cost import Price, find_price, known_prices
from visiondyno.probes.gpu_catalogue import cheapest_fitting, rented_gpus, suggestion

DOLLAR_A_SECOND = Price(3600.0, None, "given by the user")
IDLE_S, START_S = 5.0, 60.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def meter_of(clock: Clock, **options: Any) -> CostMeter:
    return CostMeter(DOLLAR_A_SECOND, clock=clock, **{"stop_s": 0.0, **options})


def submitted(meter: CostMeter, job_id: str, limit_ms: int | None = None) -> None:
    meter.accepted(meter.admit(limit_ms), job_id)


def seconds(cost: Cost) -> tuple[int, int]:
    return cost.worker_s_at_least, cost.worker_s_at_most


# ---- billed time

SPANS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30)), max_size=40)


@given(SPANS)
def test_billed_time_is_the_union_of_spans_each_rounded_up(spans: list[tuple[int, int]]) -> None:
    time_s = BilledTime()
    covered: set[int] = set()
    for start, length in spans:
        time_s.add(start / 4, (start + length) / 4)
        covered.update(range(start, start + length))
    assert time_s.length_s == pytest.approx(len(covered) / 4)
    runs, run = [], 0
    for quarter in range(240):
        if quarter in covered:
            run += 1
        elif run:
            runs.append(run)
            run = 0
    # Spans that touch are one; a union of quarters that touch is one run.
    assert time_s.billed_s == sum(math.ceil(run / 4) for run in runs)
    copy = time_s.copy()
    copy.add(1000.0, 1001.5)
    assert copy.billed_s == time_s.billed_s + 2


def test_a_microsecond_too_many_is_no_second() -> None:
    assert rounded_up_s(2.0000000001) == 2
    assert rounded_up_s(2.001) == 3


# ---- bounds


@dataclass
class Worker:
    """Starts when it is needed, runs jobs one after another, and stops when it idles."""

    start_s: float
    stop_s: float
    free_s: float = -math.inf
    spans: list[list[float]] = field(default_factory=list)

    def run(self, arrives_s: float, takes_s: float) -> float:
        """Run a job; when it starts."""
        if self.spans and arrives_s <= self.free_s + IDLE_S:
            begins_s = max(arrives_s, self.free_s)
        else:
            again_s = max(arrives_s, self.spans[-1][1]) if self.spans else arrives_s
            self.spans.append([again_s, 0.0])
            begins_s = again_s + self.start_s
        self.free_s = begins_s + takes_s
        self.spans[-1][1] = self.free_s + IDLE_S + self.stop_s
        return begins_s

    def billed_s(self) -> int:
        return sum(rounded_up_s(end - start) for start, end in self.spans)


TIMES = st.integers(0, 40_000).map(lambda milliseconds: milliseconds / 1000)
JOBS = st.lists(st.tuples(st.integers(0, 2), TIMES, TIMES), max_size=20)


@given(
    JOBS,
    st.lists(TIMES, min_size=3, max_size=3),
    st.floats(0, 9),
    st.randoms(use_true_random=False),
)
def test_the_bill_is_between_the_bounds(
    jobs: list[tuple[int, float, float]], starts: list[float], stop_s: float, random: Random
) -> None:
    clock = Clock()
    meter = meter_of(clock, idle_timeout_s=IDLE_S, start_s=START_S, stop_s=9.0)
    workers = [Worker(start_s, stop_s) for start_s in starts]
    facts = []
    for number, (which, gap_s, takes_s) in enumerate(jobs):
        clock.now_s += gap_s
        submitted(meter, str(number))
        begins_s = workers[which].run(clock.now_s, takes_s)
        facts.append((str(number), which, begins_s - clock.now_s, takes_s))
    clock.now_s = 1e6  # however late all of it is seen
    random.shuffle(facts)
    for job_id, which, delay_s, takes_s in facts:
        meter.ended(
            job_id,
            worker_id=f"w{which}",
            delay_ms=round(delay_s * 1000),
            execution_ms=round(takes_s * 1000),
        )
    billed_s = sum(worker.billed_s() for worker in workers)
    at_least_s, at_most_s = seconds(meter.total())
    assert at_least_s <= billed_s <= at_most_s
    # Apart from starts, which nobody sees, the upper bound isn't far off.
    assert at_most_s <= billed_s + len(jobs) * (START_S + 9.0 + 1)
    costs = [meter.of(job_id) for job_id, *_ in facts]
    assert sum(cost.worker_s_at_least for cost in costs) == at_least_s
    for cost in costs:
        assert 0 <= cost.worker_s_at_least <= cost.worker_s_at_most


def test_one_job_costs_its_run_at_least_and_start_and_idle_time_at_most() -> None:
    clock = Clock()
    meter = meter_of(clock)
    submitted(meter, "a")
    assert seconds(meter.of("a")) == (0, 665)  # start, execution timeout and idle time
    clock.now_s = 90.0
    meter.ended("a", worker_id="w", delay_ms=80_000, execution_ms=1_200)
    # Of the 80 s that it waited, at most 60 can have been a worker's start.
    assert seconds(meter.of("a")) == seconds(meter.total()) == (2, 67)
    assert meter.total().kind == "estimated"
    assert (meter.total().usd_at_least, meter.total().usd_at_most) == (2.0, 67.0)
    assert str(meter.total()) == (
        "2.0000 to 67.0000 USD (estimated: 2 to 67 s of worker time at 3600 USD an hour, given by "
        "the user)"
    )


def test_jobs_at_once_on_one_worker_share_its_time() -> None:
    clock = Clock()
    meter = meter_of(clock, start_s=0.0)
    for job_id in ("a", "b"):
        submitted(meter, job_id)
        meter.ended(job_id, worker_id="w", delay_ms=0, execution_ms=10_000)
    assert seconds(meter.total()) == (10, 15)
    assert [seconds(meter.of(job_id)) for job_id in ("a", "b")] == [(10, 15), (0, 0)]


@pytest.mark.parametrize(
    ("told", "bounds"),
    [
        ({}, (0, 105)),  # whether and when it ran isn't told
        ({"has_run": False}, (0, 65)),  # a worker may have started for it
        ({"execution_ms": 7_000}, (7, 105)),
        ({"delay_ms": 90_000}, (0, 75)),  # from start to what was seen of the end
        ({"delay_ms": 90_000, "execution_ms": 7_000, "was_put_back": True}, (7, 105)),
    ],
    ids=["nothing", "never ran", "no delay", "no execution", "put back"],
)
def test_what_is_not_told_widens_the_bounds(told: dict[str, Any], bounds: tuple[int, int]) -> None:
    clock = Clock()
    meter = meter_of(clock)
    submitted(meter, "a")
    clock.now_s = 100.0
    meter.ended("a", **told)
    assert seconds(meter.total()) == bounds
    meter.ended("a", execution_ms=50_000)  # it has ended already
    meter.ended("stranger", execution_ms=50_000)
    assert seconds(meter.total()) == bounds


def test_what_runs_is_counted_up_to_now() -> None:
    clock = Clock()
    meter = meter_of(clock, start_s=1.0)
    for job_id in ("a", "b"):
        submitted(meter, job_id)
    clock.now_s = 30.0
    assert seconds(meter.total()) == (0, 0)  # it waits, as far as anyone knows
    meter.saw("a", "w", None)
    assert seconds(meter.total()) == (0, 6)
    meter.saw("a", "w", 10_000)  # now it is told; an earlier start replaces a later one
    meter.saw("a", None, 25_000)
    assert seconds(meter.total()) == (0, 26)
    meter.saw("b", "w", 10_000)
    meter.saw("stranger", "w", 0)
    assert seconds(meter.total()) == (0, 26)  # both on one worker
    clock.now_s = 1000.0
    assert seconds(meter.of("a")) == (0, 996)
    meter.ended("b", worker_id="w", delay_ms=10_000, execution_ms=1_000)
    meter.ended("a")
    assert seconds(meter.total()) == (1, 996)


def test_a_retry_adds_its_own_time_whatever_its_delay_is_counted_from() -> None:
    clock = Clock()
    meter = meter_of(clock, start_s=0.0)
    submitted(meter, "a", 20_000)
    clock.now_s = 10.0
    meter.ended("a", worker_id="w", delay_ms=0, execution_ms=2_000)
    clock.now_s = 100.0
    meter.accepted(meter.admit_again("a"), "a")
    assert seconds(meter.of("a")) == (2, 7 + 25)  # with the limit of the first attempt
    clock.now_s = 110.0
    meter.ended("a", worker_id="w", delay_ms=103_000, execution_ms=4_000)
    assert seconds(meter.of("a")) == (6, 7 + 15)


# ---- the limit


def test_no_job_is_admitted_that_could_pass_the_limit() -> None:
    clock = Clock()
    meter = meter_of(clock, max_cost_usd=200.0)
    submitted(meter, "a", 30_000)  # 60 + 30 + 5
    second = meter.admit(30_000)
    with pytest.raises(BudgetSpent) as caught:
        meter.admit(30_000)
    for told in ("200 USD", "190.0000 are set aside for 2", "take 95.0000", "to 285.0000 or more"):
        assert told in caught.value.message
    assert caught.value.exit_code == 2
    meter.withdrawn(second)
    submitted(meter, "b", 30_000)
    meter.ended("a", delay_ms=0, execution_ms=1_000)  # 6 of the 95
    submitted(meter, "c", 30_000)
    with pytest.raises(BudgetSpent, match=r"6\.0000 are spent"):
        meter.admit(1)
    assert not meter.has_passed()


def test_a_submission_in_doubt_costs_all_that_it_could() -> None:
    meter = meter_of(Clock(), max_cost_usd=700.0)
    meter.doubted(meter.admit(None))
    assert seconds(meter.total()) == (0, 665)
    with pytest.raises(BudgetSpent, match=r"665\.0000 are spent"):
        meter.admit(None)


def test_the_limit_may_be_passed_by_what_runs_too_long() -> None:
    clock = Clock()
    meter = meter_of(clock, max_cost_usd=100.0)
    submitted(meter, "a", 30_000)
    meter.saw("a", "w", 0)
    clock.now_s = 95.0
    assert not meter.has_passed()
    clock.now_s = 95.1
    assert meter.has_passed()
    error = meter.limit_error()
    assert "limit of 100 USD" in error.message
    assert "0.0000 to 101.0000 USD" in error.message
    clock.now_s = 1e5
    assert not meter_of(clock).has_passed()


@given(
    st.lists(st.tuples(st.integers(1, 60_000), st.integers(0, 60_000), TIMES), max_size=30),
    st.floats(1.0, 1000.0),
)
def test_jobs_within_their_limits_never_cost_more_than_allowed(
    jobs: list[tuple[int, int, float]], most_usd: float
) -> None:
    clock = Clock()
    meter = meter_of(clock, max_cost_usd=most_usd)
    for number, (limit_ms, delay_ms, gap_s) in enumerate(jobs):
        clock.now_s += gap_s
        try:
            submitted(meter, str(number), limit_ms)
        except BudgetSpent:
            continue
        if number % 3:
            meter.ended(str(number), delay_ms=delay_ms, execution_ms=limit_ms)
        assert not meter.has_passed()


def test_the_cost_of_a_stranger_is_not_known() -> None:
    with pytest.raises(NotFound, match="stranger"):
        meter_of(Clock()).of("stranger")


@pytest.mark.parametrize(
    "options",
    [
        {"max_cost_usd": 0.0},
        {"max_cost_usd": math.nan},
        {"max_cost_usd": math.inf},
        {"idle_timeout_s": -1.0},
        {"start_s": math.nan},
        {"stop_s": -1.0},
        {"execution_timeout_s": math.inf},
    ],
    ids=range(7),
)
def test_limits_and_times_that_are_none_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="give"):
        meter_of(Clock(), **options)


def test_the_price_of_a_gpu_is_that_of_the_table() -> None:
    clock = Clock()
    meter = CostMeter(find_price("A4000"), clock=clock, start_s=0.0, stop_s=2.0)
    submitted(meter, "a")
    meter.ended("a", delay_ms=0, execution_ms=93_000)
    assert meter.total().usd_at_most == pytest.approx(100 * 0.00016)
    assert "RunPod serverless" in str(meter.total())


# ---- which GPU


def test_every_gpu_of_the_price_table_has_its_memory() -> None:
    gpus = rented_gpus()
    assert {gpu.name: gpu.usd_per_hour for gpu in gpus} == known_prices()
    assert [gpu.usd_per_hour for gpu in gpus] == sorted(known_prices().values())


@given(st.integers(0, 200_000_000_000))
def test_the_cheapest_gpu_that_fits_is_suggested(needed_bytes: int) -> None:
    fitting = [gpu for gpu in rented_gpus() if gpu.memory_bytes >= needed_bytes]
    if not fitting:
        with pytest.raises(SpecError, match="B200 with 180 GB"):
            cheapest_fitting(needed_bytes)
        return
    found = cheapest_fitting(needed_bytes)
    assert found in fitting
    assert found.usd_per_hour == min(gpu.usd_per_hour for gpu in fitting)


@pytest.mark.parametrize(
    ("needed_gb", "name"),
    [(0, "A4500"), (20, "A4500"), (21, "L4"), (25, "A6000"), (80, "A100"), (81, "RTX PRO 6000")],
)
def test_of_the_same_price_the_larger_memory_is_taken(needed_gb: int, name: str) -> None:
    assert cheapest_fitting(needed_gb * 10**9).name == name


def test_a_suggestion_names_gpu_memory_price_and_source() -> None:
    assert suggestion(13_000_000_000) == (
        "The cheapest GPU that holds 13.0 GB is the A4500 (20 GB) at 0.576 USD an hour (RunPod "
        "serverless, flex workers, 2026-11)."
    )
    with pytest.raises(SpecError, match="bytes"):
        suggestion(-1)
