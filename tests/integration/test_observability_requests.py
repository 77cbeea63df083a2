"""What the API tells of its requests: ids, access log, traces at a real collector."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from live_api import LiveApi
from otlp_collector import OtlpCollector, attributes_of
from visiondyno.api.app import make_api
from visiondyno.errors import SpecError
from visiondyno.server import serve
from visiondyno.settings import Settings, load_settings
from visiondyno.telemetry.access import AccessLog
from visiondyno.telemetry.ids import bound_ids
from visiondyno.telemetry.traces import Stage, start_tracing

ECHO = {"input": {"operation": "echo", "say": "x"}}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, INTERNAL, CONSUMER = 2, 1, 5  # opentelemetry.proto.trace.v1.Span.SpanKind
ERROR = 2  # Status.StatusCode


class TellingApi(LiveApi):
    """The API with an access log, and traces to the collector that the environment names."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, rate_limit_per_minute=0, cors_origins=("http://app.example",))
        self.access_file = folder / "access.log"

    def _make_app(self) -> FastAPI:
        self.access_log = AccessLog(str(self.access_file), "json")
        self.tracing = start_tracing("visiondyno")
        return make_api(self.service, access_log=self.access_log, tracing=self.tracing)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.access_log.close()
        self.tracing.close()

    def line_of(self, answer: httpx.Response) -> dict[str, Any]:
        """The answer's line, once it is written: that is after its last byte was sent."""
        request_id = answer.headers["x-request-id"]
        while True:  # pytest's own timeout ends it
            for text in self.access_file.read_text().splitlines():
                line: dict[str, Any] = json.loads(text)
                if line["request_id"] == request_id:
                    return line
            time.sleep(0.005)


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpCollector]:
    with OtlpCollector() as running:
        yield running


@pytest.fixture(scope="module")
def telling(
    collector: OtlpCollector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TellingApi]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with TellingApi(tmp_path_factory.mktemp("home")) as live:
            yield live


def spans_of(collector: OtlpCollector, request_id: str, *names: str) -> dict[str, Any]:
    """The spans of that request's trace by name, once those named have come."""

    def trace(spans: list[Any]) -> dict[str, Any]:
        ids = {
            one.trace_id
            for one in spans
            if attributes_of(one).get("visiondyno.request.id") == request_id
        }
        return {one.name: one for one in spans if one.trace_id in ids}

    return trace(collector.wait(lambda spans: set(names) <= trace(spans).keys()))


def test_every_answer_has_an_id_and_a_line(telling: TellingApi) -> None:
    with telling.client() as client:
        made = client.get("/health")
        assert re.fullmatch("[0-9a-f]{32}", made.headers["x-request-id"])
        line = telling.line_of(made)
        assert line | {"time": "", "took_ms": 0, "trace_id": ""} == {
            "time": "",
            "client": "127.0.0.1",
            "method": "GET",
            "path": "/health",
            "route": "/health",
            "status": 200,
            "took_ms": 0,
            "bytes": len(made.content),
            "request_id": made.headers["x-request-id"],
            "trace_id": "",
        }
        assert line["took_ms"] > 0
        given = client.get("/no/such/page?key=secret", headers={"X-Request-Id": "mine-1"})
        assert given.headers["x-request-id"] == "mine-1"
        line = telling.line_of(given)
        assert line["status"] == 404
        assert (line["route"], line["path"]) == ("unmatched", "/no/such/page")


def test_an_id_that_could_forge_a_line_is_replaced(telling: TellingApi) -> None:
    with telling.client() as client:
        for given in ("two words", "x" * 129, "", "\xe9"):
            answer = client.get("/health", headers={"X-Request-Id": given.encode("latin-1")})
            assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_an_answer_without_a_body_says_no_bytes(telling: TellingApi) -> None:
    with telling.client() as client:
        answer = client.head("/health")
    line = telling.line_of(answer)
    assert (line["method"], line["bytes"]) == ("HEAD", 0)


def test_the_line_of_a_job_has_its_id(telling: TellingApi) -> None:
    with telling.client() as client:
        submitted = client.post("/v2/default/runsync", json=ECHO)
        job_id = submitted.json()["id"]
        asked = client.get(f"/v2/default/status/{job_id}")
        other = client.get("/health")
    assert telling.line_of(submitted)["job_id"] == job_id
    assert telling.line_of(asked)["job_id"] == job_id
    assert "job_id" not in telling.line_of(other)


