"""Debian's Prometheus over a real `dyno up` and `dyno serve`: what is asked of it is there."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import yaml

from observed import (
    RULES,
    PanelQuery,
    Prometheus,
    exported,
    filled_in,
    matched_labels,
    metric_names,
    panel_queries,
    prometheus,
    wait_for,
)
from otlp_collector import OtlpCollector, attributes_of
from worker_entries import ENVIRON

DYNO = [sys.executable, "-c", "from visiondyno.cli import main; main()"]
INFERENCE, FLEET = "visiondyno/inference.json", "visiondyno/fleet.json"
PANELS = {
    f"{name.split('/')[1].removesuffix('.json')}: {query.panel}, {query.legend}": query
    for name in (INFERENCE, FLEET)
    for query in panel_queries(name)
}
# What this machine has none of.
WITHOUT_DATA = {"GPU memory by replica", "GPU memory", "Share of the GPU's memory"}

pytestmark = pytest.mark.slow  # of starting three servers

BENCHMARK = {
    "operation": "benchmark",
    "models": ["visiondyno:street-n"],
    "data": "street:demo",
    "max_images": 4,
    "duration_s": 0.2,
    "resamples": 100,
    "scenarios": ["single-stream"],
    "price": "0.40",
}


@contextmanager
def program(home: Path, *arguments: str, **variables: str) -> Iterator[str]:
    """One of our servers; its URL, once it says so. It must end in good order."""
    log = home / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*DYNO, *arguments, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=home,
            env={**ENVIRON, "PYTHONUNBUFFERED": "1", "VISIONDYNO_HOME": str(home), **variables},
        )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"http://[\d.]+:\d+", line):
                yield found[0]
                break
        else:
            pytest.fail(f"{arguments[0]} didn't start:\n{log.read_text()}")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def run_job(url: str, job: dict[str, Any], request_id: str) -> dict[str, Any]:
    answer = httpx.post(
        f"{url}/v2/default/runsync",
        json={"input": job},
        headers={"X-Request-Id": request_id},
        timeout=120,
    )
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpCollector]:
    with OtlpCollector() as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def serve_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def up(home: Path, collector: OtlpCollector) -> Iterator[str]:
    """A server whose worker ran a benchmark, and refused a job."""
    told = ("--log-format", "json", "--access-log", str(home / "access.log"))
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with program(home, "up", "--workers", "1", *told, **traces) as url:
        done = run_job(url, BENCHMARK, "benchmark-1")
        assert done["status"] == "COMPLETED", done
        assert run_job(url, {"operation": "none"}, "refused-1")["status"] == "FAILED"
        yield url


@pytest.fixture(scope="module")
def serve(serve_home: Path, collector: OtlpCollector) -> Iterator[str]:
    """An inference server that has two replicas and answered something."""
    told = ("--log-format", "json", "--access-log", str(serve_home / "access.log"))
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    model = ("serve", "visiondyno:street-n", "--replicas", "2")
    with program(serve_home, *model, *told, **traces) as url:
        wait_for("a ready replica", lambda: httpx.get(f"{url}/ready").status_code == 200)
        predict(url)
        yield url


def predict(url: str) -> httpx.Response:
    """One good image, and one that is none."""
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    headers = {"Content-Type": "image/jpeg"}
    answer = httpx.post(f"{url}/predict", content=jpeg, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    httpx.post(f"{url}/predict", content=b"no image", headers=headers, timeout=60)
    return answer


@pytest.fixture(scope="module")
def watching(up: str, serve: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, once it has read both."""
    folder = tmp_path_factory.mktemp("prometheus")
    with prometheus(folder, {"api": up, "serve": serve}) as running:

        def are_up() -> bool:
            targets = running.get("targets")["activeTargets"]
            return len(targets) == 2 and all(one["health"] == "up" for one in targets)

        wait_for("both targets", are_up)
        yield running


@pytest.mark.parametrize("name", [INFERENCE, FLEET])
def test_every_metric_and_label_of_a_dashboard_is_exported(name: str, up: str, serve: str) -> None:
    there = exported(up), exported(serve)
    queries = panel_queries(name)
    assert queries
    for query in queries:
        check_names(query.expr, there)


def test_every_metric_and_label_of_a_rule_is_exported(up: str, serve: str) -> None:
    there = exported(up), exported(serve)
    rules = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        check_names(rule["expr"], there)
        assert set(re.findall(r"\w+:[\w:]+", re.sub(r'"[^"]*"', "", rule["expr"]))) <= recorded


def check_names(expr: str, programs: tuple[dict[str, set[str]], ...]) -> None:
    """Somebody exports each metric, with the labels that it is asked for."""
    for name in metric_names(expr):
        assert any(name in exported_there for exported_there in programs), f"{name} of {expr}"
    for name, labels in matched_labels(expr):
        of_programs = [there[name] for there in programs if name in there]
        if any(of_programs):  # a family without a sample shows no label
            found = set().union(*of_programs) | {"instance", "job"}
            assert labels <= found, f"{name} of {expr}: {labels - found}"


