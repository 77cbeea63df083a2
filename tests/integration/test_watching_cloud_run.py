"""A Cloud Run service watched through a stand-in for Google's servers, over HTTP."""

import asyncio
import json
import sys
import threading

import pytest

from cloud_monitoring_stand_in import (
    ACCOUNT,
    PROJECT,
    cloud_monitoring,
    distribution_point,
    new_key,
    number_point,
    one_series,
)
from stepped_clock import SleeplessClock
from visiondyno.errors import Forbidden, MissingExtra, NotFound, SpecError, Unavailable
from visiondyno.loadtest.watching.choosing import watcher_for
from visiondyno.loadtest.watching.cloud_monitoring import CloudMonitoring, load_credentials
from visiondyno.loadtest.watching.cloud_run import CloudRunWatcher
from visiondyno.specs.load_test import TargetSpec, WatchedCloudRun

NOON = 1_800_000_000.0  # a whole minute
GIB = 2**30


@pytest.fixture
def google(tmp_path):
    with cloud_monitoring(tmp_path) as stand_in:
        yield stand_in


def watcher_on(google, clock, *, told=None, project=PROJECT, vcpus=2.0, memory_gib=4.0, **more):
    watched = WatchedCloudRun(
        project=project,
        service="detector",
        location="europe-west1",
        credentials_file=str(google.key_file),
    )
    return CloudRunWatcher(
        watched,
        vcpus=vcpus,
        memory_gib=memory_gib,
        on_progress=told,
        clock=clock.clock,
        endpoint=google.url,
        **more,
    )


def watch(google, seconds, *, begin_s=NOON, **options):
    clock = SleeplessClock(begin_s)

    async def main():
        watcher = watcher_on(google, clock, **options)
        await watcher.start()
        clock.now_s += seconds
        return await watcher.stop(), watcher.measures()

    return *asyncio.run(main()), clock


def service(cpu, memory, instances, startups=(), *, shown_until=lambda: float("inf")):
    """What the stand-in tells of a service: values by the minute's end, minutes after noon."""

    def series(metric, begin, end):
        def shown(points):
            return [
                (NOON + 60 * minute, value)
                for minute, value in points.items()
                if begin < NOON + 60 * minute <= min(end, shown_until())
            ]

        if metric == "instance_count":
            return [
                one_series([number_point(*p) for p in shown(counts)], "INT64", state=state)
                for state, counts in instances.items()
                if shown(counts)
            ]
        if metric == "startup_latencies":
            points = [
                distribution_point(at, values, [0.0, 500.0, 1000.0, 2000.0])
                for at, values in shown(dict(startups))
            ]
        else:
            told = cpu if metric == "cpu/utilizations" else memory
            points = [distribution_point(*point) for point in shown(told)]
        return [one_series(points)] if points else []

    return series


STEADY = service(
    {1: [0.2, 0.4], 2: [0.5, 0.7], 3: [0.6, 0.6], 4: [0.1, 0.1]},
    {1: [0.25], 2: [0.5], 3: [0.75], 4: [0.25]},
    {"active": {1: 1, 2: 2, 3: 2, 4: 1}, "idle": {1: 0, 2: 0, 3: 1, 4: 0}},
    {2: [800.0, 900.0], 3: [1500.0]},
)


def test_the_whole_minutes_of_a_window_make_cores_bytes_and_instances(google):
    google.series = STEADY
    found, measures, _ = watch(google, 200, begin_s=NOON + 30)
    # From 00:30 to 03:50 UTC past noon: the minutes that end at 2 and 3.
    assert [sample.at_s for sample in found.samples] == [90, 150]
    assert [sample.replicas for sample in found.samples] == [2, 3]
    assert [sample.cpu_cores for sample in found.samples] == pytest.approx([2.4, 3.6])
    assert found.cpu_cores_mean.value == pytest.approx(3.0)
    assert found.cpu_cores_mean.estimated
    assert found.peak_memory_bytes.value == 3 * 0.75 * 4 * GIB
    assert "whole minutes" in found.source
    assert "detector in europe-west1" in found.source
    assert measures["cpu_utilization_mean"].value == pytest.approx(0.6)
    assert measures["cpu_utilization_p99"].value == pytest.approx(0.8, abs=0.02)
    assert measures["memory_utilization_mean"].value == pytest.approx(0.625)
    assert measures["instances_mean"].value == 2.5
    assert measures["startup_latency_mean_ms"].value == pytest.approx(3200 / 3)
    assert 1000 < measures["startup_latency_p99_ms"].value <= 2000
    assert measures["startup_latency_mean_ms"].n == 3


def test_a_short_window_takes_the_minute_it_lies_in_and_says_so(google):
    google.series = STEADY
    found, _, _ = watch(google, 30, begin_s=NOON + 70)
    assert [sample.replicas for sample in found.samples] == [2]
    assert found.cpu_cores_mean.value == pytest.approx(2.4)
    assert "time without load is in them" in found.cpu_cores_mean.method


