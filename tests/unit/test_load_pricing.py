"""What a thousand good answers cost."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recording_factory import a_recording
from visiondyno.loadtest.pricing import (
    CLOUD_RUN_TIER_1,
    busy_s,
    cloud_run_pricing,
    cost_usd_per_1000_requests,
    mean_instances,
)
from visiondyno.loadtest.recording import Outcome
from visiondyno.measurements.measure import Measure
from visiondyno.report.load_test import Resources, ResourceSample
from visiondyno.specs.load_test import Pricing

NOTHING = Measure(value=None, unit="cores", method="none", reason="not looked at")


def seen(*replicas: tuple[float, int | None]) -> Resources:
    return Resources(
        source="a test",
        samples=tuple(
            ResourceSample(at_s=at_s, cpu_cores=None, memory_bytes=None, replicas=count)
            for at_s, count in replicas
        ),
        cpu_cores_mean=NOTHING,
        peak_memory_bytes=NOTHING,
    )


PRICES = st.floats(0, 100)
SPANS = st.lists(st.tuples(st.integers(0, 10**11), st.integers(0, 10**10)), min_size=1, max_size=40)


def spans(pairs):
    began = np.array([begin for begin, _ in pairs], np.int64)
    return began, began + np.array([length for _, length in pairs], np.int64)


def test_no_price_is_no_cost():
    recording = a_recording([5.0] * 10)
    assert cost_usd_per_1000_requests(None, recording, None) is None
    assert cost_usd_per_1000_requests(Pricing(), recording, None) is None


def test_no_good_answer_has_no_cost_but_a_reason():
    recording = a_recording([5.0] * 3, outcomes=dict.fromkeys(range(3), Outcome.BAD_STATUS))
    cost = cost_usd_per_1000_requests(Pricing(usd_per_hour=1), recording, None)
    assert cost.value is None
    assert cost.reason == "no request got a good answer"


@given(PRICES, st.integers(1, 200), st.integers(0, 50))
def test_an_hourly_price_is_shared_by_the_good_answers(usd_per_hour, good, bad):
    failed = dict.fromkeys(range(good, good + bad), Outcome.BAD_STATUS)
    recording = a_recording([5.0] * (good + bad), outcomes=failed)
    cost = cost_usd_per_1000_requests(Pricing(usd_per_hour=usd_per_hour), recording, None)
    assert cost.value == pytest.approx(usd_per_hour * recording.elapsed_s / 3600 * 1000 / good)
    assert cost.unit == "USD/1000 requests"
    assert cost.n == good
    assert not cost.estimated
    assert "given by the user" in cost.method


@given(PRICES, PRICES, st.floats(0.1, 32), st.floats(0.1, 64), st.integers(1, 9))
def test_instances_are_billed_for_the_round_in_steps_of_100_ms(vcpu, gib, vcpus, size, count):
    recording = a_recording([5.0] * 100)
    pricing = Pricing(usd_per_vcpu_s=vcpu, usd_per_gib_s=gib, vcpus=vcpus, memory_gib=size)
    cost = cost_usd_per_1000_requests(pricing, recording, seen((0, count), (9, count)))
    billed_s = math.ceil(recording.elapsed_s * 10) / 10
    expected = count * billed_s * (vcpu * vcpus + gib * size) * 1000 / 100
    assert cost.value == pytest.approx(expected)
    assert not cost.estimated


@given(SPANS)
def test_one_instance_is_billed_while_it_has_a_request(pairs):
    began, ended = spans(pairs)
    billed_s = busy_s(began, ended)
    # By brute force: stretches of moments that lie in some request.
    stretches: list[list[int]] = []
    for begin, end in sorted(zip(began.tolist(), ended.tolist(), strict=True)):
        if stretches and begin <= stretches[-1][1]:
            stretches[-1][1] = max(stretches[-1][1], end)
        else:
            stretches.append([begin, end])
    expected = sum(math.ceil((end - begin) / 10**8) for begin, end in stretches) / 10
    assert billed_s == pytest.approx(expected)


@given(SPANS, st.integers(1, 20))
def test_several_instances_are_billed_no_less_than_one_and_no_more_than_apart(pairs, instances):
    began, ended = spans(pairs)
    one, several = busy_s(began, ended), busy_s(began, ended, instances)
    apart = sum(math.ceil(length / 10**8) for _, length in pairs) / 10
    assert one <= several + 1e-9
    assert several <= min(instances * one, apart) + 1e-9
    assert several <= busy_s(began, ended, instances + 1) + 1e-9


def test_nothing_sent_is_nothing_billed():
    assert busy_s(np.array([], np.int64), np.array([], np.int64)) == 0


def test_cloud_run_by_the_request():
    # 10 requests/s of 50 ms each: every one is billed as 100 ms, which leaves no gap.
    recording = a_recording([50.0] * 100, lag_ms=0.0)
    pricing = cloud_run_pricing("request", vcpus=2, memory_gib=4)
    cost = cost_usd_per_1000_requests(pricing, recording, None)
    per_s = 2 * 0.000024 + 4 * 0.0000025
    assert cost.value == pytest.approx(1000 * (10 * per_s + 100 * 0.40 / 1e6) / 100)
    assert cost.estimated
    assert "1 instance ASSUMED" in cost.method
    assert "request-based" in cost.method
    assert "2026-10" in cost.method
    assert "no free tier" in cost.method


def test_cloud_run_by_the_instance():
    recording = a_recording([50.0] * 100, lag_ms=0.0)
    pricing = cloud_run_pricing("instance", vcpus=1, memory_gib=0.5)
    cost = cost_usd_per_1000_requests(pricing, recording, None)
    # 9.95 s of the round are billed as 10.
    assert cost.value == pytest.approx(1000 * 10 * (0.000018 + 0.5 * 0.000002) / 100)
    assert cost.estimated
    told = cost_usd_per_1000_requests(pricing, recording, seen((0, 1), (5, 3), (10, 3)))
    assert told.value == pytest.approx(2 * cost.value)
    assert not told.estimated
    assert "2 instances by samples" in told.method


def test_requests_that_never_left_cost_nothing():
    never = dict.fromkeys(range(50, 100), Outcome.NOT_SENT)
    pricing = Pricing(usd_per_million_requests=1.0)
    cost = cost_usd_per_1000_requests(pricing, a_recording([5.0] * 100, outcomes=never), None)
    assert cost.value == pytest.approx(0.001)


def test_prices_are_added():
    recording = a_recording([5.0] * 100)
    both = Pricing(usd_per_hour=2, usd_per_million_requests=3)
    parts = [Pricing(usd_per_hour=2), Pricing(usd_per_million_requests=3)]
    costs = [cost_usd_per_1000_requests(part, recording, None).value for part in parts]
    whole = cost_usd_per_1000_requests(both, recording, None)
    assert whole.value == pytest.approx(sum(costs))
    assert "2 USD/h × 9.9 s + 3 USD a million requests" in whole.method


@pytest.mark.parametrize("part", ["usd_per_vcpu_s", "usd_per_gib_s"])
def test_one_of_the_two_prices_by_the_second_is_enough(part):
    pricing = Pricing(**{part: 0.01}, vcpus=2, memory_gib=2)
    cost = cost_usd_per_1000_requests(pricing, a_recording([100.0] * 10), seen((0, 1)))
    assert cost.value == pytest.approx(1000 * 1.0 * 0.02 / 10)


def test_instances_are_weighed_by_how_long_they_were():
    assert mean_instances(None) is None
    assert mean_instances(seen((0, None), (1, None))) is None
    assert mean_instances(seen((0, 3))) == 3
    assert mean_instances(seen((0, 1), (0, 3))) == 2
    assert mean_instances(seen((0, 1), (1, 5), (4, 9))) == 4
    assert mean_instances(seen((0, 1), (1, None), (4, 9))) == 1


def test_a_count_of_none_while_somebody_answered_isnt_believed():
    pricing = cloud_run_pricing("instance", 1, 1)
    recording = a_recording([5.0] * 10)
    none = cost_usd_per_1000_requests(pricing, recording, seen((0, 0), (9, 0)))
    assert none.value == cost_usd_per_1000_requests(pricing, recording, None).value
    assert "ASSUMED" in none.method


def test_the_list_has_both_ways_of_billing():
    assert set(CLOUD_RUN_TIER_1) == {"request", "instance"}
    assert CLOUD_RUN_TIER_1["instance"].usd_per_million_requests is None
