"""Dashboards and rules as files: written from their source, well formed, each alert tested."""

import json
import re
import subprocess
import sys
from itertools import combinations
from typing import Any

import pytest
import yaml

from observed import GRAFANA, OBSERVABILITY, ROOT, RULES
from services import binary

DASHBOARDS = ("visiondyno/inference.json", "visiondyno/fleet.json", "google-cloud/cloud-run.json")

# https://cloud.google.com/monitoring/api/metrics_gcp_p_z#gcp-run: kind of value, and its unit here
CLOUD_RUN_METRICS = {
    "request_count": ("delta", "reqps"),
    "request_latencies": ("distribution", "ms"),
    "container/instance_count": ("gauge", "short"),
    "container/startup_latencies": ("distribution", "ms"),
    "container/max_request_concurrencies": ("distribution", "short"),
    "container/cpu/utilizations": ("distribution", "percentunit"),
    "container/memory/utilizations": ("distribution", "percentunit"),
    "container/billable_instance_time": ("delta", "short"),
}
# https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.alertPolicies#Aligner
ALIGNERS = {"delta": {"ALIGN_RATE"}, "gauge": {"ALIGN_MAX"}, "distribution": {"ALIGN_DELTA"}}
REDUCERS = re.compile(r"REDUCE_(SUM|PERCENTILE_(50|95|99))")


def dashboard_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / name).read_text())
    return found


def drawn(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def promtool(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [binary("promtool"), *arguments], capture_output=True, text=True, check=False
    )


def test_the_committed_dashboards_are_what_their_source_says() -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "write_dashboards.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert {str(path.relative_to(GRAFANA)) for path in GRAFANA.rglob("*.json")} == set(DASHBOARDS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_says_what_to_do_and_in_which_unit(name: str) -> None:
    dashboard = dashboard_of(name)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    (datasource,) = (v for v in dashboard["templating"]["list"] if v["type"] == "datasource")
    for panel in drawn(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))
        for asking in (panel, *panel["targets"]):
            assert asking["datasource"] == {"type": datasource["query"], "uid": "${datasource}"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap(name: str) -> None:
    places = [panel["gridPos"] for panel in dashboard_of(name)["panels"]]
    for place in places:
        assert 0 <= place["x"] <= place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        ), (one, other)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_variable_is_used_and_every_used_one_is_there(name: str) -> None:
    dashboard = dashboard_of(name)
    there = {variable["name"] for variable in dashboard["templating"]["list"]}
    text = json.dumps([dashboard["panels"], dashboard["templating"]])
    used = set(re.findall(r"\$\{?([a-z]+)\}?", text))
    assert used == there


def test_queries_for_google_cloud_are_as_documented() -> None:
    asked = set()
    for panel in drawn(dashboard_of("google-cloud/cloud-run.json")):
        for target in panel["targets"]:
            assert target["queryType"] == "timeSeriesList"
            query = target["timeSeriesList"]
            assert query["projectName"] == "$project"
            filters = query["filters"]
            assert filters[3::4] == ["AND"] * (len(filters) // 4)
            conditions = {
                filters[i]: (filters[i + 1], filters[i + 2]) for i in range(0, len(filters), 4)
            }
            assert conditions["resource.type"] == ("=", "cloud_run_revision")
            assert conditions["resource.label.service_name"] == ("=~", "$service")
            operator, metric = conditions["metric.type"]
            assert operator == "="
            prefix, _, short = metric.partition("/")
            assert prefix == "run.googleapis.com"
            kind, unit = CLOUD_RUN_METRICS[short]
            assert panel["fieldConfig"]["defaults"]["unit"] == unit, panel["title"]
            assert query["perSeriesAligner"] in ALIGNERS[kind], panel["title"]
            assert REDUCERS.fullmatch(query["crossSeriesReducer"]), panel["title"]
            for label in query["groupBys"]:
                assert f"{{{{{label}}}}}" in target["aliasBy"]
            asked.add(short)
    assert asked == set(CLOUD_RUN_METRICS)


def test_provisioning_names_the_data_sources_of_the_dashboards() -> None:
    sources = [
        source
        for path in (OBSERVABILITY / "provisioning" / "datasources").glob("*.yaml")
        for source in yaml.safe_load(path.read_text())["datasources"]
    ]
    used = {
        variable["query"]
        for name in DASHBOARDS
        for variable in dashboard_of(name)["templating"]["list"]
        if variable["type"] == "datasource"
    }
    assert {source["type"] for source in sources} == used == {"prometheus", "stackdriver"}


def test_prometheus_takes_configuration_and_rules() -> None:
    for arguments in (
        ("check", "rules", str(RULES)),
        ("check", "config", str(OBSERVABILITY / "prometheus.yaml")),
    ):
        ran = promtool(*arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    cases = OBSERVABILITY / "prometheus" / "tests" / "visiondyno.test.yaml"
    ran = promtool("test", "rules", str(cases))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    expected: dict[str, set[bool]] = {}
    for case in yaml.safe_load(cases.read_text())["tests"]:
        for one in case["alert_rule_test"]:
            expected.setdefault(one["alertname"], set()).add(bool(one["exp_alerts"]))
    alerts = {rule["alert"] for rule in all_rules() if "alert" in rule}
    assert expected == {alert: {True, False} for alert in alerts}


def test_each_alert_says_what_happened_and_the_next_step() -> None:
    for rule in all_rules():
        if "alert" not in rule:
            continue
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"].rstrip().endswith(".")


def all_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]