def test_what_is_asked_is_what_the_api_wants_and_signed_with_the_key(google):
    google.series = STEADY
    watch(google, 200, begin_s=NOON + 30)
    by_metric = {
        asked["filter"][0].split('"')[1].split("container/")[1]: asked for asked in google.asked
    }
    assert set(by_metric) == {
        "cpu/utilizations",
        "memory/utilizations",
        "startup_latencies",
        "instance_count",
    }
    cpu = by_metric["cpu/utilizations"]
    assert cpu == {
        "filter": [
            (
                'metric.type = "run.googleapis.com/container/cpu/utilizations" AND '
                'resource.type = "cloud_run_revision" AND '
                'resource.labels.service_name = "detector" AND '
                'resource.labels.location = "europe-west1"'
            )
        ],
        "interval.startTime": ["2027-01-15T08:00:00Z"],
        "interval.endTime": ["2027-01-15T08:04:00Z"],
        "aggregation.alignmentPeriod": ["60s"],
        "aggregation.perSeriesAligner": ["ALIGN_DELTA"],
        "aggregation.crossSeriesReducer": ["REDUCE_SUM"],
    }
    count = by_metric["instance_count"]
    assert count["aggregation.perSeriesAligner"] == ["ALIGN_MAX"]
    assert count["aggregation.groupByFields"] == ["metric.labels.state"]
    (claims,) = google.claims
    assert claims["iss"] == ACCOUNT
    assert claims["aud"] == "https://oauth2.googleapis.com/token"
    assert claims["scope"] == "https://www.googleapis.com/auth/monitoring.read"


def test_late_points_are_waited_for_and_the_waiting_is_told(google):
    clock_now = []
    # The last minute, which ends at 3, can be seen 4 minutes later.
    google.series = service(
        {2: [0.5], 3: [0.5]},
        {2: [0.5], 3: [0.5]},
        {"active": {2: 1, 3: 1}},
        shown_until=lambda: NOON + (180 if clock_now[0].now_s > 360 else 120),
    )
    clock = SleeplessClock(NOON)
    clock_now.append(clock)
    told = []

    async def main():
        watcher = watcher_on(google, clock, told=told.append)
        await watcher.start()
        clock.now_s = 190.0
        return await watcher.stop()

    found = asyncio.run(main())
    assert [sample.replicas for sample in found.samples] == [1, 1]
    assert clock.slept == [15.0] * 12
    assert len(told) == 12
    assert "some minutes late: waiting for those of 08:03:00 UTC (0 of at most 300 s)" in told[0]


def test_what_never_comes_is_waited_for_so_long_and_has_a_reason(google):
    found, measures, clock = watch(google, 60)
    assert sum(clock.slept) == 300
    assert found.samples == ()
    assert found.cpu_cores_mean.value is None
    assert "told nothing of the service within 300 s" in found.cpu_cores_mean.reason
    assert found.peak_memory_bytes.value is None
    assert measures == {}


def test_what_came_in_time_is_kept_where_the_rest_never_does(google):
    google.series = service({1: [0.5]}, {1: [0.5]}, {"active": {1: 1, 2: 1}})
    found, _, _ = watch(google, 120)
    assert [sample.cpu_cores for sample in found.samples] == [1.0, None]
    assert found.cpu_cores_mean.value == 1.0
    google.series = service({1: [0.5]}, {1: [0.5]}, {"active": {2: 1}})
    found, _, _ = watch(google, 120)
    assert "one and the same minute" in found.cpu_cores_mean.reason


def test_without_the_size_of_an_instance_shares_are_all_there_is(google):
    google.series = STEADY
    found, measures, _ = watch(google, 120, vcpus=None, memory_gib=None)
    assert found.cpu_cores_mean.value is None
    assert "give 'vcpus' in the target's pricing" in found.cpu_cores_mean.reason
    assert "give 'memory_gib' in the target's pricing" in found.peak_memory_bytes.reason
    assert measures["cpu_utilization_mean"].value == pytest.approx(0.45)


def test_series_of_several_pages_are_put_together(google):
    google.series = service(
        {1: [0.5]}, {1: [0.5]}, {f"state-{number}": {1: number} for number in range(1, 6)}
    )
    google.page_size = 2
    found, _, _ = watch(google, 60)
    assert found.samples[0].replicas == 15
    tokens = [asked["pageToken"][0] for asked in google.asked if "pageToken" in asked]
    assert tokens == ["2", "4"]


def test_a_quota_and_a_failure_are_asked_again_after_the_pause_they_want(google):
    google.series = STEADY
    google.refusals = [429, 503]
    google.retry_after = "7"
    found, _, clock = watch(google, 120)
    assert found.cpu_cores_mean.value is not None
    assert clock.slept == [7.0, 7.0]
    google.refusals, google.retry_after = [429] * 5, None
    found, _, clock = watch(google, 120)
    assert clock.slept == [2.0, 4.0, 8.0, 16.0]
    assert found.cpu_cores_mean.value is None
    assert "no answer in 5 attempts: status 429: Refused with 429" in found.cpu_cores_mean.reason


