"""Flags and YAML of `dyno loadtest` to its spec."""

import pytest
import yaml

from visiondyno.cli.loadtest_options import seconds_of, spec_of
from visiondyno.errors import SpecError
from visiondyno.specs.load_test import (
    ClosedLoad,
    ConstantLoad,
    LoadTestSpec,
    PoissonLoad,
    RampLoad,
    SpikeLoad,
)

URL = "http://host/predict"


def spec(*urls, config=None, **given) -> LoadTestSpec:
    return spec_of(urls or (URL,), config, given)


def test_a_url_alone_is_ten_a_second_for_half_a_minute():
    assert spec() == LoadTestSpec.model_validate({"targets": [{"url": URL}]})
    assert spec().load == ConstantLoad(rate_per_s=10, duration_s=30)


@pytest.mark.parametrize(
    ("given", "load"),
    [
        ({"rate": 5.0, "duration": 60.0}, ConstantLoad(rate_per_s=5, duration_s=60)),
        ({"poisson": True, "rate": 2.0}, PoissonLoad(rate_per_s=2)),
        (
            {"ramp": "1-50", "duration": 20.0},
            RampLoad(from_rate_per_s=1, to_rate_per_s=50, duration_s=20),
        ),
        (
            {"spike": "80@2.5s+500ms", "rate": 4.0},
            SpikeLoad(rate_per_s=4, spike_rate_per_s=80, spike_start_s=2.5, spike_duration_s=0.5),
        ),
        (
            {"closed": 8, "think_time": 0.5, "requests": 40},
            ClosedLoad(concurrency=8, think_time_s=0.5, requests=40),
        ),
    ],
    ids=["constant", "poisson", "ramp", "spike", "closed"],
)
def test_each_kind_of_load_has_flags(given, load):
    assert spec(**given).load == load


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"poisson": True, "closed": 3}, "two loads"),
        ({"ramp": "1-50", "rate": 3.0}, "--rate doesn't fit a ramp load"),
        ({"think_time": 1.0}, "--think-time doesn't fit a constant load"),
        ({"ramp": "fast"}, "isn't FROM-TO"),
        ({"spike": "50"}, "isn't RATE@START[+]LENGTH"),
        ({"spike": "50@20s+30s"}, "ends after the test"),
        ({"header": ("no colon and a secret",)}, "'Name: value'"),
        ({"watch": ("pid:x",)}, "isn't one of pid:NUMBER"),
        ({"watch": ("cloud-run:only",)}, "cloud-run:PROJECT/LOCATION/SERVICE"),
        ({"json": "{"}, "isn't JSON"),
        ({"json": "@/nowhere/at/all.json"}, "can't be read"),
        ({"name": ("a", "b")}, "2 of --name for 1 targets"),
        ({"price_per_hour": (1.0,), "cloud_run_price": ("request:1:1",)}, "two prices"),
        ({"cloud_run_price": ("1:1",)}, "BILLING:VCPUS:GIB"),
        ({"find_rate": True}, "give it with --limit-p99-ms"),
        ({"rate": -1.0}, "rate_per_s"),
        ({"image": ("a.jpg",), "json": "1"}, "give one of"),
        ({"rounds": 0}, "rounds"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(given, said):
    with pytest.raises(SpecError, match=said) as raised:
        spec(**given)
    assert "secret" not in raised.value.message
    assert "\n" not in raised.value.message


def test_request_flags_are_for_every_target():
    found = spec(
        "http://a/", "http://b/",
        image=("photos",), header=("X-A: 1", "X-B:  two words "), method="put", name=("x", "y"),
    )  # fmt: skip
    assert [target.name for target in found.targets] == ["x", "y"]
    for target in found.targets:
        assert target.images == ("photos",)
        assert target.headers == {"X-A": "1", "X-B": "two words"}
        assert target.method == "PUT"


def test_watches_and_prices_are_one_for_all_or_one_each():
    both = spec("http://a/", "http://b/", watch=("prometheus",), price_per_hour=(0.5,))
    assert [target.watch.kind for target in both.targets] == ["prometheus"] * 2
    assert [target.pricing.usd_per_hour for target in both.targets] == [0.5, 0.5]
    each = spec(
        "http://a/", "http://b/",
        watch=("pid:12", "cgroup:/sys/fs/cgroup/x"), price_per_hour=(0.5, 1.0),
    )  # fmt: skip
    assert each.targets[0].watch.pid == 12
    assert each.targets[1].watch.path == "/sys/fs/cgroup/x"
    cloud = spec(watch=("cloud-run:p/europe-west1/s",), cloud_run_price=("request:2:4",))
    (target,) = cloud.targets
    assert (target.watch.project, target.watch.location, target.watch.service) == (
        "p", "europe-west1", "s",
    )  # fmt: skip
    assert (target.pricing.vcpus, target.pricing.memory_gib) == (2, 4)
    assert "Cloud Run" in target.pricing.source
    assert spec(watch=("prometheus:http://m/metrics",)).targets[0].watch.url == "http://m/metrics"


def a_file(tmp_path, **fields):
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(fields))
    return file


def test_flags_override_a_file(tmp_path):
    file = a_file(
        tmp_path,
        targets=[{"url": "http://a/", "headers": {"X": "1", "Y": "1"}, "json_body": {"a": 1}}],
        load={"kind": "poisson", "rate_per_s": 3, "duration_s": 12},
        rounds=4,
        timeout_s=2,
    )
    plain = spec_of((), file, {})
    assert plain.load == PoissonLoad(rate_per_s=3, duration_s=12)
    assert plain.rounds == 4
    found = spec_of(
        (), file,
        {"rate": 9.0, "rounds": 2, "header": ("X: 2",), "image": ("b.jpg",), "timeout": 5.0},
    )  # fmt: skip
    assert found.load == PoissonLoad(rate_per_s=9, duration_s=12)
    assert (found.rounds, found.timeout_s) == (2, 5)
    assert found.targets[0].headers == {"X": "2", "Y": "1"}
    assert found.targets[0].images == ("b.jpg",)
    assert found.targets[0].json_body is None
    spiked = spec_of((), file, {"spike": "9@1+2"})
    assert spiked.load == SpikeLoad(
        rate_per_s=3, spike_rate_per_s=9, spike_start_s=1, spike_duration_s=2, duration_s=12
    )
    closed = spec_of((), file, {"closed": 2})
    assert closed.load == ClosedLoad(concurrency=2, duration_s=12)
    assert [one.url for one in spec_of((URL,), file, {}).targets] == [URL]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rounds": 2}, "Which target"),
        ({"targets": "http://a/"}, "is a list"),
        ({"targets": ["http://a/"]}, "'key: value' lines"),
        ({"targets": [{"url": "http://a/"}], "durration": 2}, "durration"),
    ],
)
def test_a_file_that_cannot_be(tmp_path, fields, said):
    with pytest.raises(SpecError, match=said):
        spec_of((), a_file(tmp_path, **fields), {})


def test_json_may_come_from_a_file(tmp_path):
    file = tmp_path / "body.json"
    file.write_text('{"inputs": [1]}')
    assert spec(json=f"@{file}").targets[0].json_body == {"inputs": [1]}


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("250ms", 0.25), ("1.5m", 90), ("2min", 120), ("1h", 3600)]
)
def test_times(text, seconds):
    assert seconds_of(text, "--duration") == seconds


def test_what_is_no_time():
    with pytest.raises(SpecError, match="--duration 'soon'"):
        seconds_of("soon", "--duration")
