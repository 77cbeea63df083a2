"""Which watcher a target gets, and what goes with it."""

import pytest

from visiondyno.errors import SpecError
from visiondyno.loadtest.watching.cgroup import CgroupWatcher
from visiondyno.loadtest.watching.choosing import metrics_url, watcher_for
from visiondyno.loadtest.watching.pid import PidWatcher
from visiondyno.loadtest.watching.prometheus import PrometheusWatcher
from visiondyno.specs.load_test import TargetSpec

URL = "http://127.0.0.1:8080/predict?conf=0.5"


def chosen(watch, **more):
    return watcher_for(TargetSpec.model_validate({"url": URL, "watch": watch, **more}))


def test_each_kind_has_its_watcher_and_none_has_none():
    assert chosen(None) is None
    assert isinstance(chosen({"kind": "pid", "pid": 1}), PidWatcher)
    assert isinstance(chosen({"kind": "cgroup", "path": "a"}), CgroupWatcher)
    assert isinstance(chosen({"kind": "prometheus"}), PrometheusWatcher)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, "http://127.0.0.1:8080/metrics"),
        ("https://user:pw@host/v2/models?x#y", "https://host/metrics"),
        ("http://[::1]:80/", "http://[::1]:80/metrics"),
    ],
)
def test_metrics_lie_beside_what_is_asked(url, expected):
    assert metrics_url(url) == expected


@pytest.mark.parametrize("url", ["ftp://host/", "host:80", "http://", "http://[half", "http://h:x"])
def test_what_is_no_address_has_no_metrics(url):
    with pytest.raises(SpecError, match="no http"):
        metrics_url(url)


@pytest.mark.parametrize(
    ("metrics", "goes_along"),
    [
        (None, True),
        ("http://127.0.0.1:8080/other", True),
        ("http://127.0.0.1:9090/metrics", False),
        ("https://127.0.0.1:8080/metrics", False),
    ],
)
def test_the_targets_key_goes_to_the_target_alone(metrics, goes_along):
    watcher = chosen(
        {"kind": "prometheus", "url": metrics}, headers={"Authorization": "Bearer secret"}
    )
    assert ("authorization" in watcher._make_client().headers) == goes_along


@pytest.mark.parametrize("url", ["http://user:secret@h:x/metrics", "http://user:secret@[half"])
def test_an_address_of_metrics_that_is_none_is_refused_without_its_password(url):
    with pytest.raises(SpecError, match="isn't a URL") as caught:
        chosen({"kind": "prometheus", "url": url})
    assert "secret" not in caught.value.message


def test_the_record_has_no_password():
    watcher = chosen({"kind": "prometheus", "url": "http://user:secret@host/metrics"})
    assert "http://host/metrics" in watcher._source()