def check(google, **options):
    async def main():
        await watcher_on(google, SleeplessClock(NOON), **options).check()

    asyncio.run(main())


def test_the_check_passes_where_metrics_may_be_read(google):
    check(google)
    assert google.asked[0]["interval.startTime"] == ["2027-01-15T07:50:00Z"]


def test_the_check_says_what_to_do_where_they_may_not(google):
    google.refusals = [403]
    with pytest.raises(Forbidden, match=r"roles/monitoring\.viewer"):
        check(google)
    google.refusals = [400]
    with pytest.raises(SpecError, match=r"refused the query .status 400: Refused with 400"):
        check(google)
    with pytest.raises(NotFound, match="no project 'another'"):
        check(google, project="another")


def test_a_token_that_is_refused_names_the_account(google):
    google.token_status = 400
    with pytest.raises(Forbidden, match=f"gave the service account {ACCOUNT} no token"):
        check(google)


def test_a_key_that_isnt_the_accounts_is_refused(google, tmp_path):
    accounts, google.key = google.key, new_key("another's")
    google.write_key(tmp_path / "other.json")
    google.key = accounts
    with pytest.raises(Forbidden, match="no token"):
        check(google)


def test_answers_that_arent_the_apis_are_unavailable(google):
    for raw in (b"<html>", b"[]", b'{"timeSeries": [{"points": [{"value": {}}]}]}'):
        google.raw = raw
        with pytest.raises(Unavailable, match="isn't"):
            check(google)


def test_a_server_that_cant_be_reached_is_unavailable(google):
    content = json.loads(google.key_file.read_text())
    token = content["token_uri"]
    content["token_uri"] = "http://127.0.0.1:9/token"
    google.key_file.write_text(json.dumps(content))
    with pytest.raises(Unavailable, match="server for tokens can't be reached"):
        check(google)
    content["token_uri"] = token
    google.key_file.write_text(json.dumps(content))

    async def nowhere():
        clock = SleeplessClock()
        monitoring = CloudMonitoring(
            PROJECT,
            load_credentials(str(google.key_file)),
            endpoint="http://127.0.0.1:9",
            sleep=clock.sleep,
        )
        try:
            await monitoring.series(
                watcher_on(google, clock)._query("instance_count", NOON, NOON + 60)
            )
        finally:
            await monitoring.aclose()

    with pytest.raises(Unavailable, match="no answer in 5 attempts"):
        asyncio.run(nowhere())


def test_pages_without_end_are_let_go(google, monkeypatch):
    monkeypatch.setattr("visiondyno.loadtest.watching.cloud_monitoring._MOST_PAGES", 3)
    google.page_size = 1
    google.series = lambda *_: [one_series([number_point(NOON, 1)], "INT64")] * 10
    with pytest.raises(Unavailable, match="over 3 pages"):
        check(google)


def test_the_key_file_may_be_named_by_the_environment(google, monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(google.key_file))
    assert load_credentials(None).service_account_email == ACCOUNT
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    with pytest.raises(SpecError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        load_credentials(None)
    with pytest.raises(SpecError, match="can't be read: No such file"):
        load_credentials(str(tmp_path / "none.json"))
    for content in ("not json", "{}", '{"type": "authorized_user"}'):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(SpecError, match="no key of a service account"):
            load_credentials(str(tmp_path / "other.json"))


def test_names_that_would_change_the_filter_are_refused(google):
    for name in ('a" OR "b', "", "a b", "-x"):
        with pytest.raises(SpecError, match="no project, location or service"):
            check(google, project=name)


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.oauth2.service_account", None)
    with pytest.raises(MissingExtra, match=r"visiondyno\[gcp\]"):
        load_credentials("key.json")


@pytest.mark.parametrize(
    ("pricing", "vcpus", "memory_gib"),
    [
        (None, None, None),
        ({"usd_per_hour": 1.0}, None, None),
        ({"usd_per_vcpu_s": 1.0, "usd_per_gib_s": 1.0}, 1.0, 0.5),
        ({"usd_per_hour": 1.0, "vcpus": 4, "memory_gib": 8}, 4.0, 8.0),
    ],
    ids=["none", "by the hour", "by the second", "said"],
)
def test_the_size_of_an_instance_is_the_users_word_and_no_default(
    google, pricing, vcpus, memory_gib
):
    watch = {
        "kind": "cloud-run",
        "project": PROJECT,
        "service": "detector",
        "location": "x",
        "credentials_file": str(google.key_file),
    }
    target = TargetSpec.model_validate({"url": "http://x/", "watch": watch, "pricing": pricing})
    watcher = watcher_for(target)
    assert isinstance(watcher, CloudRunWatcher)
    assert (watcher._vcpus, watcher._memory_gib) == (vcpus, memory_gib)


def test_no_thread_is_left_behind(google):
    check(google)
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if "google" in name.lower()]