def test_log_lines_carry_the_ids_of_their_request(
    telling: TellingApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []

    class Watching(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            seen.append(dict(bound_ids()))

    async def failing(*_: object, **__: object) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(telling.service.jobs, "counts", failing)
    handler = Watching()
    logging.getLogger("visiondyno.api.problems").addHandler(handler)
    try:
        with telling.client() as client:
            answer = client.get("/metrics", headers={"X-Request-Id": "mine-2"})
    finally:
        logging.getLogger("visiondyno.api.problems").removeHandler(handler)
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "mine-2"
    (ids,) = seen
    assert ids["request_id"] == "mine-2"
    assert telling.line_of(answer)["trace_id"] == ids["trace_id"]


def test_a_browser_may_send_and_read_ids(telling: TellingApi) -> None:
    origin = {"Origin": "http://app.example"}
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-request-id, traceparent",
    }
    with telling.client() as client:
        assert client.options("/v2/default/run", headers=origin | asked).status_code == 200
        answer = client.get("/health", headers=origin)
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()


def test_a_job_is_in_the_trace_of_its_caller(telling: TellingApi, collector: OtlpCollector) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "traced-1"}
    with telling.client() as client:
        answer = client.post("/v2/default/runsync", json=ECHO, headers=headers).json()
    spans = spans_of(
        collector, "traced-1", "POST /v2/{endpoint}/runsync", "job runsync", "queue", "run"
    )
    request = spans["POST /v2/{endpoint}/runsync"]
    job, queue, run = (spans[name] for name in ("job runsync", "queue", "run"))
    assert {one.trace_id.hex() for one in spans.values()} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert job.parent_span_id == request.span_id
    assert {queue.parent_span_id, run.parent_span_id} == {job.span_id}
    assert (request.kind, job.kind, run.kind) == (SERVER, CONSUMER, INTERNAL)
    told = attributes_of(request)
    assert told["http.route"] == "/v2/{endpoint}/runsync"
    assert told["http.response.status_code"] == 200
    assert told["visiondyno.job.id"] == attributes_of(job)["visiondyno.job.id"] == answer["id"]
    assert attributes_of(job)["visiondyno.job.state"] == "COMPLETED"
    ran_ms = (run.end_time_unix_nano - run.start_time_unix_nano) / 1e6
    assert ran_ms == pytest.approx(answer["executionTime"], abs=1)
    assert job.start_time_unix_nano == queue.start_time_unix_nano
    assert job.end_time_unix_nano == run.end_time_unix_nano
    assert collector.resources[0]["service.name"] == "visiondyno"
    assert collector.resources[0]["deployment.environment.name"] == "test"


def test_without_a_caller_a_request_begins_a_trace(
    telling: TellingApi, collector: OtlpCollector
) -> None:
    for given in ({}, {"traceparent": "odd"}):
        request_id = f"own-{len(given)}"
        with telling.client() as client:
            answer = client.get("/health", headers={"X-Request-Id": request_id, **given})
        span = spans_of(collector, request_id, "GET /health")["GET /health"]
        assert not span.parent_span_id
        assert telling.line_of(answer)["trace_id"] == span.trace_id.hex()


def test_a_failed_job_and_a_defect_are_errors(
    telling: TellingApi, collector: OtlpCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object, **__: object) -> None:
        raise ZeroDivisionError("odd")

    refused = {"input": {"operation": "refuse"}}
    with telling.client() as client:
        client.post("/v2/default/runsync", json=refused, headers={"X-Request-Id": "failed"})
        monkeypatch.setattr(telling.service.jobs, "counts", failing)
        client.get("/metrics", headers={"X-Request-Id": "defect"})
    job = spans_of(collector, "failed", "job runsync")
    assert job["job runsync"].status.code == ERROR
    assert job["POST /v2/{endpoint}/runsync"].status.code != ERROR
    assert spans_of(collector, "defect", "GET /metrics")["GET /metrics"].status.code == ERROR


def test_a_job_whose_request_is_not_known_begins_a_trace(
    telling: TellingApi, collector: OtlpCollector
) -> None:
    whole = Stage("job of another server", 100.0, 103.0)
    telling.tracing.record_job(whole, [Stage("run", 101.0, 103.0)], is_error=False)
    spans = collector.wait(lambda all_: any(one.name == whole.name for one in all_))
    (job,) = (one for one in spans if one.name == whole.name)
    assert not job.parent_span_id
    assert (job.start_time_unix_nano, job.end_time_unix_nano) == (100 * 10**9, 103 * 10**9)


def test_stages_of_a_request_are_its_children(
    telling: TellingApi, collector: OtlpCollector
) -> None:
    tracing = telling.tracing
    stages = [
        Stage("decode", 5.0, 5.25, {"images": 2}),
        Stage("inference", 5.25, 6.0, {"batch": None}),
    ]
    with tracing.request("POST", {}, {"visiondyno.request.id": "staged"}) as span:
        tracing.record_stages(stages)
        span.answered("POST", "/predict", 200, {})
    spans = spans_of(collector, "staged", "POST /predict", "decode", "inference")
    parent = spans["POST /predict"].span_id
    assert spans["decode"].parent_span_id == spans["inference"].parent_span_id == parent
    assert attributes_of(spans["decode"])["images"] == 2
    assert not attributes_of(spans["inference"])
    assert spans["inference"].start_time_unix_nano == 5_250_000_000

    headers = {"traceparent": f"00-{TRACE[::-1]}-{PARENT}-01"}
    whole = Stage("ModelInfer", 7.0, 8.0, {"visiondyno.request.id": "after"})
    tracing.record_request_span(whole, [Stage("queue", 7.0, 7.5)], headers, is_error=True)
    spans = spans_of(collector, "after", "ModelInfer", "queue")
    assert spans["ModelInfer"].trace_id.hex() == TRACE[::-1]
    assert spans["ModelInfer"].parent_span_id.hex() == PARENT
    assert spans["ModelInfer"].status.code == ERROR
    assert spans["queue"].parent_span_id == spans["ModelInfer"].span_id


def test_an_access_log_that_can_not_be_opened_stops_the_server_before_it_serves(
    tmp_path: Path,
) -> None:
    absent = tmp_path / "absent" / "access.log"
    settings = Settings(home=tmp_path, port=0, access_log=str(absent), _env_file=None)
    with pytest.raises(SpecError, match="--access-log"):
        asyncio.run(serve(settings))
    assert not (tmp_path / "store.sqlite").exists()


def test_a_log_format_that_there_is_not_is_a_mistake_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VISIONDYNO_LOG_FORMAT", "xml")
    with pytest.raises(SpecError, match=r"log_format.*'text' or 'json'"):
        load_settings(_env_file=None)
