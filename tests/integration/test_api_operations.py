"""Health, readiness, metrics, documentation; and that whatever comes in gets a clean answer."""

import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from live_api import LiveApi
from visiondyno.errors import StorageFull, TransportDown, VisionDynoError

ECHO = {"input": {"operation": "echo", "say": "x"}}


def metrics_of(client: httpx.Client) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name and label values."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = tuple(sample.labels.values())
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def fail_with(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, error: Exception) -> None:
    async def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(target, name, failing)


def test_a_live_server_says_so(client: httpx.Client) -> None:
    assert client.get("/health").json()["status"] == "ok"
    ready = client.get("/ready")
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True,
        "checks": {"store": "ok", "queue": "ok", "workers": "ok", "disk": "ok"},
    }


def test_a_server_that_can_not_work_says_what_is_missing(
    api: LiveApi, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down() -> None:
        raise TransportDown("The database can't be reached; start it.")

    monkeypatch.setattr(api.service.store, "check", down)
    ready = client.get("/ready")
    assert ready.status_code == 503
    assert ready.json()["ready"] is False
    assert ready.json()["checks"]["store"] == "The database can't be reached; start it."
    assert client.get("/health").status_code == 200


def test_metrics_count_jobs_requests_and_times(client: httpx.Client) -> None:
    before = metrics_of(client)
    for _ in range(3):
        assert client.post("/v2/default/runsync", json=ECHO).json()["status"] == "COMPLETED"
    client.post("/v2/default/runsync", json={"input": {"operation": "refuse"}})
    client.get("/v2/default/status/unknown")
    client.get("/no/such/page")
    after = metrics_of(client)

    def risen(name: str, *labels: str) -> float:
        return after[name][labels] - before.get(name, {}).get(labels, 0.0)

    assert risen("visiondyno_jobs", "COMPLETED") == 3
    assert risen("visiondyno_jobs", "FAILED") == 1
    assert risen("visiondyno_job_queue_seconds_count", "runsync") == 4
    assert risen("visiondyno_job_run_seconds_count", "runsync", "COMPLETED") == 3
    requests = "visiondyno_http_requests_total"
    assert risen(requests, "POST", "/v2/{endpoint}/runsync", "200") == 4
    assert risen(requests, "GET", "/v2/{endpoint}/status/{job_id}", "404") == 1
    assert risen(requests, "GET", "unmatched", "404") == 1
    assert after["visiondyno_queue_depth"][()] == 0
    assert after["visiondyno_queue_oldest_seconds"][()] == 0
    assert after["visiondyno_up"] == {("store",): 1, ("queue",): 1}


def test_metrics_show_what_waits(client: httpx.Client) -> None:
    busy = client.post("/v2/default/run", json={"input": {"operation": "until stopped"}}).json()
    for _ in range(3):
        client.post("/v2/default/run", json=ECHO)
    with client.stream("GET", f"/api/jobs/{busy['id']}/events") as events:
        assert any('"started"' in line for line in events.iter_lines())
    shown = metrics_of(client)
    assert shown["visiondyno_queue_depth"][()] == 3
    assert shown["visiondyno_queue_oldest_seconds"][()] > 0
    assert shown["visiondyno_jobs"][("IN_PROGRESS",)] == 1
    client.post("/v2/default/purge-queue")
    client.post(f"/v2/default/cancel/{busy['id']}")


def test_what_can_not_be_measured_is_left_out_of_the_metrics(
    api: LiveApi, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = TransportDown("down")
    fail_with(monkeypatch, api.service.jobs, "counts", down)
    fail_with(monkeypatch, api.service.jobs, "workers", down)
    shown = metrics_of(client)
    assert shown["visiondyno_up"] == {("store",): 0, ("queue",): 0}
    assert "visiondyno_jobs" not in shown
    assert "visiondyno_queue_depth" not in shown
    assert "visiondyno_workers" not in shown
    assert "visiondyno_http_requests_total" in shown


TROUBLES = {
    "transport": (TransportDown("The queue is away; it will be back."), 503, "transport_down"),
    "storage": (StorageFull("The disk is full; free some."), 507, "storage_full"),
    "ours": (VisionDynoError("odd"), 500, "internal"),
    "defect": (ZeroDivisionError("secret detail"), 500, "internal"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_troubles_of_ours_are_problems_without_a_traceback(
    api: LiveApi,
    client: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
) -> None:
    error, status, code = TROUBLES[trouble]
    fail_with(monkeypatch, api.service.jobs, "submit", error)
    answer = client.post("/v2/default/run", json=ECHO)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.get("retry-after") == ("5" if status == 503 else None)
    problem = answer.json()
    assert problem["code"] == code
    assert problem["instance"] == "/v2/default/run"
    assert "Traceback" not in answer.text
    assert "secret" not in answer.text
    assert caplog.records


def test_the_documentation_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.findall(r"""(?:src|href)=["']?(?!/|\#)[^"'> ]+""", page.text)
    assert "<script" not in page.text
    for path, item in document["paths"].items():
        assert path in page.text
        for operation in item.values():
            assert f'id="{operation["operationId"]}"' in page.text
    for name in document["components"]["schemas"]:
        assert f'id="schema-{name}"' in page.text
    anchors = set(re.findall(r'href="#([^"]+)"', page.text))
    assert anchors <= set(re.findall(r'id="([^"]+)"', page.text))


def test_every_problem_has_its_paragraph(client: httpx.Client) -> None:
    page = client.get("/docs/errors").text
    answers = [
        client.get("/no/such/page"),
        client.delete("/health"),
        client.post("/v2/default/run", content=b"{", headers={"content-type": "application/json"}),
        client.post("/v2/default/run", json={}),
        client.post("/submit/task2", json={}),
    ]
    assert [answer.status_code for answer in answers] == [404, 405, 400, 422, 415]
    for answer in answers:
        problem = answer.json()
        assert set(problem) - {"errors"} == {
            "type",
            "title",
            "status",
            "detail",
            "instance",
            "code",
        }
        assert problem["status"] == answer.status_code
        path, anchor = problem["type"].split("#")
        assert path == "/docs/errors"
        assert f'id="{anchor}"' in page


def test_the_openapi_document_names_each_operation_and_its_problems(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    operations = [
        (path, operation) for path, item in document["paths"].items() for operation in item.values()
    ]
    ids = [operation["operationId"] for _, operation in operations]
    assert len(ids) == len(set(ids)) == 36
    for path, operation in operations:
        assert operation["tags"], path
        assert operation.get("summary"), path
        guarded = path.split("/")[1] in {"v2", "api", "submit", "blobs"}
        if guarded and path != "/submit/health":
            assert operation["security"] == [{"ApiKey": []}], path
            assert {"401", "403", "413", "422", "429", "500", "503"} <= set(operation["responses"])
        for status, response in operation["responses"].items():
            if int(status) >= 400 and path != "/ready":
                assert list(response["content"]) == ["application/problem+json"], (path, status)


PATHS = [
    "/%00",
    "/v2/%00/run",
    "/v2/default/status/%00",
    "/v2/default/status/%ff%fe",
    "/v2/default/status/%ed%a0%80",
    "/v2/default/status/%F0%9F%9A%97",
    "/v2/default/status/" + "a" * 5000,
    "/v2/default/status/..%2f..%2f..%2fetc%2fpasswd",
    "/v2//default//run",
    "/../../etc/passwd",
    "/api/jobs/%0d%0aSet-Cookie:%20a=b",
    "/api/jobs?before=%00&limit=%ff",
    "/api/jobs?endpoint=%00",
    "/api/jobs?endpoint=%ed%a0%80",
    "/api/workers/%00/drain",
    "/blobs/%00",
    "/submit/%00/leaderboard",
    "/docs/../metrics",
]


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_odd_paths_get_a_clean_answer(api: LiveApi, client: httpx.Client, path: str) -> None:
    for method in ("GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "BREW"):
        request = client.build_request(method, api.url)
        request.url = httpx.URL(api.url).copy_with(raw_path=path.encode())
        answer = client.send(request)
        assert answer.status_code < 500, method
        assert "set-cookie" not in answer.headers


BODIES: list[tuple[bytes, str]] = [
    (b'{"input": NaN}', "application/json"),
    (b'{"input": {"x": 1e999}}', "application/json"),
    (b'{"input": {"x": "\\ud800"}}', "application/json"),
    (b'{"input": {"x": "\xff"}}', "application/json"),
    (b"[" * 100_000, "application/json"),
    (b'{"input":' * 10_000, "application/json"),
    (b'{"input": {"a": ' + b"9" * 5000 + b"}}", "application/json"),
    (b"", "application/json"),
    (b'{"input": {}}', "text/plain"),
    (b'{"input": {}}', ""),
    (b'{"input": {}}', "application/json; charset=utf-16"),
    (b'{"input": {}}', "\xff/\xfe"),
    (b"input=1", "application/x-www-form-urlencoded"),
    (b"--B--", "multipart/form-data; boundary=B"),
]


@pytest.mark.parametrize(("body", "kind"), BODIES, ids=range(len(BODIES)))
def test_odd_bodies_get_a_clean_answer(client: httpx.Client, body: bytes, kind: str) -> None:
    headers = {"content-type": kind.encode("latin-1")}
    for path in ("/v2/default/run", "/v2/default/runsync?wait=1000", "/api/benchmark"):
        answer = client.post(path, content=body, headers=headers)
        assert answer.status_code < 500, path
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
        if body.startswith(b'{"input": {}}') and "json" not in kind:
            assert "Content-Type: application/json" in answer.json()["detail"]


@pytest.mark.parametrize("text", ["\x00", "𝄞", "\u2028", "\ufffe", "a\r\nb", "e\u0301"])
def test_odd_text_comes_back_as_it_went(client: httpx.Client, text: str) -> None:
    body = {"input": {"operation": "echo", "say": text}}
    job = client.post("/v2/default/runsync", json=body).json()
    assert job["output"] == {"said": text}
    assert client.get(f"/api/jobs/{job['id']}").json()["input"]["say"] == text
    events = client.get(f"/api/jobs/{job['id']}/events").text
    assert events.count("\n\n") == events.count("id: ")


def raw(api: LiveApi, request: bytes) -> bytes:
    """What the server answers to these very bytes, until it closes or says nothing more."""
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while piece := connection.recv(65_536):
            found += piece
        return found


HEAD = b"POST /v2/default/run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
REQUESTS = [
    HEAD + b"Content-Length: 99999999999999999999999999\r\n\r\n{}",
    HEAD + b"Content-Length: -1\r\n\r\n{}",
    HEAD + b"Content-Length: x\r\n\r\n{}",
    HEAD + b"Content-Length: 10\r\n\r\n{}",
    HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    HEAD + b"\r\n{}",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    HEAD + b"Authorization: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
    HEAD + b"X-Long: " + b"x" * 200_000 + b"\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
    b"",
]


@pytest.mark.parametrize("request_bytes", REQUESTS, ids=range(len(REQUESTS)))
def test_odd_requests_get_a_clean_answer(
    api: LiveApi, client: httpx.Client, request_bytes: bytes
) -> None:
    answer = raw(api, request_bytes)
    assert not re.match(rb"HTTP/1\.1 5", answer), answer[:500]
    assert client.get("/health").status_code == 200


def test_a_server_behind_a_prefix_is_guarded_all_the_same(tmp_path: Path) -> None:
    with LiveApi(tmp_path, require_keys=True, root_path="/dyno") as api, api.client() as client:
        for path in ("/api/jobs", "/api/jobs/", "/v2/default/health"):
            assert client.get(path).status_code == 401
        assert client.get("/health").status_code == 200
        key = api.make_key()
        assert client.get("/api/jobs", headers={"Authorization": key}).status_code == 200