@pytest.mark.parametrize("panel", PANELS)
def test_each_query_of_a_panel_gives_what_its_legend_names(
    panel: str, watching: Prometheus, serve: str
) -> None:
    query: PanelQuery = PANELS[panel]
    if query.panel in WITHOUT_DATA:
        watching.query(query.expr)
        return
    series = wait_for(panel, lambda: watching.query(query.expr), lambda: predict(serve))
    for one in series:
        assert query.legend_labels <= one["metric"].keys()


def test_the_values_of_variables_are_there(watching: Prometheus, up: str, serve: str) -> None:
    def instances(metric: str) -> set[str]:
        return {one["metric"]["instance"] for one in watching.query(metric)}

    # A look that came too late leaves a gap until the next.
    for metric, url in (("visiondyno_model_info", serve), ("visiondyno_up", up)):
        found = wait_for(metric, lambda metric=metric: instances(metric))
        assert found == {url.removeprefix("http://")}


def test_the_rules_are_loaded_and_computed_and_all_is_well(watching: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in watching.get("rules")["groups"] for rule in group["rules"]]

    wait_for("an evaluation", lambda: all(rule["health"] != "unknown" for rule in rules()))
    expected = {
        rule.get("record", rule.get("alert"))
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
    }
    assert {rule["name"] for rule in rules()} == expected
    for rule in rules():
        assert rule["health"] == "ok", rule
        assert rule.get("state") != "firing", rule
    for record in (name for name in expected if ":" in name):
        wait_for(record, lambda record=record: watching.query(filled_in(record)))


def test_cost_and_energy_are_what_the_job_told(up: str, watching: Prometheus) -> None:
    jobs = httpx.get(f"{up}/api/jobs").json()["jobs"]
    (job,) = (one for one in jobs if one["state"] == "COMPLETED")
    answer = httpx.get(f"{up}/api/jobs/{job['id']}").json()["answer"]
    wait_for("the cost", lambda: watching.query("visiondyno_job_cost_usd_total"))
    (cost,) = watching.query("visiondyno_job_cost_usd_total")
    assert cost["metric"]["kind"] == "runsync"
    assert float(cost["value"][1]) == pytest.approx(answer["executionTime"] / 3.6e6 * 0.40)
    (model,) = answer["output"]["comparison"]["models"]
    told = model["measures"]["energy_joules_per_image"]
    (energy,) = watching.query("visiondyno_job_energy_joules_total")
    assert energy["metric"]["source"] == ("estimate" if told["estimated"] else "counter")
    assert float(energy["value"][1]) == pytest.approx(told["value"] * told["n"])


def test_access_log_and_trace_of_a_real_job_tell_of_the_same(
    up: str, home: Path, collector: OtlpCollector
) -> None:
    lines = [json.loads(line) for line in (home / "access.log").read_text().splitlines()]
    (line,) = (one for one in lines if one["request_id"] == "benchmark-1")
    assert (line["status"], line["route"]) == (200, "/v2/{endpoint}/runsync")
    spans = collector.wait(lambda all_: any(one.name == "job runsync" for one in all_))
    jobs = [one for one in spans if one.name == "job runsync"]
    (job,) = (one for one in jobs if attributes_of(one)["visiondyno.job.id"] == line["job_id"])
    assert job.trace_id.hex() == line["trace_id"]
    (run,) = (one for one in spans if one.parent_span_id == job.span_id and one.name == "run")
    assert attributes_of(run)["visiondyno.worker.id"]


def test_access_log_and_trace_of_a_prediction_tell_of_the_same(
    serve: str, serve_home: Path, collector: OtlpCollector
) -> None:
    request_id = predict(serve).headers["x-request-id"]

    def line() -> Any:
        lines = map(json.loads, (serve_home / "access.log").read_text().splitlines())
        return next((one for one in lines if one["request_id"] == request_id), None)

    told = wait_for("the line", line)
    assert (told["status"], told["route"]) == (200, "/predict")

    def of_trace(spans: list[Any]) -> dict[str, Any]:
        return {one.name: one for one in spans if one.trace_id.hex() == told["trace_id"]}

    spans = of_trace(collector.wait(lambda all_: "POST /predict" in of_trace(all_)))
    request = spans.pop("POST /predict")
    assert attributes_of(request)["visiondyno.request.id"] == request_id
    assert {"queue", "decode", "preprocess", "inference", "postprocess"} <= spans.keys()
    for stage in spans.values():
        assert stage.parent_span_id == request.span_id
        assert stage.end_time_unix_nano >= stage.start_time_unix_nano
    assert "visiondyno-serve" in {one["service.name"] for one in collector.resources}


def test_every_line_that_a_server_and_its_supervisor_log_is_json(home: Path, up: str) -> None:
    (worker,) = httpx.get(f"{up}/api/workers").json()["workers"]
    os.kill(worker["pid"], signal.SIGKILL)

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (home / "log").read_text().splitlines()]

    (died,) = wait_for("the supervisor's word", lines)
    assert died["logger"] == "visiondyno.executors.supervisor"
    assert died["level"] == "WARNING"
    assert worker["name"] in died["message"]
